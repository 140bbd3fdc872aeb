package mesh_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// saysWithin is how soon the status tells of somebody who speaks for another.
const saysWithin = 5 * time.Second

// by is a record as a member at another address announces it.
func by(h mesh.Heard, at ...netip.Addr) mesh.Heard {
	h.From, h.At, h.Alive = at[0], at, true
	return h
}

// handed is a record as somebody hands it on, and nobody announces it.
func handed(h mesh.Heard) mesh.Heard {
	h.From, h.At = netip.Addr{}, nil
	return h
}

// problemOf waits until the status has a problem of a node with all words.
func problemOf(t *testing.T, a *live, node string, words ...string) view.Problem {
	t.Helper()
	begin := time.Now()
	var s view.Status
	for time.Since(begin) < saysWithin {
		s = a.Status(t.Context()) // the loop has to run by itself
		for _, p := range s.Problems {
			text := p.String()
			if p.Subject == "node "+node && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
				return p
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("not within %s: a problem of %s with %q; there are %v", saysWithin, node, words, s.Problems)
	return view.Problem{}
}

// A thief has the gossip key and the identity of one node, c. Whatever it gossips, nothing changes here, and status,
// counters and an Event on the Node say so.
func TestThief(t *testing.T) {
	t.Parallel()
	thief := netip.MustParseAddr("192.0.2.66")
	type world2 struct {
		b, c *speaker
		old  mesh.Heard // an earlier record of b
		now  mesh.Heard // the one that counts
	}
	for name, tc := range map[string]struct {
		steals func(t *testing.T, w world2) mesh.Heard
		node   string
		word   string
		says   string
	}{
		"another's name, signed by its own identity": {func(t *testing.T, w world2) mesh.Heard {
			forged := *w.c
			forged.name = "b"
			return by(forged.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr(); r.Sequence = 1 << 50 }), thief)
		}, "b", "pin", "another identity"},
		"another's name, over its own record": {func(t *testing.T, w world2) mesh.Heard {
			h := w.c.says(t, nil)
			h.Node = "b"
			return by(h, thief)
		}, "b", "signature", "wrong signature"},
		"another's name, at its own address, as it says": {func(t *testing.T, w world2) mesh.Heard {
			forged := *w.c
			forged.name = "b"
			return by(forged.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr(); r.Sequence = 1 << 50 }), w.b.address())
		}, "b", "pin", "a member that says it is at 192.0.2.2"},
		"another's name, at a third one's address, as it says": {func(t *testing.T, w world2) mesh.Heard {
			forged := *w.c
			forged.name = "b"
			return by(forged.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr(); r.Sequence = 1 << 50 }), netip.MustParseAddr("192.0.2.4"))
		}, "b", "pin", "a member that says it is at 192.0.2.4"},
		"another's CIDR": {func(t *testing.T, w world2) mesh.Heard {
			return w.c.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr() })
		}, "c", "cidr", "10.244.2.0/24"},
		"another's key": {func(t *testing.T, w world2) mesh.Heard {
			return w.c.says(t, func(r *record.Record) { r.Generations = []record.Generation{{Number: 1, Key: w.b.key()}} })
		}, "c", "key", "WireGuard key of node b"},
		"an old record": {func(_ *testing.T, w world2) mesh.Heard { return by(w.old, thief) }, "b", "old", "old record"},
		"a replay": {func(_ *testing.T, w world2) mesh.Heard {
			return by(w.now, w.b.address(), thief)
		}, "b", "replay", "a copy"},
		"a replay, while the node is silent": {func(_ *testing.T, w world2) mesh.Heard { return by(w.now, thief) }, "b", "replay", "a copy"},
		"another's name, handed on": {func(t *testing.T, w world2) mesh.Heard {
			forged := *w.c
			forged.name = "b"
			return handed(forged.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr(); r.Sequence = 1 << 50 }))
		}, "b", "pin", "handed on by other nodes"},
		"another's CIDR, handed on": {func(t *testing.T, w world2) mesh.Heard {
			return handed(w.c.says(t, func(r *record.Record) { r.PodCIDR4 = w.b.cidr() }))
		}, "c", "cidr", "10.244.2.0/24"},
		"two records of one number": {func(t *testing.T, w world2) mesh.Heard {
			known, err := record.Open("b", w.now.Raw)
			if err != nil {
				t.Fatal(err)
			}
			return w.b.says(t, func(r *record.Record) { r.Sequence, r.MTU = known.Sequence, 1400 })
		}, "b", "sequence", "another record with the sequence number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
			x := world2{b: b, c: c, old: b.says(t, nil), now: b.says(t, nil)}
			known := []mesh.Heard{x.now, c.says(t, nil)}
			w.cluster.set(w.self.node(), b.node(), c.node())
			w.air.say(known...)
			w.kernel.sessions[b.key()], w.kernel.sessions[c.key()] = time.Now(), time.Now()
			a := w.start(t)
			a.pass()
			routes, tunnels := w.kernel.text("routes"), w.kernel.text("tunnels")
			if tc.word == "replay" {
				known = known[1:]
			}
			w.air.say(append(known, tc.steals(t, x))...)
			a.latch.Set()
			p := problemOf(t, a, tc.node, tc.says)
			silent := strings.Contains(tc.says, "handed on") || tc.node == "c" || tc.word == "sequence"
			if !strings.Contains(p.Message, thief.String()) && !strings.Contains(tc.says, "192.0.2.") && !silent {
				t.Errorf("the problem doesn't say where its member says it is: %v", p)
			}
			if p.Remedy == "" || strings.Contains(p.Remedy, "192.0.2.") {
				t.Errorf("the remedy blames a host, or there is none: %v", p)
			}
			s := a.pass()
			if s.Counters.Refused[tc.word] != 1 {
				t.Errorf("refused are %v, want 1 for %q", s.Counters.Refused, tc.word)
			}
			if w.kernel.text("routes") != routes || w.kernel.text("tunnels") != tunnels {
				t.Errorf("routes or tunnels changed:\n%s\n%s", w.kernel.text("routes"), w.kernel.text("tunnels"))
			}
			w.cluster.mu.Lock()
			events := slices.Clone(w.cluster.events)
			w.cluster.mu.Unlock()
			if want := p.Message; len(events) != 1 || events[0].Kind != mesh.RecordRefused || events[0].Node != tc.node || events[0].Message != want {
				t.Errorf("Events are %+v, want one on %s with %q", events, tc.node, want)
			}
		})
	}
}

