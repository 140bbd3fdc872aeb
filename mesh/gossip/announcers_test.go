package gossip

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Who announces a record now is told of each record: a copy that somebody else announces, and that it is gone again.
func TestAnnouncers(t *testing.T) {
	b := newBook("a/1")
	own, honest, thief := netip.MustParseAddrPort("192.0.2.1:6783"), netip.MustParseAddrPort("192.0.2.2:6783"), netip.MustParseAddrPort("192.0.2.66:6783")
	b.alive("a/1", "a", own, []byte("of a"), time.Now())
	b.alive("b/1", "b", honest, []byte("of b"), time.Now())
	b.alive("b/2", "b", thief, []byte("of b"), time.Now())
	b.alive("a/2", "a", thief, []byte("of a"), time.Now())
	b.handed("c", []byte("of c"))
	at := func() map[string][]netip.Addr {
		all := make(map[string][]netip.Addr)
		for _, h := range b.heard() {
			all[h.Node+" "+string(h.Raw)] = h.At
		}
		return all
	}
	want := func(record string, addresses ...netip.Addr) {
		t.Helper()
		if got, heard := at()[record]; !heard || !slices.Equal(got, addresses) {
			t.Errorf("%q is announced at %v (heard: %t), want %v", record, got, heard, addresses)
		}
	}
	want("b of b", honest.Addr(), thief.Addr())
	want("a of a", thief.Addr()) // this node's own member isn't told of
	want("c of c")
	b.gone("b/2", "b")
	b.alive("b/1", "b", honest, []byte("new of b"), time.Now())
	want("b of b")
	want("b new of b", honest.Addr())
}

// However many members at one address speak in a node's name, what the node says from its own is still heard.
func TestNobodyCrowdsOut(t *testing.T) {
	b := newBook("a/1")
	honest, thief := netip.MustParseAddrPort("192.0.2.2:6783"), netip.MustParseAddrPort("192.0.2.66:6783")
	b.alive("b/1", "b", honest, []byte("of b"), time.Now())
	for i := range 10 {
		b.alive(fmt.Sprintf("b/x%d", i), "b", thief, fmt.Appendf(nil, "forgery %d", i), time.Now())
	}
	heard := b.heard()
	if len(heard) != maxCandidates || !slices.ContainsFunc(heard, func(h Heard) bool { return string(h.Raw) == "of b" }) {
		t.Errorf("heard are %d records, without the node's own: %+v", len(heard), heard)
	}
}
