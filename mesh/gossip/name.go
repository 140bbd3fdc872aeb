package gossip

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	// maxNodeName is the longest node name in bytes: a DNS subdomain, as Kubernetes names Nodes (RFC 1123).
	maxNodeName = 253
	// startSize is how many random bytes tell the starts of a node apart.
	startSize = 8
)

// memberName returns a new name for a member of node.
func memberName(node string) string {
	start := make([]byte, startSize)
	// crypto/rand never fails: it ends the program where the kernel has no randomness.
	_, _ = rand.Read(start)
	return node + "/" + hex.EncodeToString(start)
}

// nodeOf returns the node that a member's name belongs to. Anybody with the gossip key chooses member names.
func nodeOf(member string) (string, bool) {
	node, start, found := strings.Cut(member, "/")
	if !found || len(start) != hex.EncodedLen(startSize) || checkNodeName(node) != nil {
		return "", false
	}
	return node, true
}

// checkNodeName refuses what can't be the name of a Node or a host, so that names can be printed and sent as
// they are.
func checkNodeName(node string) error {
	if node == "" || len(node) > maxNodeName {
		return fmt.Errorf("node name %.20q has %d bytes, want 1 to %d", node, len(node), maxNodeName)
	}
	for _, c := range []byte(node) {
		if c <= ' ' || c > '~' || c == '/' {
			return fmt.Errorf("node name %q holds a character that host names don't have: %q", node, c)
		}
	}
	return nil
}
