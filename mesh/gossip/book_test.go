package gossip

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	dawn    = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	address = netip.MustParseAddrPort("10.0.0.2:6783")
	moved   = netip.MustParseAddrPort("10.0.0.9:6783")
)

func heardOf(b *book, node string) (raws []string, alive bool) {
	for _, h := range b.heard() {
		if h.Node == node {
			raws, alive = append(raws, string(h.Raw)), h.Alive
		}
	}
	return raws, alive
}

// The goodbye of a node's last start may come before or after the hello of the next.
func TestBookRestartInBothOrders(t *testing.T) {
	for _, goodbyeFirst := range []bool{true, false} {
		b := newBook("self/0")
		b.alive("n/1", "n", address, []byte("one"), dawn)
		steps := []func(){
			func() { b.gone("n/1", "n") },
			func() { b.alive("n/2", "n", moved, []byte("two"), dawn) },
		}
		if !goodbyeFirst {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			step()
		}
		raws, alive := heardOf(b, "n")
		if want := []string{"one", "two"}; !slices.Equal(raws, want) || !alive {
			t.Errorf("goodbye first %t: heard %q, alive %t", goodbyeFirst, raws, alive)
		}
		if want := []Member{{Node: "n", Addr: moved}}; !slices.Equal(b.members(), want) {
			t.Errorf("goodbye first %t: members %v, want %v", goodbyeFirst, b.members(), want)
		}
		if news := b.gone("n/1", "n"); news {
			t.Error("a second goodbye is news")
		}
	}
}

func TestBookTellsOnlyNews(t *testing.T) {
	b := newBook("self/0")
	steps := []struct {
		what string
		do   func() bool
		news bool
	}{
		{"a new member", func() bool { n, _ := b.alive("n/1", "n", address, []byte("one"), dawn); return n }, true},
		{"the same", func() bool { n, _ := b.alive("n/1", "n", address, []byte("one"), dawn); return n }, false},
		{"a new record", func() bool { n, _ := b.alive("n/1", "n", address, []byte("two"), dawn); return n }, true},
		{"another address", func() bool { n, _ := b.alive("n/1", "n", moved, []byte("two"), dawn); return n }, true},
		{"handed on, known", func() bool { n, _ := b.handed("n", []byte("two")); return n }, false},
		{"handed on, new", func() bool { n, _ := b.handed("n", []byte("three")); return n }, true},
		{"handed on again", func() bool { n, _ := b.handed("n", []byte("three")); return n }, false},
		{"a goodbye", func() bool { return b.gone("n/1", "n") }, true},
		{"of a stranger", func() bool { return b.gone("m/1", "m") }, false},
		{"a member without a record", func() bool { n, _ := b.alive("m/1", "m", address, nil, dawn); return n }, true},
		{"the same, moved", func() bool { n, _ := b.alive("m/1", "m", moved, nil, dawn); return n }, true},
	}
	for _, s := range steps {
		if got := s.do(); got != s.news {
			t.Errorf("%s: news %t, want %t", s.what, got, s.news)
		}
	}
	if raws, _ := heardOf(b, "m"); raws != nil {
		t.Errorf("no record is heard as %q", raws)
	}
}

// What is verified already needs no checking again.
func TestBookPassesOverWhatIsVerified(t *testing.T) {
	b := newBook("self/0")
	b.share(map[string][]byte{"n": []byte("verified")})
	if news, ok := b.handed("n", []byte("verified")); news || !ok {
		t.Errorf("handed(verified) = %t, %t", news, ok)
	}
	if len(b.heard()) > 0 {
		t.Errorf("heard %v", b.heard())
	}
	b.forget("n")
	if news, _ := b.handed("n", []byte("verified")); !news {
		t.Error("after forgetting it is no news")
	}
}

// Whoever hands on junk in a node's name must not push out what the node itself says.
func TestBookKeepsWhatTheLivingSay(t *testing.T) {
	b := newBook("self/0")
	b.alive("n/1", "n", address, []byte("its own"), dawn)
	for i := range 100 {
		b.handed("n", fmt.Appendf(nil, "junk %d", i))
	}
	raws, _ := heardOf(b, "n")
	if want := []string{"its own", "junk 97", "junk 98", "junk 99"}; !slices.Equal(raws, want) {
		t.Errorf("heard %q, want %q", raws, want)
	}
}

func TestBookIsBounded(t *testing.T) {
	b := newBook("self/0")
	b.alive("living/1", "living", address, []byte("a"), dawn)
	b.share(map[string][]byte{"verified": []byte("b")})
	b.handed("verified", []byte("newer"))
	for i := range 3 * maxNodes {
		if _, ok := b.handed(fmt.Sprintf("junk-%d", i), []byte("junk")); !ok {
			t.Fatalf("name %d isn't taken: the newest must be", i)
		}
		if len(b.nodes) > maxNodes {
			t.Fatalf("%d names", len(b.nodes))
		}
	}
	for _, node := range []string{"living", "verified", fmt.Sprintf("junk-%d", 3*maxNodes-1)} {
		if raws, _ := heardOf(b, node); len(raws) == 0 {
			t.Errorf("%s was evicted", node)
		}
	}
	for i := range maxNodes + 10 {
		b.alive(fmt.Sprintf("m%d/1", i), fmt.Sprintf("m%d", i), address, []byte("x"), dawn)
	}
	if len(b.nodes) > maxNodes {
		t.Errorf("%d names of members", len(b.nodes))
	}
	if _, ok := b.alive("late/1", "late", address, []byte("x"), dawn); ok {
		t.Error("a full book takes one more")
	}
}

