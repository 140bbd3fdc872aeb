package mesh

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
)

var (
	cidrOfB = netip.MustParsePrefix("10.244.2.0/24")
	cidrOfC = netip.MustParsePrefix("10.244.3.0/24")
	thirdAt = netip.MustParseAddr("192.0.2.3")
	strayAt = netip.MustParseAddr("192.0.2.66")
)

// stated is a record under a name by an identity, with a pod CIDR and a change to it.
func stated(t *testing.T, name string, store *keys.Store, at netip.Addr, cidr netip.Prefix, change func(*record.Record)) Heard {
	t.Helper()
	sequence, err := store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	r := record.Record{
		Identity: store.Identity().Public(), Sequence: sequence, Endpoint4: netip.AddrPortFrom(at, contract.BasePort), PodCIDR4: cidr,
		Generations: []record.Generation{{Number: 0, Key: store.Generations()[0].Private.Public()}},
	}
	if change != nil {
		change(&r)
	}
	raw, err := record.Sign(name, r, store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return Heard{Node: name, Raw: raw, From: at, At: []netip.Addr{at}, Alive: true}
}

// handed is a record as somebody hands it on, and nobody announces it.
func handed(h Heard) Heard {
	h.From, h.At = netip.Addr{}, nil
	return h
}

// trio is a witness with two others, b and c, that have pod CIDRs.
type trio struct {
	*witness
	b, c, stranger *keys.Store
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	b, c := identityStore(t), identityStore(t)
	w := &trio{newWitness(t, b), b, c, identityStore(t)}
	w.nodes(w.nodeB(b, cidrOfB), ClusterNode{
		Name: "c", Identity: c.Identity().Public(), Addresses: []netip.Addr{thirdAt}, PodCIDRs: []netip.Prefix{cidrOfC},
	})
	return w
}

func (w *trio) nodeB(store *keys.Store, cidr netip.Prefix) ClusterNode {
	return ClusterNode{
		Name: "b", Identity: store.Identity().Public(), Addresses: []netip.Addr{victimAt}, PodCIDRs: []netip.Prefix{cidr},
	}
}

// nodes has Kubernetes know these besides a.
func (w *trio) nodes(nodes ...ClusterNode) {
	w.cluster = &ClusterState{Synced: true, Reachable: true, Nodes: append(nodes,
		ClusterNode{Name: "a", Identity: w.own.Identity().Public(), Addresses: []netip.Addr{witnessAt}})}
}

// A forgery that nobody announces, but that somebody hands on, is told of like others, for two minutes; and so is the next
// one of its kind, whenever it comes.
func TestHandedOnForgeriesAreReported(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		word    string
		after   time.Duration
		without bool // Kubernetes
		forge   func(t *testing.T, w *trio) Heard
	}{
		"another's name, by the identity of a node": {pinWord, innocence, false, func(t *testing.T, w *trio) Heard {
			return stated(t, "b", w.c, strayAt, cidrOfB, nil)
		}},
		"another's name, by an identity of nobody": {pinWord, innocence, false, func(t *testing.T, w *trio) Heard {
			return stated(t, "b", w.stranger, strayAt, cidrOfB, nil)
		}},
		"another's CIDR": {cidrWord, innocence, false, func(t *testing.T, w *trio) Heard {
			return stated(t, "c", w.c, strayAt, cidrOfB, nil)
		}},
		"another's key": {keyWord, innocence, false, func(t *testing.T, w *trio) Heard {
			return stated(t, "c", w.c, strayAt, cidrOfC, func(r *record.Record) {
				r.Generations = []record.Generation{{Number: 1, Key: w.b.Generations()[0].Private.Public()}}
			})
		}},
		"this node's name": {nameWord, 0, false, func(t *testing.T, w *trio) Heard {
			return stated(t, "a", w.c, strayAt, cidrOfC, nil)
		}},
		"a wrong signature": {"signature", 0, false, func(t *testing.T, w *trio) Heard {
			h := stated(t, "c", w.c, strayAt, cidrOfC, nil)
			h.Node = "b"
			return h
		}},
		"another's name, by the identity of a node, without Kubernetes": {disputedWord, 0, true, func(t *testing.T, w *trio) Heard {
			return stated(t, "b", w.c, strayAt, cidrOfB, nil)
		}},
		"another's name, by an identity of nobody, without Kubernetes": {disputedWord, 0, true, func(t *testing.T, w *trio) Heard {
			return stated(t, "b", w.stranger, strayAt, cidrOfB, nil)
		}},
		"another's CIDR, without Kubernetes": {cidrWord, innocence, true, func(t *testing.T, w *trio) Heard {
			return stated(t, "c", w.c, strayAt, cidrOfB, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrio(t)
			if tc.without {
				w.cluster = nil
			}
			known := []Heard{stated(t, "b", w.b, victimAt, cidrOfB, nil), stated(t, "c", w.c, thirdAt, cidrOfC, nil)}
			if after, words := w.hears(2*time.Minute, known...); after >= 0 {
				t.Fatalf("before anything was forged: %q after %s", words, after)
			}
			for _, which := range []string{"the first", "the next"} { // gossip keeps them all
				known = append(known, handed(tc.forge(t, w)))
				if after, words := w.hears(tc.after+time.Second, known...); after != tc.after || words != tc.word {
					t.Errorf("%s forgery: %q after %s, want %q after %s", which, words, after, tc.word, tc.after)
				}
				w.hears(handedFor, known...)
				if after, words := w.hears(time.Hour, known...); after >= 0 {
					t.Errorf("%s forgery, handed on long ago: still %q", which, words)
				}
			}
		})
	}
}

// What honest agents hand on that missed something is no forgery: neither at once, nor later.
func TestHonestHandingOn(t *testing.T) {
	t.Parallel()
	quiet := func(t *testing.T, w *trio, heard ...Heard) {
		t.Helper()
		if after, words := w.hears(5*time.Minute, heard...); after >= 0 {
			t.Errorf("%q after %s", words, after)
		}
	}
	for name, tc := range map[string]func(t *testing.T, w *trio, before, c Heard){
		"a disk was wiped": func(t *testing.T, w *trio, _, c Heard) {
			other := handed(stated(t, "b", w.b, victimAt, cidrOfB, nil)) // which counted for others alone
			w.nodes(w.nodeB(w.stranger, cidrOfB), w.cluster.Nodes[1])
			now := stated(t, "b", w.stranger, victimAt, cidrOfB, nil)
			quiet(t, w, c, now)
			quiet(t, w, c, now, other) // it comes late
		},
		"a disk was wiped, and the identity is another node's since": func(t *testing.T, w *trio, _, c Heard) {
			other := handed(stated(t, "b", w.b, victimAt, cidrOfB, nil))
			renamed := w.nodeB(w.b, cidrOfB)
			renamed.Name = "d"
			w.nodes(w.nodeB(w.stranger, cidrOfB), w.cluster.Nodes[1], renamed)
			quiet(t, w, c, stated(t, "b", w.stranger, victimAt, cidrOfB, nil), other)
		},
		"the Node was deleted": func(t *testing.T, w *trio, before, c Heard) {
			w.nodes(w.cluster.Nodes[1])
			quiet(t, w, c, handed(before))
			quiet(t, w, c, handed(stated(t, "b", w.b, victimAt, cidrOfB, nil)))
		},
		"the Node was made again, with another identity and pod CIDR": func(t *testing.T, w *trio, before, c Heard) {
			was := w.cluster.Nodes[1]
			w.nodes(was)
			quiet(t, w, c)
			w.nodes(w.nodeB(w.stranger, netip.MustParsePrefix("10.244.9.0/24")), was)
			quiet(t, w, c, handed(before), handed(stated(t, "b", w.b, victimAt, cidrOfB, nil)))
		},
		"a pod CIDR moved to another Node": func(t *testing.T, w *trio, _, _ Heard) {
			old := handed(stated(t, "c", w.c, thirdAt, cidrOfC, nil)) // which counted for others alone
			b, c := w.nodeB(w.b, cidrOfC), w.cluster.Nodes[1]
			c.PodCIDRs = []netip.Prefix{cidrOfB}
			w.nodes(b, c)
			quiet(t, w, old)
			quiet(t, w, old, stated(t, "b", w.b, victimAt, cidrOfC, nil), stated(t, "c", w.c, thirdAt, cidrOfB, nil))
		},
		"an earlier record": func(t *testing.T, w *trio, _, c Heard) {
			old := handed(stated(t, "b", w.b, victimAt, cidrOfB, nil))
			quiet(t, w, c, stated(t, "b", w.b, victimAt, cidrOfB, nil), old)
		},
		"the pin is on its way": func(t *testing.T, w *trio, _, c Heard) {
			next := handed(stated(t, "b", w.stranger, victimAt, cidrOfB, nil))
			if after, words := w.hears(innocence, c, next); after >= 0 {
				t.Errorf("%q after %s", words, after)
			}
			w.nodes(w.nodeB(w.stranger, cidrOfB), w.cluster.Nodes[1])
			quiet(t, w, c, next)
		},
		"the API server is away": func(t *testing.T, w *trio, before, c Heard) {
			w.cluster.Reachable = false
			quiet(t, w, before, c, handed(stated(t, "b", w.stranger, victimAt, cidrOfB, nil)))
		},
		"this node's disk was wiped": func(t *testing.T, w *trio, before, c Heard) {
			quiet(t, w, before, c, handed(stated(t, "a", w.stranger, witnessAt, cidrOfB, nil)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrio(t)
			before, c := stated(t, "b", w.b, victimAt, cidrOfB, nil), stated(t, "c", w.c, thirdAt, cidrOfC, nil)
			quiet(t, w, before, c)
			tc(t, w, before, c)
		})
	}
	t.Run("this agent has just started", func(t *testing.T) {
		t.Parallel()
		w := newTrio(t)
		quiet(t, w, handed(stated(t, "b", w.stranger, victimAt, cidrOfB, nil)), stated(t, "b", w.b, victimAt, cidrOfB, nil))
	})
}

// Once whoever announced a forgery is gone, and others hand it on, it isn't said that he still announces it.
func TestForgeryOutlivesItsAnnouncer(t *testing.T) {
	t.Parallel()
	w := newTrio(t)
	known := stated(t, "b", w.b, victimAt, cidrOfB, nil)
	forged := stated(t, "b", w.stranger, strayAt, cidrOfB, nil)
	said := func(heard ...Heard) string {
		for range 4 {
			w.hears(time.Second, heard...)
		}
		all := w.book.accused()
		if len(all) != 1 {
			t.Fatalf("accused are %v, want one", all)
		}
		return all[0].text()
	}
	w.hears(2*time.Minute, known) // past the first minute, in which it may be what the node was before
	if text := said(known, forged); !strings.Contains(text, strayAt.String()) {
		t.Errorf("while it is announced: %q", text)
	}
	if text := said(known, handed(forged)); !strings.Contains(text, "handed on") || strings.Contains(text, strayAt.String()) {
		t.Errorf("after that: %q", text)
	}
}
