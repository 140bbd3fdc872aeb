package mesh_test

import (
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// has is a Node that says which WireGuard key is its own.
func has(s *speaker, key keys.PublicKey) mesh.ClusterNode {
	n := s.node()
	n.PublicKey = key
	return n
}

// Who announces another Node's key before its owner gains nothing by it: what the Node says of its key counts.
func TestKeyOfAnotherNode(t *testing.T) {
	t.Parallel()
	type said = func(*record.Record)
	for name, tc := range map[string]struct {
		nodes func(a, b, c *speaker) []mesh.ClusterNode // a is who hears them
		b     func(a, c *speaker) said                  // what b says, before c does
		owner string                                    // who keeps the key from b; "": nobody, and b keeps it from c
	}{
		"one Node has it": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{a.node(), has(b, b.key()), has(c, c.key())}
		}, func(_, c *speaker) said { return useKey(c) }, "c"},
		"one has it, and it is b's next": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{a.node(), has(b, b.key()), has(c, c.key())}
		}, func(_, c *speaker) said {
			return func(r *record.Record) {
				r.Generations = append(r.Generations, record.Generation{Number: 1, Key: c.key()})
			}
		}, "c"},
		"the Node of who hears it has it": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{has(a, a.key()), b.node(), c.node()}
		}, func(a, _ *speaker) said { return useKey(a) }, "a"},
		"b's Node has it": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{a.node(), has(b, c.key()), c.node()}
		}, func(_, c *speaker) said { return useKey(c) }, ""},
		"two Nodes have it": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{a.node(), has(c, c.key()), has(b, c.key())}
		}, func(_, c *speaker) said { return useKey(c) }, ""},
		"no Node has it": {func(a, b, c *speaker) []mesh.ClusterNode {
			return []mesh.ClusterNode{a.node(), b.node(), c.node()}
		}, func(_, c *speaker) said { return useKey(c) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
			w.cluster.set(tc.nodes(w.self, b, c)...)
			first := b.says(t, tc.b(w.self, c))
			w.air.say(first)
			a := w.start(t)
			s := a.pass()
			_, counts := planned(w.kernel)["b"]
			if tc.owner == "" && !counts {
				t.Errorf("b is refused: %+v", peer(s, "b"))
			}
			if p := peer(s, "b"); tc.owner != "" && (counts || s.Counters.Refused["key"] != 1 || p == nil ||
				!strings.Contains(p.Reason, "WireGuard key of node "+tc.owner)) {
				t.Errorf("b is %+v, refused are %v; want its key to belong to %s", p, s.Counters.Refused, tc.owner)
			}
			w.air.say(first, c.says(t, nil))
			s = a.pass()
			if key, counts := planned(w.kernel)["c"]; counts == (tc.owner == "") || counts && key != c.key() {
				t.Errorf("c counts: %t, with the key %s; its own is %s", counts, key, c.key())
			}
			if p := peer(s, "c"); tc.owner == "" && (p == nil || !strings.Contains(p.Reason, "WireGuard key of node b")) {
				t.Errorf("c is %+v, want its key to belong to b, which announced it first", p)
			}
		})
	}
}

// A record that counts stays, and its node may say more, whoever writes its key on a Node afterwards: else that would
// be a way to cut nodes off.
func TestKeyThatCountsStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil))
	a := w.start(t)
	a.pass()
	w.cluster.set(w.self.node(), b.node(), has(c, b.key()))
	a.pass()
	if got := planned(w.kernel)["b"]; got != b.key() {
		t.Fatalf("b's key is %v after another Node took it, want %v", got, b.key())
	}
	before := w.kernel.text("tunnels")
	w.air.say(b.says(t, func(r *record.Record) { r.MTU = 1400 }), c.says(t, useKey(b)))
	s := a.pass()
	if got := planned(w.kernel); got["b"] != b.key() || len(got) != 1 || w.kernel.text("tunnels") == before {
		t.Errorf("peers are %v, and the tunnels changed: %t; want b alone, as it says it is now", got, w.kernel.text("tunnels") != before)
	}
	if p := peer(s, "c"); p == nil || !strings.Contains(p.Reason, "WireGuard key of node b") {
		t.Errorf("c is %+v, want it refused", p)
	}
}

// Without all Nodes an annotation says nothing: there may be another Node that has the same key. A node that counts
// changes its keys also while the API server is away.
func TestKeyOfAnotherNodeWithoutKubernetes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil))
	a := w.start(t)
	w.cluster.set(has(c, c.key()))
	w.cluster.mu.Lock()
	w.cluster.state.Synced = false
	w.cluster.mu.Unlock()
	w.air.say(b.says(t, func(r *record.Record) { r.Generations = []record.Generation{{Number: 1, Key: c.key()}} }))
	a.pass()
	if got := planned(w.kernel)["b"]; got != c.key() {
		t.Errorf("b's key is %v, want its new one, %v", got, c.key())
	}
}
