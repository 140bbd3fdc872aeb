package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/keys"
)

func checkKeyring(ring keys.Keyring) error {
	if len(ring) == 0 {
		return errors.New("the gossip key is missing: gossip is never sent in the clear")
	}
	for i, key := range ring {
		if memberlist.ValidateKey(key) != nil {
			return fmt.Errorf("gossip key %d has %d bytes, want 16, 24 or 32", i+1, len(key))
		}
	}
	return nil
}

// makeKeyring makes a memberlist's keyring, which it has to itself.
func makeKeyring(ring keys.Keyring) (*memberlist.Keyring, error) {
	var secrets [][]byte
	for _, key := range ring {
		secrets = append(secrets, bytes.Clone(key))
	}
	made, err := memberlist.NewKeyring(secrets, secrets[0])
	if err != nil {
		return nil, fmt.Errorf("making the keyring: %w", err)
	}
	return made, nil
}

// SetKeyring changes the keys of running gossip: the first encrypts from now on, all decrypt. What comes in meanwhile
// is decrypted by the keys that are in both the old and the new keyring. The same keyring again changes nothing.
func (g *Gossip) SetKeyring(ring keys.Keyring) error {
	if err := checkKeyring(ring); err != nil {
		return fmt.Errorf("changing the gossip keyring: %w", err)
	}
	g.keying.Lock()
	defer g.keying.Unlock()
	before := keys.Keyring(g.keys.ring.GetKeys())
	if err := exchange(g.keys.ring, ring); err != nil {
		return fmt.Errorf("changing the gossip keyring: %w", err)
	}
	if now := keys.Keyring(g.keys.ring.GetKeys()); !now.Equal(before) {
		g.log.Info("gossip: keyring changed", "encrypts", keys.Fingerprint(now[0]), "decrypts", now.Fingerprints())
	}
	return nil
}

// exchange makes has what wants is, up to the order of the keys that only decrypt. At no moment is it without a key
// that encrypts and that it decrypts.
func exchange(has *memberlist.Keyring, wants keys.Keyring) error {
	for _, key := range wants {
		if err := has.AddKey(bytes.Clone(key)); err != nil {
			return err
		}
	}
	if !bytes.Equal(has.GetPrimaryKey(), wants[0]) { // else it would be put anew for nothing
		if err := has.UseKey(wants[0]); err != nil {
			return err
		}
	}
	all := keys.Keyring(has.GetKeys())
	first := slices.IndexFunc(all, func(key []byte) bool { return !wants.Has(key) })
	if first < 0 {
		return nil
	}
	// RemoveKey moves the keys behind the removed one in an array that others read without a lock. The last one has
	// none behind it. So those behind the first that goes are taken off from the end, and the wanted ones of them put
	// back; they are missing for microseconds, and mostly there are none.
	behind := slices.Clone(all[first:])
	for _, key := range slices.Backward(behind) {
		if err := has.RemoveKey(key); err != nil {
			return err
		}
	}
	for _, key := range behind {
		if wants.Has(key) {
			if err := has.AddKey(key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Keys returns the fingerprints of the keys, the one that encrypts first.
func (g *Gossip) Keys() []string { return keys.Keyring(g.keys.ring.GetKeys()).Fingerprints() }
