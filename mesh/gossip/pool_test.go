package gossip

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// caller is a connection from an address that brings zeros as they are read.
type caller struct {
	net.Conn
	from net.IP
	cut  bool
}

func (c *caller) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.from} }
func (c *caller) Close() error         { c.cut = true; return nil }
func (c *caller) Read(p []byte) (int, error) {
	if c.cut {
		return 0, net.ErrClosed
	}
	clear(p)
	return len(p), nil
}

// known is a snapshot of addresses.
func known(addresses ...string) func() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	for _, a := range addresses {
		all[netip.MustParseAddr(a)] = true
	}
	return func() map[netip.Addr]bool { return all }
}

func stranger(i int) *caller { return &caller{from: net.IPv4(10, 0, byte(i>>8), byte(i))} }

// Of too many strangers the one that holds its stream longest goes, and known ones have room whatever strangers do.
func TestStreamsOfStrangers(t *testing.T) {
	c := newCaps(inspector{})
	seed := net.IPv4(10, 9, 9, 9)
	c.know(known("10.9.9.9"))
	member := c.admit(&caller{from: seed})
	var callers []*caller
	var streams []net.Conn
	for i := range 3 * maxStreams {
		callers = append(callers, stranger(i))
		streams = append(streams, c.admit(callers[i]))
		if streams[i] == nil {
			t.Fatalf("stranger %d isn't let in", i)
		}
	}
	for i, s := range callers {
		if dropped := i < 2*maxStreams; s.cut != dropped {
			t.Errorf("stranger %d of %d dropped: %t", i, len(callers), s.cut)
		}
	}
	if _, err := streams[0].Read(make([]byte, 1)); !errors.Is(err, errStreamDropped) {
		t.Errorf("a dropped stream ends with %v", err)
	}
	if _, err := member.Read(make([]byte, 1)); err != nil {
		t.Errorf("the stream of a known address ends with %v", err)
	}
	if c.admit(&caller{from: seed}) == nil {
		t.Error("a known address isn't let in")
	}
	for _, s := range append(streams, member) {
		_ = s.Close()
	}
	if len(c.strangers.open) != 0 || c.strangers.size != 0 || len(c.streams) != 1 {
		t.Errorf("left %+v, %v", c.strangers, c.streams)
	}
}

// When strangers bring too much, those go that bring most of it.
func TestBytesOfStrangers(t *testing.T) {
	c := newCaps(inspector{})
	small := c.admit(stranger(1000))
	if _, err := io.CopyN(io.Discard, small, 1000); err != nil {
		t.Fatal(err)
	}
	for i := range 32 {
		_, _ = io.CopyN(io.Discard, c.admit(stranger(i)), 8<<20)
		if c.strangers.size > maxStreamsSize {
			t.Fatalf("%d bytes are held, at most %d", c.strangers.size, maxStreamsSize)
		}
	}
	if _, err := io.CopyN(io.Discard, small, 1000); err != nil {
		t.Errorf("a small stream ends with %v", err)
	}
}

// A known address that brings too much, in several streams, loses one of its own, and not a larger one of another.
func TestBytesOfKnownAddresses(t *testing.T) {
	c := newCaps(inspector{})
	honest, greedy := netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("10.9.9.2")
	c.know(known(honest.String(), greedy.String()))
	large := c.admit(&caller{from: honest.AsSlice()})
	if _, err := io.CopyN(io.Discard, large, 7<<20); err != nil {
		t.Fatal(err)
	}
	for range maxSourceStreams {
		_, _ = io.CopyN(io.Discard, c.admit(&caller{from: greedy.AsSlice()}), 6<<20)
		if c.members.size > maxStreamsSize {
			t.Fatalf("%d bytes are held, at most %d", c.members.size, maxStreamsSize)
		}
	}
	if _, err := io.CopyN(io.Discard, large, 1<<20); err != nil {
		t.Errorf("the stream of another address ends with %v", err)
	}
}

// Messages are counted for each known address, and for all others together, in a second.
func TestMessagesInASecond(t *testing.T) {
	c := newCaps(inspector{})
	one, other := netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("10.9.9.2")
	c.know(known(one.String(), other.String()))
	now := time.Unix(1000, 0)
	taken := func(from func(i int) netip.Addr, at time.Time) (n int) {
		for i := range 1000 {
			if c.messages(from(i), 1, at) {
				n++
			}
		}
		return n
	}
	same := func(a netip.Addr) func(int) netip.Addr { return func(int) netip.Addr { return a } }
	strangers := func(i int) netip.Addr { return addressOf(stranger(i).RemoteAddr()) }
	for _, at := range []time.Time{now, now.Add(time.Second)} {
		for _, got := range [][2]int{
			{taken(strangers, at), maxStrange}, {taken(same(one), at), maxMessages}, {taken(same(other), at), maxMessages},
		} {
			if got[0] != got[1] {
				t.Errorf("%d messages are taken in a second, want %d", got[0], got[1])
			}
		}
	}
	if c.messages(one, maxMessages+1, now.Add(time.Minute)) {
		t.Error("a packet with more messages than may be is taken")
	}
}

// Of known addresses too, those that hold many streams make room for those that hold fewer.
func TestStreamsOfMembers(t *testing.T) {
	c := newCaps(inspector{})
	var addresses []string
	for i := range 20 {
		addresses = append(addresses, stranger(i).from.String())
	}
	c.know(known(append(addresses, "10.9.9.9")...))
	var callers []*caller
	for i := range 20 {
		for range maxSourceStreams {
			one := stranger(i)
			if c.admit(one) != nil {
				callers = append(callers, one)
			}
		}
	}
	for i := range maxSourceStreams {
		if c.admit(&caller{from: net.IPv4(10, 9, 9, 9)}) == nil && i < 3 {
			t.Errorf("an honest address has %d streams and gets no more", i)
		}
	}
	cut := 0
	for _, one := range callers {
		if one.cut {
			cut++
		}
	}
	if n := len(c.members.open); n != maxStreams || cut == 0 {
		t.Errorf("%d streams are open, %d were cut", n, cut)
	}
}
