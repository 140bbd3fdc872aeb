// Package stolen is what somebody can do who has a node's identity and the gossip key: sign what he likes, and make the
// command thief announce it, and read what others announce.
package stolen

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// Node is a node in a thief's hands.
type Node struct {
	Name    string
	Address netip.Addr

	identity keys.Identity
	sequence uint64
	members  int
}

// Take opens a copy of the node's key store.
func Take(t testing.TB, name string, address netip.Addr, keyStore []byte) *Node {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, keys.FileName), keyStore, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &Node{Name: name, Address: address, identity: store.Identity(), sequence: 1 << 50}
}

// Sign makes a record under a node's name, with a pod CIDR; its sequence number is above all that the node itself makes.
func (n *Node) Sign(t testing.TB, node string, cidr netip.Prefix) []byte {
	t.Helper()
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return n.SignKey(t, node, cidr, keys.PublicKey(private.PublicKey()))
}

// SignKey makes such a record with a WireGuard key, whoever's that is.
func (n *Node) SignKey(t testing.TB, node string, cidr netip.Prefix, key keys.PublicKey) []byte {
	t.Helper()
	n.sequence++
	raw, err := record.Sign(node, record.Record{
		Identity: n.identity.Public(), Sequence: n.sequence, Generations: []record.Generation{{Number: 7, Key: key}},
		Endpoint4: netip.AddrPortFrom(n.Address, contract.BasePort), PodCIDR4: cidr,
	}, n.identity)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Member are the arguments of the command thief: on the stolen node, with the gossip key in a file, it joins by nodes'
// addresses under the name of a node, or that of a member, which has a slash in it. It says that it is where a node's member
// is at another address, if that is valid, and else where it is.
func (n *Node) Member(keyFile string, by []netip.Addr, claimed netip.Addr, name string, meta []byte) []string {
	n.members++
	own := netip.AddrPortFrom(n.Address, uint16(contract.GossipPort+10+n.members))
	said := own
	if claimed.IsValid() {
		said = netip.AddrPortFrom(claimed, contract.GossipPort)
	}
	if !strings.Contains(name, "/") {
		name = fmt.Sprintf("%s/%016x", name, n.members)
	}
	var members []string
	for _, address := range by {
		members = append(members, netip.AddrPortFrom(address, contract.GossipPort).String())
	}
	return []string{
		keyFile, own.String(), said.String(), strings.Join(members, ","), name,
		base64.StdEncoding.EncodeToString(meta),
	}
}

// Accomplice are the arguments of the command thief with which it announces nothing, and hands on a record as a node's.
func (n *Node) Accomplice(keyFile string, by []netip.Addr, node string, record []byte) []string {
	return append([]string{"--hand-on", node}, n.Member(keyFile, by, netip.Addr{}, "accomplice", record)...)
}

// Crowd are the arguments of the command thief with which it announces nothing, and hands on what is in a file.
func (n *Node) Crowd(keyFile string, by []netip.Addr, file string) []string {
	return append([]string{"--hand-on-file", file}, n.Member(keyFile, by, netip.Addr{}, "crowd", nil)...)
}

// Heard is the newest that the command thief has heard of a node, by what it printed: the name of its member, and its record.
func Heard(printed, node string) (member string, newest []byte, err error) {
	end := strings.LastIndexByte(printed, '\n')
	if end < 0 {
		return "", nil, errors.New("the thief hasn't joined yet")
	}
	lines := strings.Split(printed[:end], "\n")
	var members []struct {
		Name string
		Meta []byte
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &members); err != nil {
		return "", nil, fmt.Errorf("the thief says %q: %w", printed, err)
	}
	var sequence uint64
	for _, m := range members {
		if name, _, _ := strings.Cut(m.Name, "/"); name != node {
			continue
		}
		if record, err := record.Open(node, m.Meta); err == nil && record.Sequence >= sequence {
			member, newest, sequence = m.Name, m.Meta, record.Sequence
		}
	}
	if newest == nil {
		return "", nil, fmt.Errorf("nobody says a word as %s: %v", node, members)
	}
	return member, newest, nil
}
