package route_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// routeHost is a node with its bridge and two tunnel devices.
func routeHost(t *testing.T) *route.Applier {
	t.Helper()
	a := newNamespace(t)
	makeTun(t, "weave-wg0")
	makeTun(t, "weave-wg1")
	_, err := a.ApplyBridges(t.Context(), []view.Bridge{testBridge()})
	must(t, err)
	_, err = a.ApplyDevices(t.Context(), []view.Device{testDevice("weave-wg0"), testDevice("weave-wg1")})
	must(t, err)
	return a
}

func testRoutes(device string) []view.Route {
	return []view.Route{
		{Destination: prefix("10.32.0.0/12"), Metric: 4000},
		{Destination: prefix("10.32.6.0/24"), Device: device, Source: addr("10.32.5.1"), MTU: 1408, Metric: 30},
		{Destination: prefix("fd00::/16"), Metric: 4000},
		{Destination: prefix("fd00:6::/64"), Device: device, Source: addr("fd00:5::1"), MTU: 1408},
	}
}

func shownRoutes(device string) string {
	return strings.ReplaceAll(`10.32.6.0/24 dev DEVICE scope link src 10.32.5.1 metric 30 mtu 1408
unreachable 10.32.0.0/12 metric 4000
fd00:6::/64 dev DEVICE src fd00:5::1 metric 1024 mtu 1408
unreachable fd00::/16 dev lo metric 4000`, "DEVICE", device)
}

func sortedLines(s string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(strings.TrimSpace(s), "\n")), "\n")
}

func checkRoutes(t *testing.T, want string) {
	t.Helper()
	if got := ourRoutes(t); sortedLines(got) != sortedLines(want) {
		t.Errorf("our routes are\n%s\nwant\n%s", got, want)
	}
}

func TestRoutesAreSetAndRepaired(t *testing.T) {
	tests := map[string]func(t *testing.T){
		"as they were":  nil,
		"removed":       func(t *testing.T) { ip(t, "route", "flush", "proto", "213") },
		"device bounce": func(t *testing.T) { ip(t, "link", "set", "weave-wg0", "down") },
		"source gone": func(t *testing.T) {
			ip(t, "route", "replace", "10.32.6.0/24", "dev", "weave-wg0", "metric", "30", "proto", "213")
		},
		"MTU locked": func(t *testing.T) {
			ip(t, "route", "replace", "10.32.6.0/24", "dev", "weave-wg0", "src", "10.32.5.1", "metric", "30", "proto", "213",
				"mtu", "lock", "1408")
		},
		"other device": func(t *testing.T) {
			ip(t, "route", "replace", "10.32.6.0/24", "dev", "weave-wg1", "metric", "30", "proto", "213")
			ip(t, "route", "replace", "fd00:6::/64", "dev", "weave-wg1", "proto", "213")
		},
		"unreachable": func(t *testing.T) {
			ip(t, "route", "replace", "unreachable", "10.32.6.0/24", "metric", "30", "proto", "213")
			ip(t, "route", "replace", "unreachable", "fd00:6::/64", "proto", "213")
		},
		"surplus": func(t *testing.T) {
			ip(t, "route", "add", "10.32.7.0/24", "dev", "weave-wg0", "proto", "213")
			ip(t, "route", "add", "10.32.6.0/24", "dev", "weave-wg1", "metric", "31", "proto", "213")
			ip(t, "route", "add", "10.32.6.0/24", "tos", "4", "dev", "weave-wg1", "metric", "30", "proto", "213")
			ip(t, "route", "append", "10.32.6.0/24", "dev", "weave-wg1", "metric", "30", "proto", "213")
			ip(t, "route", "add", "fd00:7::/64", "dev", "weave-wg0", "proto", "213")
			ip(t, "route", "add", "unreachable", "fd00:8::/64", "metric", "5", "proto", "213")
			ip(t, "route", "add", "unreachable", "10.99.0.0/16", "proto", "213")
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			a := routeHost(t)
			ip(t, "route", "add", "10.32.8.0/24", "dev", "weave", "proto", "static", "metric", "30")
			ip(t, "route", "add", "10.32.6.0/24", "dev", "weave", "proto", "bird", "metric", "77")
			foreign := foreignRoutes(t)
			applied(t, func() (int, error) { return a.ApplyRoutes(t.Context(), testRoutes("weave-wg0")) })
			if spoil != nil {
				spoil(t)
				_, err := a.ApplyDevices(t.Context(), []view.Device{testDevice("weave-wg0"), testDevice("weave-wg1")})
				must(t, err)
				applied(t, func() (int, error) { return a.ApplyRoutes(t.Context(), testRoutes("weave-wg0")) })
			}
			checkRoutes(t, shownRoutes("weave-wg0"))
			if got := foreignRoutes(t); got != foreign {
				t.Errorf("others' routes were\n%s\nand are\n%s", foreign, got)
			}
		})
	}
}

