package route_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// startWatch runs Watch in the test's namespace. The function that it returns ends it, and gives its error.
func startWatch(t *testing.T, a *route.Applier, changed func()) func() error {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { must(t, here.Close()) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(here); err != nil {
			ended <- err
			return
		}
		ended <- a.Watch(ctx, changed)
	}()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-ended
	}
}

func TestWatchTellsOfEveryKindOfChange(t *testing.T) {
	a := routeHost(t)
	var count atomic.Int64
	end := startWatch(t, a, func() { count.Add(1) })
	eventually(t, "the first call, for what was before", func() bool { return count.Load() > 0 })
	for what, change := range map[string]func(){
		"link":       func() { ip(t, "link", "add", "br0", "type", "bridge") },
		"address":    func() { addAddress(t, "lo", "127.0.0.2/32") },
		"route":      func() { ip(t, "route", "add", "unreachable", "10.99.0.0/16") },
		"IPv6 route": func() { ip(t, "route", "add", "unreachable", "fd99::/64") },
		"rp_filter": func() {
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/weave-wg0/rp_filter", []byte("0"), 0))
		},
		"forwarding": func() { must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0)) },
	} {
		before := count.Load()
		change()
		eventually(t, "a call for a change of a "+what, func() bool { return count.Load() > before })
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A loop that applies at each call comes to rest: what it writes wakes it once more, and then there is nothing.
func TestWatchAndApplyComeToRest(t *testing.T) {
	a := routeHost(t)
	woken := make(chan struct{}, 1)
	end := startWatch(t, a, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	defer func() { must(t, end()) }()
	rounds := 0
	apply := func() int {
		writes, err := a.ApplyBridges(t.Context(), []view.Bridge{testBridge()})
		must(t, err)
		more, err := a.ApplyRoutes(t.Context(), testRoutes("weave-wg0"))
		must(t, err)
		rounds++
		return writes + more
	}
	<-woken
	for apply() > 0 {
		<-woken
	}
	changesNothing(t, func() (int, error) { return apply(), nil })
	t.Logf("%d rounds", rounds)
}

func TestWatchSurvivesOverflow(t *testing.T) {
	a := newNamespace(t)
	var count atomic.Int64
	gate := make(chan struct{})
	end := startWatch(t, a, func() {
		<-gate
		count.Add(1)
	})
	eventually(t, "the subscription", func() bool { return watchSocketDrops(t) != "" })
	lo := link(t, "lo")
	for i := 0; watchSocketDrops(t) == "0"; i++ {
		if i > 100000 {
			t.Fatal("no overflow after 100000 changes")
		}
		must(t, netlink.LinkSetAlias(lo, fmt.Sprint("flood", i)))
	}
	close(gate)
	// All that is left in the buffer, and the error in its place, is told before this one is.
	last := int64(-1)
	eventually(t, "rest", func() bool {
		now := count.Load()
		rest := now == last && now > 0
		last = now
		return rest
	})
	before := count.Load()
	must(t, netlink.LinkSetAlias(lo, "after"))
	eventually(t, "a call after the overflow", func() bool { return count.Load() > before })
	if err := end(); err != nil {
		t.Error(err)
	}
}

// watchSocketDrops is the count of lost messages of the one rtnetlink socket in this namespace that has joined
// groups; "" when there is none.
func watchSocketDrops(t *testing.T) string {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		f := strings.Fields(line)
		if len(f) == 10 && f[1] == "0" && f[3] != "00000000" && f[2] != "0" {
			return f[8]
		}
	}
	return ""
}

func TestKernelMaker(t *testing.T) {
	newNamespace(t)
	has, err := route.HasKernelWireGuard(t.Context())
	must(t, err)
	if out := ip(t, "link"); strings.Contains(out, "wgprobe") {
		t.Errorf("the probe left something: %s", out)
	}
	var maker route.KernelMaker
	makeTun(t, "weave-wg2")
	wants(t, maker.Make(t.Context(), "eth7", 1420), `"eth7" isn't the name of a tunnel device`)
	wants(t, maker.Remove(t.Context(), "weave-wg2"), "weave-wg2 isn't a WireGuard device", "a tun interface")
	must(t, maker.Remove(t.Context(), "weave-wg3"))
	err = maker.Make(t.Context(), "weave-wg0", 1420)
	if !has {
		t.Log("this kernel has no WireGuard")
		wants(t, err, "weave-wg0", "the kernel has no WireGuard", "userspace")
		return
	}
	must(t, err)
	wants(t, maker.Make(t.Context(), "weave-wg2", 1420), "weave-wg2 exists", "a tun interface")
	index := link(t, "weave-wg0").Attrs().Index
	must(t, maker.Make(t.Context(), "weave-wg0", 1420))
	if link(t, "weave-wg0").Attrs().Index != index {
		t.Error("it was made again")
	}
	names, err := maker.List(t.Context())
	must(t, err)
	if len(names) != 1 || names[0] != "weave-wg0" {
		t.Errorf("List: %v", names)
	}
	must(t, maker.Remove(t.Context(), "weave-wg0"))
	if _, err := netlink.LinkByName("weave-wg0"); err == nil {
		t.Error("it is still there")
	}
}
