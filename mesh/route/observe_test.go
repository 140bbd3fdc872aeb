package route_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// closedIn are the destinations of unreachable routes, sorted, as text.
func closedIn(routes []view.Route) string {
	var closed []netip.Prefix
	for _, r := range routes {
		if r.Device == "" {
			closed = append(closed, r.Destination)
		}
	}
	slices.SortFunc(closed, netip.Prefix.Compare)
	return fmt.Sprint(closed)
}

func TestObserveLinksAddressesAndRoutes(t *testing.T) {
	a := routeHost(t)
	makeVeth(t, "eth0")
	addAddress(t, "eth0", "192.0.2.7/24")
	ip(t, "route", "add", "default", "via", "192.0.2.1")
	ip(t, "route", "add", "10.96.0.0/16", "nexthop", "via", "192.0.2.8", "nexthop", "via", "192.0.2.9")
	ip(t, "route", "add", "10.97.0.0/16", "dev", "eth0", "table", "99")
	makeVeth(t, "pod")
	must(t, netlink.LinkSetMaster(link(t, "pod"), link(t, "weave")))
	_, err := a.ApplyRoutes(t.Context(), testRoutes("weave-wg0"))
	must(t, err)

	host, err := a.Observe(t.Context(), nil)
	must(t, err)
	if got, want := fmt.Sprint(host.Closed), closedIn(testRoutes("weave-wg0")); got != want {
		t.Errorf("closed are %s, want %s", got, want)
	}
	links := make(map[string]contract.HostLink)
	for _, l := range host.Links {
		links[l.Name] = l
	}
	for name, want := range map[string]string{
		"weave":     "bridge weaveguard 0a:57:0a:20:05:01 [pod]",
		"weave-wg0": "tun weaveguard  []",
		"eth0":      fmt.Sprintf("veth  %s []", link(t, "eth0").Attrs().HardwareAddr),
		"lo":        "   []",
	} {
		l := links[name]
		if got := fmt.Sprintf("%s %s %s %v", l.Kind, l.Alias, l.MAC, l.Ports); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, want := range []view.HostAddress{{Device: "eth0", Address: prefix("192.0.2.7/24")},
		{Device: "weave", Address: prefix("10.32.5.1/24")}, {Device: "weave", Address: prefix("fd00:5::1/64")}} {
		if !slices.Contains(host.Addresses, want) {
			t.Errorf("no address %v in %v", want, host.Addresses)
		}
	}
	for _, want := range []view.HostRoute{
		{Destination: prefix("0.0.0.0/0"), Device: "eth0", Gateway: addr("192.0.2.1"), Protocol: 3},
		{Destination: prefix("192.0.2.0/24"), Device: "eth0", Protocol: 2},
		{Destination: prefix("10.96.0.0/16"), Device: "eth0", Gateway: addr("192.0.2.8"), Protocol: 3},
		{Destination: prefix("10.96.0.0/16"), Device: "eth0", Gateway: addr("192.0.2.9"), Protocol: 3},
		{Destination: prefix("fd00:5::/64"), Device: "weave", Protocol: 2},
	} {
		if !slices.Contains(host.Routes, want) {
			t.Errorf("no route %v in %v", want, host.Routes)
		}
	}
	for _, r := range host.Routes {
		if r.Protocol == contract.RouteProtocol || r.Destination == prefix("10.97.0.0/16") ||
			r.Destination == prefix("127.0.0.0/8") {
			t.Errorf("there is a route of ours, or of another table: %v", r)
		}
	}
}

func TestObservePathMTU(t *testing.T) {
	a := routeHost(t)
	makeVeth(t, "eth0")
	must(t, netlink.LinkSetMTU(link(t, "eth0"), 1400))
	makeVeth(t, "eth1")
	addAddress(t, "eth0", "192.0.2.7/24")
	addAddress(t, "eth1", "198.51.100.7/24")
	addAddress(t, "eth1", "2001:db8::7/64")
	ip(t, "route", "add", "default", "via", "192.0.2.1")
	ip(t, "route", "add", "203.0.113.0/24", "via", "198.51.100.1", "mtu", "1350")
	ip(t, "route", "add", "203.0.114.0/24", "nexthop", "via", "192.0.2.8", "nexthop", "via", "198.51.100.9")
	ip(t, "route", "add", "unreachable", "203.0.115.0/24")
	// A pod range that holds endpoints: ours never counts.
	ip(t, "route", "add", "192.0.2.64/26", "dev", "weave-wg0", "mtu", "1200", "proto", "213")
	ip(t, "route", "add", "unreachable", "198.51.100.64/26", "proto", "213")
	want := map[netip.Addr]int{
		addr("192.0.2.9"):        1400,
		addr("8.8.8.8"):          1400, // default
		addr("198.51.100.9"):     1500,
		addr("203.0.113.9"):      1350,
		addr("203.0.114.9"):      1400, // the smaller of two ways
		addr("192.0.2.65"):       1400,
		addr("198.51.100.65"):    1500,
		addr("2001:db8::9"):      1500,
		addr("::ffff:192.0.2.9"): 1400,
	}
	endpoints := []netip.Addr{addr("203.0.115.9"), addr("2001:db9::1"), addr("192.0.2.7")} // no way out
	for endpoint := range want {
		endpoints = append(endpoints, endpoint)
	}
	host, err := a.Observe(t.Context(), endpoints)
	must(t, err)
	for endpoint, mtu := range want {
		if host.PathMTU[endpoint] != mtu {
			t.Errorf("to %s the MTU is %d, want %d", endpoint, host.PathMTU[endpoint], mtu)
		}
	}
	if len(host.PathMTU) != len(want) {
		t.Errorf("%v", host.PathMTU)
	}
}

// The kernel breaks off a list that changes while it is read.
func TestObserveWhileLinksComeAndGo(t *testing.T) {
	a := newNamespace(t)
	for i := range 300 {
		ip(t, "link", "add", fmt.Sprintf("br%d", i), "type", "bridge")
	}
	here, err := netns.Get()
	must(t, err)
	defer func() { must(t, here.Close()) }()
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		runtime.LockOSThread()
		if err := netns.Set(here); err != nil {
			t.Error(err)
			return
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "churn"
		for {
			select {
			case <-stop:
				return
			default:
			}
			bridge := &netlink.Bridge{LinkAttrs: attrs}
			if err := netlink.LinkAdd(bridge); err != nil {
				t.Error(err)
				return
			}
			if err := netlink.LinkDel(bridge); err != nil {
				t.Error(err)
				return
			}
		}
	})
	broken := 0
	for range 60 {
		if _, err := netlink.LinkList(); err != nil {
			broken++
		}
		host, err := a.Observe(t.Context(), nil)
		must(t, err)
		bridges := 0
		for _, l := range host.Links {
			if strings.HasPrefix(l.Name, "br") {
				bridges++
			}
		}
		if bridges != 300 {
			t.Errorf("of 300 bridges %d were seen", bridges)
		}
	}
	close(stop)
	churn.Wait()
	t.Logf("the bare list broke off %d times of 60", broken)
}
