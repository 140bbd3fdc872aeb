package mesh_test

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// meter is a fake of what measures the ways to peers.
type meter struct {
	mu       sync.Mutex
	followed []view.Way
	measured map[string]view.Measured
}

func (m *meter) Follow(ways []view.Way) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.followed = slices.Clone(ways)
}

func (m *meter) Measured() map[string]view.Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.measured)
}

func (m *meter) ways() []view.Way {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.followed
}

// The ways to all peers that there is a link to are measured, at an address of gossip's family, and status says what came of it.
func TestWaysAreMeasured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c, d := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c"), newSpeaker(t, 4, "d")
	six := netip.MustParseAddr("2001:db8::3")
	both := w.self.node()
	both.Addresses = append(both.Addresses, netip.MustParseAddr("2001:db8::1"))
	w.cluster.set(both, b.node(), c.node(), d.node())
	away := b.says(t, nil)
	away.Alive = false
	only := func(r *record.Record) {
		r.Endpoint4, r.Endpoint6 = netip.AddrPort{}, netip.AddrPortFrom(six, contract.BasePort)
	}
	w.air.say(away, c.says(t, only), d.says(t, nil))
	m := &meter{measured: map[string]view.Measured{"d": {RTT: 3 * time.Millisecond, Lost: 5, Probes: 20}, "x": {Lost: 1, Probes: 1}}}
	w.config.Meter = m
	a := w.start(t)
	s := a.pass()
	want := []view.Way{{Node: "b", Address: b.address()}, {Node: "d", Address: d.address(), Alive: true}}
	if got := m.ways(); !slices.Equal(got, want) {
		t.Errorf("measured are %+v, want %+v", got, want)
	}
	if p := peer(s, "d"); p.RTT != 0.003 || p.Loss != 0.25 || p.Probes != 20 {
		t.Errorf("d is %+v, want 3 ms and 25 %% loss of 20", p)
	}
	if p := peer(s, "c"); p.Endpoint != netip.AddrPortFrom(six, contract.BasePort).String() || p.RTT != 0 || p.Probes != 0 {
		t.Errorf("c is %+v, want it linked and unmeasured", p)
	}
	w.cluster.set(both, b.node(), c.node()) // d is gone
	a.pass()
	if got := m.ways(); !slices.Equal(got, want[:1]) {
		t.Errorf("then measured are %+v, want %+v", got, want[:1])
	}
}

// Gossip, which carries the probes, is at an address of one family: of a peer that has both, that one is measured.
func TestWaysAreMeasuredWhereGossipIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	six := netip.MustParseAddr("2001:db8::2")
	both := w.self.node()
	w.config.GossipAddress = netip.MustParseAddr("2001:db8::1")
	both.Addresses = append(both.Addresses, w.config.GossipAddress)
	w.cluster.set(both, b.node())
	w.air.say(b.says(t, func(r *record.Record) { r.Endpoint6 = netip.AddrPortFrom(six, contract.BasePort) }))
	m := &meter{}
	w.config.Meter = m
	s := w.start(t).pass()
	if p := peer(s, "b"); p.Endpoint != netip.AddrPortFrom(b.address(), contract.BasePort).String() {
		t.Errorf("the link to b goes to %s", p.Endpoint)
	}
	if got, want := m.ways(), []view.Way{{Node: "b", Address: six, Alive: true}}; !slices.Equal(got, want) {
		t.Errorf("measured are %+v, want %+v", got, want)
	}
}
