package mesh_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// prober is a fake of what probes the ways to peers.
type prober struct {
	mu       sync.Mutex
	followed []view.Path
	found    map[netip.Addr]int
}

func (p *prober) Follow(paths []view.Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range paths {
		if path.Found != 0 && p.found[path.Address] == 0 { // what it is told goes on
			p.found[path.Address] = path.Found
		}
	}
	p.followed = slices.Clone(paths)
}

func (p *prober) MTUs() map[netip.Addr]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[netip.Addr]int{}
	for _, path := range p.followed {
		if mtu := p.found[path.Address]; mtu != 0 {
			found[path.Address] = mtu
		}
	}
	return found
}

func (p *prober) find(found map[netip.Addr]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = maps.Clone(found)
}

// first is the way that was followed first.
func (p *prober) first() view.Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.followed) == 0 {
		return view.Path{}
	}
	return p.followed[0]
}

// Routes follow what probes find, the kernel is told, status says so, and an agent that starts goes on with it.
func TestRoutesFollowProbes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	probes := &prober{found: map[netip.Addr]int{}}
	w.config.Paths = probes
	check := func(when string, status view.Status, mtu, path int, route string) {
		t.Helper()
		if p := peer(status, "b"); p == nil || p.MTU != mtu || p.PathMTU != path {
			t.Errorf("%s the peer is %+v, want MTU %d and path %d", when, p, mtu, path)
		}
		if got := w.kernel.text("routes"); !strings.Contains(got, route) {
			t.Errorf("%s the routes are %s, want one with %q", when, got, route)
		}
	}
	a := w.start(t)
	check("unprobed", a.pass(), 1440, 0, "MTU:1440")
	if got, want := probes.first(), (view.Path{Address: b.address(), Limit: 1500}); got != want {
		t.Errorf("followed is %+v, want %+v", got, want)
	}
	probes.find(map[netip.Addr]int{b.address(): 1500})
	check("wide", a.pass(), 1440, 0, "MTU:1440")
	if got := w.kernel.text("paths"); !strings.Contains(got, "Found:1500") {
		t.Errorf("the kernel was told of %s", got)
	}
	probes.find(map[netip.Addr]int{b.address(): 1388})
	check("narrow", a.pass(), 1328, 1388, "MTU:1328")
	a.pass() // and so it is on disk
	a.stop()

	probes = &prober{found: map[netip.Addr]int{}}
	w.config.Paths = probes
	a = w.start(t)
	if got := probes.first(); got.Found != 1388 {
		t.Errorf("after a restart followed is %+v, want what was found before", got)
	}
	probes.find(map[netip.Addr]int{b.address(): 1500})
	check("when it is wide again", a.pass(), 1440, 0, "MTU:1440")
	a.stop()

	w.config.MTU, w.config.Paths = 1300, probes
	check("with an override", w.start(t).pass(), 1300, 0, "MTU:1300")
	if got := probes.first(); got.Address.IsValid() {
		t.Errorf("with an override %+v is probed", got)
	}
}
