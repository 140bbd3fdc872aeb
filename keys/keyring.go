package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
)

// GossipKeySize is the length in bytes of a gossip key: AES-256 in memberlist.
const GossipKeySize = 32

// maxGossipKeys bounds a keyring: one in use, and some that come and go.
const maxGossipKeys = 8

// Keyring is the keys that gossip is encrypted with: the first encrypts, all decrypt. It prints as a placeholder.
type Keyring [][]byte

// NewKeyring returns a keyring with one new key.
func NewKeyring() (Keyring, error) {
	key := make([]byte, GossipKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("making a gossip key: %w", err)
	}
	return Keyring{key}, nil
}

// ParseKeyring reads a keyring's text: one key a line in standard base64, 32 bytes each, the one to encrypt with
// first. Empty lines and lines that begin with # are passed over. Errors name the line and never quote it.
func ParseKeyring(text []byte) (Keyring, error) {
	var ring Keyring
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key := make([]byte, GossipKeySize)
		if err := decodeKey(fmt.Sprintf("the gossip key in line %d", number), line, key); err != nil {
			return nil, err
		}
		if len(ring) == maxGossipKeys {
			return nil, fmt.Errorf("more than %d gossip keys", maxGossipKeys)
		}
		ring = append(ring, key)
	}
	if len(ring) == 0 {
		return nil, errors.New("there is no gossip key in it")
	}
	return ring, nil
}

// Text is what ParseKeyring reads. It is secret.
func (r Keyring) Text() []byte {
	var text []byte
	for _, key := range r {
		text = base64.StdEncoding.AppendEncode(text, key)
		text = append(text, '\n')
	}
	return text
}

// String hides the keys.
func (r Keyring) String() string { return fmt.Sprintf("(%d gossip keys)", len(r)) }

// Format hides the keys from all verbs of fmt.
func (r Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// MarshalText hides the keys.
func (r Keyring) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// LoadKeyring reads a keyring from a file.
func LoadKeyring(path string) (Keyring, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the gossip keyring: %w", err)
	}
	ring, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("the gossip keyring %s: %w", path, err)
	}
	return ring, nil
}

// Save writes the keyring to a file, mode 0600, in one step and durably. An empty one is an error: it would take the
// place of one that works.
func (r Keyring) Save(path string) error {
	if len(r) == 0 {
		return errors.New("writing the gossip keyring: there is no key in it")
	}
	if err := writeDurably(path, r.Text()); err != nil {
		return fmt.Errorf("writing the gossip keyring: %w", err)
	}
	return nil
}
