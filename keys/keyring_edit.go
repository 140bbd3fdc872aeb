package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// fingerprintSize is how much of a key's hash names it, in bytes.
const fingerprintSize = 4

// Fingerprint names a gossip key and doesn't tell it: the first 8 hex digits of its SHA-256.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:fingerprintSize])
}

// Fingerprints are those of the keys, in their order.
func (r Keyring) Fingerprints() []string {
	all := make([]string, len(r))
	for i, key := range r {
		all[i] = Fingerprint(key)
	}
	return all
}

// Has reports whether a key is in it.
func (r Keyring) Has(key []byte) bool {
	return slices.ContainsFunc(r, func(k []byte) bool { return bytes.Equal(k, key) })
}

// Shares reports whether a key is in both.
func (r Keyring) Shares(other Keyring) bool { return slices.ContainsFunc(r, other.Has) }

// Equal reports whether both have the same keys in the same order.
func (r Keyring) Equal(other Keyring) bool { return slices.EqualFunc(r, other, bytes.Equal) }

// Add returns the keyring with one more key behind the others: it decrypts only, unless it is the first of all.
func (r Keyring) Add(key []byte) (Keyring, error) {
	switch {
	case len(key) != GossipKeySize:
		return nil, fmt.Errorf("the new gossip key has %d bytes, want %d", len(key), GossipKeySize)
	case r.Has(key):
		return nil, fmt.Errorf("the gossip key %s is in the keyring already", Fingerprint(key))
	case len(r) >= maxGossipKeys:
		return nil, fmt.Errorf("there are %d gossip keys already, as many as can be: remove one first", len(r))
	}
	return append(slices.Clone(r), bytes.Clone(key)), nil
}

// Use returns the keyring with the key of this fingerprint first: it encrypts.
func (r Keyring) Use(fingerprint string) (Keyring, error) {
	i, err := r.find(fingerprint)
	if err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(r), func(key []byte) bool { return bytes.Equal(key, r[i]) })
	return append(Keyring{r[i]}, rest...), nil
}

// Remove returns the keyring without the key of this fingerprint. The key that encrypts can't be removed, so there is
// always one.
func (r Keyring) Remove(fingerprint string) (Keyring, error) {
	i, err := r.find(fingerprint)
	switch {
	case err != nil:
		return nil, err
	case len(r) == 1:
		return nil, errors.New("it is the only gossip key")
	case i == 0:
		return nil, errors.New("it is the gossip key that encrypts: use another one first")
	}
	return slices.DeleteFunc(slices.Clone(r), func(key []byte) bool { return bytes.Equal(key, r[i]) }), nil
}

func (r Keyring) find(fingerprint string) (int, error) {
	i := slices.Index(r.Fingerprints(), strings.ToLower(fingerprint))
	if i < 0 {
		return 0, errors.New("the keyring has no gossip key of this fingerprint")
	}
	return i, nil
}