// What an honest node leaves behind is no news: its former member with its former record, for as long as memberlist
// takes to see that it is dead, and what others hand on.
func TestHonestNodesAreNotSuspected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	before, now := b.says(t, nil), b.says(t, nil)
	elsewhere := b.says(t, func(r *record.Record) { r.Endpoint4 = netip.MustParseAddrPort("192.0.2.99:51820") })
	w.cluster.set(w.self.node(), b.node())
	w.air.say(before)
	a := w.start(t)
	for _, heard := range [][]mesh.Heard{
		{before, now},                     // restarted after a crash
		{now, handed(before)},             // and handed on
		{now, by(elsewhere, elsewhereAt)}, // it moved
		{by(elsewhere, elsewhereAt), now}, // and its former member lingers at its former address
	} {
		w.air.say(heard...)
		a.pass()
		time.Sleep(2500 * time.Millisecond)
		if s := a.pass(); len(s.Problems) != 0 || len(s.Counters.Refused) != 0 {
			t.Errorf("problems are %v, refused %v, want none", s.Problems, s.Counters.Refused)
		}
	}
}

var elsewhereAt = netip.MustParseAddr("192.0.2.99")

// Without Kubernetes too the status tells of an identity that somebody hands on under another node's name, and of one under
// this node's own.
func TestHandedOnWithoutKubernetes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Cluster, w.config.PodCIDRs, w.config.Addresses = nil, []netip.Prefix{w.self.cidr()}, []netip.Addr{w.self.address()}
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	known := []mesh.Heard{b.says(t, nil), c.says(t, nil)}
	w.air.say(known...)
	a := w.start(t)
	tunnels := w.kernel.text("tunnels")
	asA, asB := *c, *c
	asA.name, asB.name = "a", "b"
	w.air.say(append(known, handed(asB.says(t, nil)), handed(asA.says(t, nil)))...)
	a.latch.Set()
	for _, p := range []view.Problem{
		problemOf(t, a, "b", "handed on by other nodes", "another identity than before"),
		problemOf(t, a, "a", "handed on by other nodes", "too"),
	} {
		if !p.Warning || !strings.Contains(p.Remedy, "gossip key") {
			t.Errorf("it is no warning, or its remedy doesn't say what is wrong: %+v", p)
		}
	}
	if w.kernel.text("tunnels") != tunnels {
		t.Errorf("the tunnels changed to %s", w.kernel.text("tunnels"))
	}
}

// A node whose disk was wiped counts under its new identity as soon as its Node says so, from generation 0 on.
func TestWipedNodeComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	before := b.says(t, func(r *record.Record) { r.Generations[0].Number = 7 })
	w.cluster.set(w.self.node(), b.node())
	w.air.say(before)
	a := w.start(t)
	wiped := newSpeaker(t, 2, "b")
	after := wiped.says(t, nil)
	w.air.say(before, after) // its former member lingers
	s := a.pass()
	if got := planned(w.kernel)["b"]; got != b.key() || len(s.Problems) != 0 {
		t.Errorf("before the pin came b's key is %v, problems %v", got, s.Problems)
	}
	w.cluster.set(w.self.node(), wiped.node())
	s = a.pass()
	if got := planned(w.kernel)["b"]; got != wiped.key() {
		t.Errorf("b's key is %v, want the new one", got)
	}
	time.Sleep(2500 * time.Millisecond)
	if s = a.pass(); len(s.Problems) != 0 {
		t.Errorf("problems are %v: what an honest node leaves behind is no news", s.Problems)
	}
}

// The node itself, after its disk was wiped, hears its former life at its own address: that is nobody else.
func TestWipedNodeIsNoImpostor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.air.say(by(newSpeaker(t, 1, "a").says(t, nil), w.self.address()))
	if s := w.start(t).pass(); len(s.Problems) != 0 {
		t.Errorf("problems are %v", s.Problems)
	}
}