// foreignRoutes is what ip(8) shows of the routes that are neither ours nor the kernel's.
func foreignRoutes(t *testing.T) string {
	return ip(t, "route", "show", "proto", "static") + ip(t, "route", "show", "proto", "bird")
}

// What a plan no longer wants goes, and a change of the prefix is no gap for the rest.
func TestRoutesChange(t *testing.T) {
	a := routeHost(t)
	applied(t, func() (int, error) { return a.ApplyRoutes(t.Context(), testRoutes("weave-wg0")) })
	writes, err := a.ApplyRoutes(t.Context(), testRoutes("weave-wg1"))
	must(t, err)
	if writes != 2 {
		t.Errorf("moving two routes took %d writes", writes)
	}
	checkRoutes(t, shownRoutes("weave-wg1"))
	applied(t, func() (int, error) { return a.ApplyRoutes(t.Context(), testRoutes("weave-wg1")[:1]) })
	checkRoutes(t, "unreachable 10.32.0.0/12 metric 4000")
	applied(t, func() (int, error) { return a.ApplyRoutes(t.Context(), nil) })
	checkRoutes(t, "")
}

// A route that can't be set costs no other: least of all the unreachable ones, which keep pods' packets in.
func TestRouteErrorsCostNoOtherRoute(t *testing.T) {
	a := routeHost(t)
	ip(t, "link", "add", "docker0", "type", "bridge")
	ip(t, "link", "set", "docker0", "up")
	ip(t, "route", "add", "10.32.9.0/24", "dev", "docker0", "metric", "30", "proto", "static")
	routes := append([]view.Route{
		{Destination: prefix("10.32.7.0/24"), Device: "weave-wg3", Metric: 30},
		{Destination: prefix("10.32.8.0/24"), Device: "docker0", Metric: 30},
		{Destination: prefix("10.32.9.0/24"), Device: "weave-wg0", Metric: 30},
	}, testRoutes("weave-wg0")...)
	_, err := a.ApplyRoutes(t.Context(), routes)
	wants(t, err, "10.32.7.0/24 needs the device weave-wg3, which doesn't exist",
		"10.32.8.0/24 needs the device docker0, which isn't Weaveguard's",
		"10.32.9.0/24 metric 30 dev weave-wg0: another route has its place", "dev docker0, protocol 4",
		"ip route delete 10.32.9.0/24 metric 30 proto 4")
	checkRoutes(t, shownRoutes("weave-wg0"))
	if shown := ip(t, "route", "show", "10.32.9.0/24"); !strings.Contains(shown, "dev docker0") {
		t.Errorf("the foreign route is now %s", shown)
	}
}

func TestCleanupRemovesOnlyOurs(t *testing.T) {
	a := routeHost(t)
	_, err := a.ApplyRoutes(t.Context(), testRoutes("weave-wg0"))
	must(t, err)
	makeVeth(t, "pod")
	must(t, netlink.LinkSetMaster(link(t, "pod"), link(t, "weave")))
	ip(t, "link", "add", "docker0", "type", "bridge")
	ip(t, "link", "set", "docker0", "up")
	ip(t, "route", "add", "10.50.0.0/16", "dev", "docker0", "proto", "static")
	makeTun(t, "tun0")
	applied(t, func() (int, error) { return a.Cleanup(t.Context()) })
	var names []string
	list, err := netlink.LinkList()
	must(t, err)
	for _, l := range list {
		names = append(names, l.Attrs().Name)
	}
	if got := strings.Join(names, " "); strings.Contains(got, "weave") || !strings.Contains(got, "docker0") ||
		!strings.Contains(got, "tun0") || !strings.Contains(got, "pod") {
		t.Errorf("the links are %s", got)
	}
	checkRoutes(t, "")
	if shown := ip(t, "route", "show", "10.50.0.0/16"); shown == "" {
		t.Error("somebody else's route is gone")
	}
}
