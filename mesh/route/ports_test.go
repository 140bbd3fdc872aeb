package route_test

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/cni/port"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// attach stores an attachment, and makes its interface and puts it on the bridge weave as the plugin does.
func attach(t *testing.T, dir, container string, created time.Time) string {
	t.Helper()
	id := store.ID{ContainerID: container, IfName: "eth0"}
	s, err := store.Open(dir)
	must(t, err)
	tx, err := s.Lock(t.Context())
	must(t, err)
	address := netip.MustParseAddr("10.32.5.2")
	_, err = tx.Reserve(id, address)
	must(t, err)
	must(t, tx.Put(store.Attachment{
		ID: id, Network: contract.DefaultCNINetwork, Bridge: "weave", HostIfName: id.HostInterface(), MAC: "0a:58:0a:20:05:02",
		Addresses: []netip.Addr{address}, Created: created,
	}))
	must(t, tx.Unlock())
	ip(t, "link", "add", id.HostInterface(), "up", "type", "veth", "peer", "name", "pod")
	pod, err := net.ParseMAC("0a:58:0a:20:05:02")
	must(t, err)
	must(t, port.Connect(&netlink.Handle{}, link(t, id.HostInterface()), link(t, "weave").Attrs().Index, pod))
	return id.HostInterface()
}

// Whatever somebody does to the interface of a pod, Apply puts it back.
func TestPortsArePutBack(t *testing.T) {
	for name, tt := range map[string]struct {
		created time.Time
		do      func(t *testing.T, port string)
	}{
		"off the bridge":        {do: func(t *testing.T, port string) { must(t, netlink.LinkSetNoMaster(link(t, port))) }},
		"down":                  {do: func(t *testing.T, port string) { must(t, netlink.LinkSetDown(link(t, port))) }},
		"the bridge is removed": {do: func(t *testing.T, _ string) { must(t, netlink.LinkDel(link(t, "weave"))) }},
		"on another bridge": {do: func(t *testing.T, port string) {
			ip(t, "link", "add", "docker0", "type", "bridge")
			ip(t, "link", "set", port, "master", "docker0")
		}},
		"not isolated": {do: func(t *testing.T, port string) { ip(t, "link", "set", port, "type", "bridge_slave", "isolated", "off") }},
		"learnt from":  {do: func(t *testing.T, port string) { ip(t, "link", "set", port, "type", "bridge_slave", "learning", "on") }},
		"off, and the clock is set back": {created: time.Now().Add(time.Hour), do: func(t *testing.T, port string) {
			must(t, netlink.LinkSetNoMaster(link(t, port)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			newNamespace(t)
			dir := t.TempDir()
			a := route.New(route.Config{Log: slog.New(slog.DiscardHandler), StoreDir: dir})
			apply := func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) }
			applied(t, apply)
			port := attach(t, dir, "c1", tt.created)
			changesNothing(t, apply)
			tt.do(t, port)
			applied(t, apply)
			attrs := link(t, port).Attrs()
			if attrs.MasterIndex != link(t, "weave").Attrs().Index || attrs.Flags&net.FlagUp == 0 {
				t.Errorf("%s is %s", port, ip(t, "link", "show", port))
			}
			if details := ip(t, "-details", "link", "show", port); !strings.Contains(details, "isolated on") || !strings.Contains(details, "learning off") {
				t.Errorf("%s is %s", port, details)
			}
			changesNothing(t, apply)
		})
	}
}

// What the plugin may be about to connect is left to it, and looked at again.
func TestNewPortIsLeftToThePlugin(t *testing.T) {
	newNamespace(t)
	dir := t.TempDir()
	a := route.New(route.Config{Log: slog.New(slog.DiscardHandler), StoreDir: dir})
	apply := func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) }
	applied(t, apply)
	created := time.Now()
	port := attach(t, dir, "c1", created)
	must(t, netlink.LinkSetNoMaster(link(t, port)))
	changesNothing(t, apply)
	for a.Astray(nil) {
		_, err := apply()
		must(t, err)
		if time.Since(created) > patience {
			t.Fatal("it is never put back")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if link(t, port).Attrs().MasterIndex == 0 || time.Since(created) < 2*time.Second {
		t.Errorf("%s after it was attached: %s", time.Since(created), ip(t, "link", "show", port))
	}
}

// A bridge of somebody else that has our bridge's name gets no pods.
func TestPortsStayOffForeignBridge(t *testing.T) {
	newNamespace(t)
	dir := t.TempDir()
	a := route.New(route.Config{Log: slog.New(slog.DiscardHandler), StoreDir: dir})
	apply := func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) }
	applied(t, apply)
	port := attach(t, dir, "c1", time.Time{})
	must(t, netlink.LinkDel(link(t, "weave")))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "weave", mac("02:00:00:00:00:01")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	addAddress(t, "weave", "10.40.0.0/12")
	if _, err := apply(); err == nil {
		t.Error("nothing is wrong with another's bridge")
	}
	if link(t, port).Attrs().MasterIndex != 0 {
		t.Errorf("the pod is on another's bridge: %s", ip(t, "link", "show", port))
	}
}