func TestBookCopies(t *testing.T) {
	b := newBook("self/0")
	raw := []byte("abc")
	b.alive("n/1", "n", address, raw, dawn)
	b.handed("m", raw)
	shared := map[string][]byte{"s": raw}
	b.share(shared)
	raw[0] = 'X'
	shared["t"] = raw
	b.heard()[0].Raw[1] = 'X'
	for _, h := range b.heard() {
		if string(h.Raw) != "abc" {
			t.Errorf("%s is %q: shared with the caller", h.Node, h.Raw)
		}
	}
	if got := b.unspoken(); len(got) != 1 || string(got["s"]) != "abc" {
		t.Errorf("shared %q", got)
	}
}

func TestBookSharesForTheAbsentOnly(t *testing.T) {
	b := newBook("self/0")
	b.share(map[string][]byte{"living": []byte("a"), "gone": []byte("b"), "unknown": []byte("c")})
	b.alive("living/1", "living", address, []byte("a"), dawn)
	b.alive("gone/1", "gone", address, []byte("b"), dawn)
	b.gone("gone/1", "gone")
	want := map[string][]byte{"gone": []byte("b"), "unknown": []byte("c")}
	if got := b.unspoken(); !reflect.DeepEqual(got, want) {
		t.Errorf("unspoken() = %q, want %q", got, want)
	}
}

func TestBookTwins(t *testing.T) {
	b := newBook("self/0")
	b.alive("n/1", "n", address, nil, dawn)
	b.alive("n/2", "n", moved, nil, dawn.Add(time.Hour))
	b.alive("same/1", "same", address, nil, dawn)
	b.alive("same/2", "same", address, nil, dawn)
	if got := b.twins(dawn.Add(time.Hour + twinAge/2)); len(got) > 0 {
		t.Errorf("a node that moved counts as two: %v", got)
	}
	want := map[string][]netip.Addr{"n": {address.Addr(), moved.Addr()}}
	if got := b.twins(dawn.Add(time.Hour + twinAge)); !reflect.DeepEqual(got, want) {
		t.Errorf("twins = %v, want %v", got, want)
	}
	b.gone("n/1", "n")
	if got := b.twins(dawn.Add(2 * time.Hour)); len(got) > 0 {
		t.Errorf("one member counts as two: %v", got)
	}
}

// This node stands in the list under its own address, whoever else has its name.
func TestBookSelfComesFirst(t *testing.T) {
	b := newBook("n/0")
	b.alive("n/0", "n", address, []byte("own"), dawn)
	b.alive("n/1", "n", moved, []byte("by another"), dawn)
	if want := []Member{{Node: "n", Addr: address, Self: true}}; !slices.Equal(b.members(), want) {
		t.Errorf("members %v, want %v", b.members(), want)
	}
	if raws, _ := heardOf(b, "n"); !slices.Equal(raws, []string{"by another"}) {
		t.Errorf("heard in this node's name: %q", raws)
	}
}

// What is heard in this node's name is alive only as long as somebody else says it: the record of an earlier
// identity, which others hand on, isn't another node.
func TestBookSelfIsNotItsTwin(t *testing.T) {
	b := newBook("self/0")
	b.alive("self/0", "self", address, []byte("own"), dawn)
	b.handed("self", []byte("earlier"))
	if raws, alive := heardOf(b, "self"); !slices.Equal(raws, []string{"earlier"}) || alive {
		t.Errorf("heard %q, alive %t; want what was handed on, not alive", raws, alive)
	}
	b.alive("self/1", "self", moved, []byte("twin"), dawn)
	if _, alive := heardOf(b, "self"); !alive {
		t.Error("another node of this name isn't alive")
	}
}

// A restarted agent has two members at one address: what is sent there is sent once.
func TestBookAddresses(t *testing.T) {
	b := newBook("self/0")
	b.alive("n/1", "n", address, nil, dawn)
	b.alive("n/2", "n", address, nil, dawn)
	b.alive("n/3", "n", moved, nil, dawn)
	b.alive("n/4", "n", netip.AddrPort{}, nil, dawn)
	b.alive("m/1", "m", netip.MustParseAddrPort("10.0.0.5:6783"), nil, dawn)
	sorted := func() []netip.AddrPort {
		return slices.SortedFunc(slices.Values(b.addresses("n", 8)), netip.AddrPort.Compare)
	}
	if got, want := sorted(), []netip.AddrPort{address, moved}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	b.gone("n/1", "n")
	b.gone("n/3", "n")
	if got, want := sorted(), []netip.AddrPort{address}; !slices.Equal(got, want) {
		t.Errorf("with two members gone: addresses %v, want %v", got, want)
	}
	b.handed("handed on", []byte("record"))
	for _, node := range []string{"handed on", "stranger", "self"} {
		if got := b.addresses(node, 8); len(got) > 0 {
			t.Errorf("%s isn't there, and has addresses %v", node, got)
		}
	}
}

// Whoever makes up members of a node can't make a message to it a flood, and not keep it from the node for ever.
func TestBookAddressesAreBounded(t *testing.T) {
	b := newBook("self/0")
	for i := range 100 {
		b.alive(fmt.Sprintf("n/%d", i), "n", netip.AddrPortFrom(address.Addr(), uint16(i+1)), nil, dawn)
	}
	reached := make(map[netip.AddrPort]bool)
	for range 1000 {
		addrs := b.addresses("n", maxRecipients)
		if len(addrs) != maxRecipients {
			t.Fatalf("%d addresses, want %d", len(addrs), maxRecipients)
		}
		for _, a := range addrs {
			reached[a] = true
		}
	}
	if len(reached) != 100 {
		t.Errorf("1000 messages reach %d of 100 addresses", len(reached))
	}
}
