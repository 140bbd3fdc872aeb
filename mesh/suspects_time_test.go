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

// witness is the book of node a, with a clock of its own, and the identities that speak to it.
type witness struct {
	t       *testing.T
	book    *book
	now     time.Time
	own     *keys.Store
	cluster *ClusterState
}

var (
	witnessAt = netip.MustParseAddr("192.0.2.1")
	victimAt  = netip.MustParseAddr("192.0.2.2")
)

func identityStore(t *testing.T) *keys.Store {
	t.Helper()
	store, err := keys.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func newWitness(t *testing.T, victim *keys.Store) *witness {
	t.Helper()
	w := &witness{t: t, own: identityStore(t), now: time.Unix(1_000_000, 0)}
	w.book = newBook("a", w.own.Identity().Public())
	w.book.ownAddresses = []netip.Addr{witnessAt}
	w.pin(victim)
	return w
}

// pin has Kubernetes say who b is.
func (w *witness) pin(victim *keys.Store) {
	w.cluster = &ClusterState{Synced: true, Reachable: true, Nodes: []ClusterNode{
		{Name: "a", Identity: w.own.Identity().Public(), Addresses: []netip.Addr{witnessAt}},
		{Name: "b", Identity: victim.Identity().Public(), Addresses: []netip.Addr{victimAt}},
	}}
}

// said is a record under a name by an identity, of a member that says it is at an address.
func said(t *testing.T, name string, store *keys.Store, at netip.Addr) Heard {
	t.Helper()
	sequence, err := store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := record.Sign(name, record.Record{
		Identity: store.Identity().Public(), Sequence: sequence, Endpoint4: netip.AddrPortFrom(at, contract.BasePort),
		Generations: []record.Generation{{Number: 0, Key: store.Generations()[0].Private.Public()}},
	}, store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return Heard{Node: name, Raw: raw, From: at, At: []netip.Addr{at}, Alive: true}
}

// hears lets the time go by, a pass a second, with the same in the air, and returns after how long the first word of a
// suspicion is due; -1: none.
func (w *witness) hears(d time.Duration, heard ...Heard) (after time.Duration, words string) {
	w.t.Helper()
	begin := w.now
	after = -1
	for ; w.now.Sub(begin) < d; w.now = w.now.Add(time.Second) {
		w.book.take(heard, w.cluster, w.now)
		for _, s := range w.book.accused() {
			if after < 0 {
				after = w.now.Sub(begin)
			}
			if !strings.Contains(words, s.word) {
				words += s.word
			}
		}
	}
	return after, words
}

// Who says that he is at the victim's own address gains no time by it, nor does who dies and comes again.
func TestClaimedAddressGainsNoTime(t *testing.T) {
	t.Parallel()
	b, thief := identityStore(t), identityStore(t)
	w := newWitness(t, b)
	now := said(t, "b", b, victimAt)
	w.hears(2*time.Minute, now) // all that may be left from before has gone
	forged := said(t, "b", thief, victimAt)
	if after, words := w.hears(10*time.Second, now, forged); after != innocence || words != pinWord {
		t.Errorf("another's name, at its own address: %q after %s", words, after)
	}
	own := said(t, "a", thief, witnessAt)
	if after, words := w.hears(10*time.Second, now, own); after != 0 || words != nameWord || !strings.Contains(w.book.impostor, witnessAt.String()) {
		t.Errorf("this node's name, at its own address: %q after %s, %q", words, after, w.book.impostor)
	}
	unknown := newWitness(t, b)
	old := said(t, "b", b, victimAt)
	now = said(t, "b", b, victimAt)
	unknown.hears(2*time.Minute, now)
	if after, words := unknown.hears(10*time.Second, now, old); after != innocence || words != oldWord {
		t.Errorf("an old record that never counted here: %q after %s", words, after)
	}
}

func TestSuspicionsGoOnAfterAGap(t *testing.T) {
	t.Parallel()
	b, thief := identityStore(t), identityStore(t)
	w := newWitness(t, b)
	now, forged := said(t, "b", b, victimAt), said(t, "b", thief, victimAt)
	w.hears(time.Second, now, forged)
	w.hears(50*time.Second, now)
	if after, _ := w.hears(time.Second, now, said(t, "b", thief, victimAt)); after != 0 {
		t.Errorf("back after 50 s, it is due after %s, want at once", after)
	}
	w.hears(70*time.Second, now)
	if after, _ := w.hears(10*time.Second, now, forged); after != innocence {
		t.Errorf("back after 70 s, it is due after %s, want %s", after, innocence)
	}
	if len(w.book.suspectsBefore) > 1 {
		t.Errorf("it remembers %v", w.book.suspectsBefore)
	}
	w.hears(70*time.Second, now)
	if len(w.book.suspectsBefore) != 0 {
		t.Errorf("it remembers %v for ever", w.book.suspectsBefore)
	}
}

// What is left from an earlier start of a node has a minute, from when it was replaced.
func TestLingeringMembersHaveTime(t *testing.T) {
	t.Parallel()
	b, wiped := identityStore(t), identityStore(t)
	w := newWitness(t, b)
	before, now := said(t, "b", b, victimAt), said(t, "b", b, victimAt)
	w.hears(2*time.Minute, before)
	if after, words := w.hears(59*time.Second, before, now); after >= 0 {
		t.Errorf("it crashed and is back: %q after %s", words, after)
	}
	if after, _ := w.hears(10*time.Second, before, now); after < 0 {
		t.Error("somebody announces its old record for ever, and nothing is said")
	}
	w.hears(2*time.Minute, now)
	w.pin(wiped)
	anew := said(t, "b", wiped, victimAt)
	if after, words := w.hears(59*time.Second, now, anew); after >= 0 {
		t.Errorf("its disk was wiped: %q after %s", words, after)
	}
	if after, _ := w.hears(10*time.Second, now, anew); after < 0 {
		t.Error("somebody announces the record of its former identity for ever, and nothing is said")
	}
	// A node that starts doesn't know what was before.
	w = newWitness(t, b)
	if after, words := w.hears(59*time.Second, now, before, said(t, "a", wiped, witnessAt)); after >= 0 || w.book.impostor != "" {
		t.Errorf("just started: %q after %s, %q", words, after, w.book.impostor)
	}
}
