// Package keystest makes gossip keyrings that tests can write and read in letters.
package keystest

import (
	"bytes"

	"github.com/weaveguard/weaveguard/keys"
)

// Ring makes a keyring of one key for each letter.
func Ring(letters string) keys.Keyring {
	var ring keys.Keyring
	for _, letter := range []byte(letters) {
		ring = append(ring, bytes.Repeat([]byte{letter}, keys.GossipKeySize))
	}
	return ring
}

// Letters is the reverse of Ring.
func Letters(ring keys.Keyring) string {
	var letters []byte
	for _, key := range ring {
		letters = append(letters, key[0])
	}
	return string(letters)
}