// Somebody who announces this node's own records elsewhere is told of here too.
func TestOwnRecordReplayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	old := w.self.says(t, nil)
	a := w.start(t)
	w.air.say(by(old, netip.MustParseAddr("192.0.2.66")))
	a.latch.Set()
	problemOf(t, a, "a", "192.0.2.66", "this node made itself")
}

// A pin that can't be read unpins nobody: who counted goes on to, and a newcomer waits.
func TestUnreadablePin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, other := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "b")
	w.cluster.set(w.self.node(), b.node())
	first := b.says(t, nil)
	w.air.say(first)
	a := w.start(t)
	unreadable := b.node()
	unreadable.Identity, unreadable.Unreadable = keys.PublicIdentity{}, true
	w.cluster.set(w.self.node(), unreadable)
	moved := b.says(t, func(r *record.Record) { r.Endpoint4 = netip.MustParseAddrPort("192.0.2.99:51820") })
	w.air.say(first, moved, other.says(t, nil))
	s := a.pass()
	if p := peer(s, "b"); planned(w.kernel)["b"] != b.key() || p == nil || p.Endpoint != "192.0.2.99:51820" {
		t.Errorf("b is %+v with the key %v", p, planned(w.kernel)["b"])
	}
	if err := os.Remove(w.config.CachePath); err != nil {
		t.Fatal(err)
	}
	a.stop()
	w.kernel.devices = nil
	s = w.start(t).pass()
	if p := peer(s, "b"); len(planned(w.kernel)) != 0 || p == nil || !strings.Contains(p.Reason, "can't be read") {
		t.Errorf("b is %+v on a node that doesn't know it", p)
	}
}

// While the API server is away after a restart, a node that is known can say much, but no other pod CIDRs.
func TestNoNewCIDRsWithoutTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	w.start(t).stop()
	routes := w.kernel.text("routes")
	w.cluster.state = mesh.ClusterState{}
	w.air.say(b.says(t, nil), c.says(t, func(r *record.Record) { r.PodCIDR4 = b.cidr() }))
	a := w.start(t)
	a.pass()
	if got := w.kernel.text("routes"); got != routes {
		t.Errorf("routes are %s, and were %s", got, routes)
	}
}

// Without Kubernetes a pod CIDR is whose it was first: a newcomer with a smaller name, or a node that changes its mind,
// doesn't take it from another, nor from this node.
func TestFirstUseOfCIDRs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Cluster, w.config.PodCIDRs, w.config.Addresses = nil, []netip.Prefix{w.self.cidr()}, []netip.Addr{w.self.address()}
	w.config.Settle = time.Second
	b, c, newcomer := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c"), newSpeaker(t, 4, "0")
	known := []mesh.Heard{b.says(t, nil), c.says(t, nil)}
	w.air.say(known...)
	a := w.start(t)
	time.Sleep(1200 * time.Millisecond)
	a.pass()
	routes := w.kernel.text("routes")
	for cidr, owner := range map[netip.Prefix]string{
		b.cidr(): "b", w.self.cidr(): "a", netip.PrefixFrom(b.cidr().Addr(), 25): "b", netip.MustParsePrefix("10.244.0.0/16"): "a",
	} {
		for _, who := range []*speaker{c, newcomer} {
			w.air.say(append(slices.Clone(known), who.says(t, func(r *record.Record) { r.PodCIDR4 = cidr }))...)
			a.latch.Set()
			problemOf(t, a, who.name, cidr.String(), "node "+owner+" had")
			if got := w.kernel.text("routes"); got != routes {
				t.Fatalf("%s with %s changed the routes to %s", who.name, cidr, got)
			}
		}
	}
	if s := a.pass(); !s.Ready {
		t.Errorf("not ready: %v", s.Problems)
	}
}

// What the cache holds is checked as far as it can be: no record of this node, no key twice, no signature of others.
func TestDoctoredCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	forged := c.says(t, nil)
	remembered := map[string]mesh.RememberedRecord{
		"a": {Raw: w.self.says(t, nil).Raw}, "b": {Raw: b.says(t, nil).Raw}, "c": {Raw: c.says(t, useKey(b)).Raw}, "d": {Raw: forged.Raw},
	}
	raw, err := json.Marshal(mesh.Remembered{Version: 1, Nodes: remembered, Self: mesh.RememberedSelf{
		Node: "a", PodCIDRs: []netip.Prefix{w.self.cidr()}, Addresses: []netip.Addr{w.self.address()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.config.CachePath, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	a := w.start(t) // the API server doesn't answer
	a.pass()
	if got := planned(w.kernel); len(got) != 1 || got["b"] != b.key() {
		t.Errorf("peers are %v, want b alone", got)
	}
	a.stop()
	for _, why := range []string{"which is this node", "WireGuard key of node b", "wrong signature"} {
		if !strings.Contains(w.log.String(), why) {
			t.Errorf("the log doesn't say %q:\n%s", why, w.log)
		}
	}
}
