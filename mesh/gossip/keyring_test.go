package gossip_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/gossip"
)

func gossipKey(letter byte) []byte { return bytes.Repeat([]byte{letter}, keys.GossipKeySize) }

func (n *node) setKeys(t testing.TB, ring ...[]byte) {
	t.Helper()
	if err := n.SetKeyring(ring); err != nil {
		t.Fatalf("%s: %v", n.name, err)
	}
	if got, want := strings.Join(n.Keys(), " "), strings.Join(keys.Keyring(ring).Fingerprints(), " "); got != want {
		t.Errorf("%s has the keys %s, want %s", n.name, got, want)
	}
}

// The key of a running mesh is changed node by node: news arrives after each single step, and nobody is lost.
func TestKeyringOfRunningMesh(t *testing.T) {
	nodes := mesh(t, 4)
	old, young := meshKey, gossipKey('y')
	round := 0
	spread := func(what string) {
		t.Helper()
		round++
		record := func(n *node) []byte { return fmt.Appendf(nil, "%s says %d", n.name, round) }
		for _, n := range nodes {
			n.announce(t, record(n))
		}
		eventually(t, "all hear all "+what, func() bool { return allHear(nodes, record) })
	}
	for _, step := range [][][]byte{{old, young}, {young, old}, {young}} {
		for _, n := range nodes {
			n.setKeys(t, step...)
			spread(fmt.Sprintf("when %s has %v", n.name, n.Keys()))
		}
	}
	for _, n := range nodes {
		if log := n.log.String(); strings.Contains(log, "nodes went") || strings.Contains(log, "suspect") {
			t.Errorf("%s lost somebody", n.name)
		}
		if counters := n.Counters(); counters["gossip-undecryptable"] != 0 {
			t.Errorf("%s refused what others said: %v", n.name, counters)
		}
		if n := strings.Count(n.log.String(), "keyring changed"); n != 3 {
			t.Errorf("%d lines about the keyring, want 3", n)
		}
		n.setKeys(t, young)
		if n := strings.Count(n.log.String(), "keyring changed"); n != 3 {
			t.Error("the same keyring again was logged")
		}
		for _, key := range [][]byte{old, young} {
			if bytes.Contains([]byte(n.log.String()), key) {
				t.Errorf("the log of %s has a key", n.name)
			}
		}
	}
	stranger := start(t, "n9", 9)
	stranger.announce(t, []byte("with the old key"))
	stranger.Seek([]gossip.Target{nodes[0].target()})
	eventually(t, "who has the old key alone is refused", func() bool { return nodes[0].Counters()["gossip-undecryptable"] > 0 })
	if nodes[0].sees("n9") || len(stranger.Members()) != 1 {
		t.Error("who has the old key alone was let in")
	}
}

// Any keyring follows on any other, also while packets come in.
func TestSetKeyring(t *testing.T) {
	nodes := mesh(t, 2)
	n := nodes[0]
	a, b, c, d := gossipKey('a'), gossipKey('b'), gossipKey('c'), gossipKey('d')
	for _, ring := range [][][]byte{
		{meshKey, a, b, c}, {meshKey, b, c}, {meshKey, c}, {a, meshKey}, {b, meshKey, a}, {c, d, a, meshKey}, {d, meshKey}, {meshKey},
	} {
		if err := n.SetKeyring(ring); err != nil {
			t.Fatal(err)
		}
		got, want := n.Keys(), keys.Keyring(ring).Fingerprints()
		if got[0] != want[0] || len(got) != len(want) {
			t.Errorf("has %v, want %v", got, want)
		}
		for _, key := range want {
			if !strings.Contains(strings.Join(got, " "), key) {
				t.Errorf("has %v, want %v", got, want)
			}
		}
	}
	for _, bad := range []keys.Keyring{nil, {}, {[]byte("short")}, {a, nil}} {
		if err := n.SetKeyring(bad); err == nil || strings.Contains(err.Error(), "short") {
			t.Errorf("a bad keyring: %v", err)
		}
	}
	if got := n.Keys(); len(got) != 1 || got[0] != keys.Fingerprint(meshKey) {
		t.Errorf("a refused keyring changed something: %v", got)
	}
}
