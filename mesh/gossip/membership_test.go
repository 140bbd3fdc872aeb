package gossip

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist's timers go on after its end; what they say of members that are alive in the next membership doesn't count.
func TestEndedMembershipDoesNotCount(t *testing.T) {
	g := &Gossip{book: newBook("n1/0011223344556677"), tally: newTally(), own: &ownRecord{}, caps: newCaps(inspector{}), news: make(chan struct{}, 1)}
	other := &memberlist.Node{Name: "n2/0011223344556677", Addr: []byte{127, 0, 0, 2}, Port: 6783}
	ended, lives := &membership{over: true}, &membership{}
	events{g, ended}.NotifyJoin(other)
	if len(g.book.members()) != 0 {
		t.Error("a member came by an ended membership")
	}
	events{g, lives}.NotifyJoin(other)
	events{g, ended}.NotifyLeave(other)
	if len(g.book.members()) != 1 {
		t.Error("a member went by an ended membership")
	}
	events{g, lives}.NotifyLeave(other)
	if len(g.book.members()) != 0 {
		t.Error("a member hasn't gone")
	}
}

func TestBookBeginsAnew(t *testing.T) {
	b := newBook("n1/0011223344556677")
	addr := netip.MustParseAddrPort("127.0.0.2:6783")
	b.alive("n2/0011223344556677", "n2", addr, []byte("record"), dawn)
	b.alive("n3/0011223344556677", "n3", addr, nil, dawn)
	b.restart("n1/7766554433221100")
	if m := b.members(); len(m) != 0 {
		t.Errorf("members: %v", m)
	}
	if h := b.heard(); len(h) != 1 || string(h[0].Raw) != "record" || h[0].Alive {
		t.Errorf("heard: %+v", h)
	}
	b.alive("n1/7766554433221100", "n1", addr, nil, dawn)
	if m := b.members(); len(m) != 1 || !m[0].Self {
		t.Errorf("members: %v", m)
	}
}

// When a membership has ended and another can't begin, the agent can still be stopped.
func TestStopBetweenMemberships(t *testing.T) {
	g, err := Start(Config{
		Node: "n1", Advertise: netip.MustParseAddr("127.0.0.1"), Port: 6783, Log: slog.New(slog.DiscardHandler),
		Keyring: [][]byte{make([]byte, 32)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.current.Load().end(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := g.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Announce([]byte("late")); err == nil {
		t.Error("announced after Stop")
	}
}
