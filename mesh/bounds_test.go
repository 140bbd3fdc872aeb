package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

// Whoever has the gossip key can hand on any number of records under names that he made up, and others the next second:
// what is kept of them, and shown, is bounded.
func TestMadeUpNamesAreBounded(t *testing.T) {
	t.Parallel()
	const names = 3000
	for name, without := range map[string]bool{"with Kubernetes": false, "without Kubernetes": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrio(t)
			most, waiting := 0, 2 // without a Node nobody is suspected, nor waited for; b and c have one
			if without {
				w.cluster, most, waiting = nil, maxNames, maxNames
			}
			for round := range 10 {
				var heard []Heard
				for i := range names {
					node := fmt.Sprintf("n%d-%d", round, i)
					heard = append(heard, Heard{Node: node, Raw: []byte("x"), Alive: i%2 == 0})
				}
				w.book.take(heard, w.cluster, w.now)
				w.now = w.now.Add(time.Second)
				if n := len(w.book.suspects); n > most {
					t.Fatalf("%d suspicions in round %d, want %d at most", n, round, most)
				}
				if n := len(w.book.suspectsBefore); n > most {
					t.Fatalf("%d suspicions are remembered in round %d, want %d at most", n, round, most)
				}
				if n := len(w.book.waiting); n > waiting {
					t.Fatalf("%d nodes are waited for in round %d, want %d at most", n, round, waiting)
				}
			}
			if without {
				w.book.take([]Heard{{Node: "silent", Raw: []byte("x")}}, nil, w.now)
				if len(w.book.waiting) != 0 {
					t.Errorf("a name that was only handed on, with garbage, is waited for: %v", w.book.waiting)
				}
			}
		})
	}
}

// What is there already isn't pushed out by what is made up.
func TestKnownSuspicionsKeepTheirPlace(t *testing.T) {
	t.Parallel()
	w := newTrio(t)
	w.cluster = nil
	known := stated(t, "b", w.b, victimAt, cidrOfB, nil)
	forged := handed(known)
	forged.Node = "victim"
	w.hears(2*time.Second, known, forged)
	for round := range 3 {
		heard := []Heard{known}
		for i := range 2 * maxNames {
			heard = append(heard, Heard{Node: fmt.Sprintf("a%d-%d", round, i), Raw: []byte("x")})
		}
		w.book.take(append(heard, forged), nil, w.now)
		w.now = w.now.Add(time.Second)
		if _, stands := w.book.suspects[suspect{"victim", "signature"}]; !stands {
			t.Fatalf("in round %d it isn't known any more", round)
		}
	}
}

// Who says each second that he is elsewhere makes no new line of the log each second.
func TestVariedAddressesMakeFewTexts(t *testing.T) {
	t.Parallel()
	w := newTrio(t)
	known := stated(t, "b", w.b, victimAt, cidrOfB, nil)
	texts := map[string]bool{}
	for i := range 60 {
		at := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		forged := stated(t, "b", w.stranger, at, cidrOfB, nil)
		w.hears(time.Second, known, forged)
		for _, s := range w.book.accused() {
			texts[s.text()] = true
		}
	}
	if len(texts) == 0 || len(texts) > maxNamed {
		t.Errorf("%d texts, want 1 to %d: %v", len(texts), maxNamed, texts)
	}
	for text := range texts {
		if !strings.Contains(text, "198.51.100.") {
			t.Errorf("it says %q, want an address", text)
		}
	}
}

// A node that takes one identity after the other isn't remembered under all of them, but under its last ones.
func TestFormerIdentitiesAreBounded(t *testing.T) {
	t.Parallel()
	w := newTrio(t)
	identity := func(i int) claimant { return claimant{"b", keys.PublicIdentity{byte(i), byte(i >> 8), 1}} }
	for i := range maxNames + 100 {
		w.book.now = w.book.now.Add(time.Second)
		w.book.retire(identity(i))
	}
	if len(w.book.former) != maxNames {
		t.Errorf("%d former identities are known, want %d", len(w.book.former), maxNames)
	}
	for i, want := range map[int]bool{0: false, 99: false, 100: true, maxNames + 99: true} {
		if _, known := w.book.former[identity(i)]; known != want {
			t.Errorf("identity %d is known: %t", i, known)
		}
	}
}
