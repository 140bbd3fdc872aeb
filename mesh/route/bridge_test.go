package route_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Whatever happened to our bridge, Apply leaves it as it should be, without making it again.
func TestBridgeIsMadeAndRepaired(t *testing.T) {
	tests := map[string]func(t *testing.T, weave netlink.Link){
		"as it was": nil,
		"down":      func(t *testing.T, weave netlink.Link) { must(t, netlink.LinkSetDown(weave)) },
		"another MAC": func(t *testing.T, weave netlink.Link) {
			must(t, netlink.LinkSetHardwareAddr(weave, mac("02:00:00:00:00:07")))
		},
		"another MTU": func(t *testing.T, weave netlink.Link) { must(t, netlink.LinkSetMTU(weave, 1300)) },
		"being made":  func(t *testing.T, weave netlink.Link) { must(t, netlink.LinkSetAlias(weave, "")) },
		"spanning tree": func(t *testing.T, _ netlink.Link) {
			ip(t, "link", "set", "weave", "type", "bridge", "stp_state", "1")
		},
		"delay": func(t *testing.T, _ netlink.Link) {
			ip(t, "link", "set", "weave", "type", "bridge", "forward_delay", "900")
		},
		"addresses missing":  func(t *testing.T, _ netlink.Link) { ip(t, "address", "flush", "dev", "weave") },
		"another subnet":     func(t *testing.T, _ netlink.Link) { addAddress(t, "weave", "10.40.0.1/24") },
		"another of subnet":  func(t *testing.T, _ netlink.Link) { addAddress(t, "weave", "10.32.5.9/24") },
		"IPv6 surplus":       func(t *testing.T, _ netlink.Link) { addAddress(t, "weave", "fd00:9::1/64") },
		"ours is secondary":  func(t *testing.T, _ netlink.Link) { makeSecondary(t) },
		"everything at once": func(t *testing.T, weave netlink.Link) { spoil(t, weave) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			a := newNamespace(t)
			apply := func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) }
			applied(t, apply)
			before := link(t, "weave")
			if spoil != nil {
				spoil(t, before)
				applied(t, apply)
			}
			checkBridge(t, before.Attrs().Index)
		})
	}
}

func makeSecondary(t *testing.T) {
	ip(t, "address", "flush", "dev", "weave")
	addAddress(t, "weave", "10.32.5.9/24")
	addAddress(t, "weave", "10.32.5.1/24")
}

func spoil(t *testing.T, weave netlink.Link) {
	makeSecondary(t)
	must(t, netlink.LinkSetMTU(weave, 1300))
	ip(t, "link", "set", "weave", "type", "bridge", "stp_state", "1", "forward_delay", "900")
	must(t, netlink.LinkSetDown(weave))
}

func checkBridge(t *testing.T, index int) {
	t.Helper()
	attrs := link(t, "weave").Attrs()
	if attrs.Index != index {
		t.Error("the bridge was made again")
	}
	if attrs.Alias != "weaveguard" || attrs.MTU != 1420 || attrs.Flags&net.FlagUp == 0 ||
		attrs.HardwareAddr.String() != "0a:57:0a:20:05:01" {
		t.Errorf("the bridge is %+v", attrs)
	}
	details := ip(t, "-details", "link", "show", "weave")
	if !strings.Contains(details, "forward_delay 0 ") || !strings.Contains(details, "stp_state 0 ") {
		t.Errorf("the bridge has a spanning tree: %s", details)
	}
	shown := ip(t, "-oneline", "address", "show", "dev", "weave", "scope", "global")
	if !strings.Contains(shown, "10.32.5.1/24") || !strings.Contains(shown, "fd00:5::1/64") ||
		strings.Count(shown, "\n") != 2 || strings.Contains(shown, "secondary") || strings.Contains(shown, "tentative") {
		t.Errorf("the bridge has the addresses %s", shown)
	}
}

// The MTU of a bridge follows its ports, unless somebody has set it.
func TestBridgeKeepsMTUWhenPortJoins(t *testing.T) {
	a := newNamespace(t)
	apply := func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) }
	applied(t, apply)
	makeVeth(t, "pod")
	must(t, netlink.LinkSetMTU(link(t, "pod"), 1280))
	must(t, netlink.LinkSetMaster(link(t, "pod"), link(t, "weave")))
	if mtu := link(t, "weave").Attrs().MTU; mtu != 1420 {
		t.Errorf("the bridge has MTU %d", mtu)
	}
	changesNothing(t, apply)
}

func TestForeignBridgeIsLeftAlone(t *testing.T) {
	a := newNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "weave", mac("02:00:00:00:00:01")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	makeVeth(t, "vethwe-br")
	must(t, netlink.LinkSetMaster(link(t, "vethwe-br"), link(t, "weave")))
	addAddress(t, "weave", "10.40.0.0/12")
	other := testBridge()
	other.Name = "second"
	heard := announced(t, func() {
		_, err := a.ApplyBridges(t.Context(), []view.Bridge{testBridge(), other})
		wants(t, err, "weave", "Weave Net", "vethwe-br", "cleanup --weave-net")
	})
	for _, what := range heard {
		if what == "link weave" {
			t.Error("it was changed")
		}
	}
	if link(t, "second").Attrs().Alias != "weaveguard" {
		t.Error("the other bridge wasn't made")
	}
}

func TestBridgeThatIsNoLongerWanted(t *testing.T) {
	a := newNamespace(t)
	one, two := testBridge(), testBridge()
	two.Name, two.Addresses = "weave2", nil
	_, err := a.ApplyBridges(t.Context(), []view.Bridge{one, two})
	must(t, err)
	ip(t, "link", "add", "docker0", "type", "bridge")
	makeVeth(t, "pod")
	must(t, netlink.LinkSetMaster(link(t, "pod"), link(t, "weave")))
	applied(t, func() (int, error) { return a.ApplyBridges(t.Context(), nil) })
	if _, err := netlink.LinkByName("weave2"); err == nil {
		t.Error("the bridge without ports is still there")
	}
	link(t, "weave")
	link(t, "docker0")
	must(t, netlink.LinkSetNoMaster(link(t, "pod")))
	applied(t, func() (int, error) { return a.ApplyBridges(t.Context(), nil) })
	if _, err := netlink.LinkByName("weave"); err == nil {
		t.Error("the bridge is still there after its last port left")
	}
}

func TestDeviceIsSetUp(t *testing.T) {
	a := newNamespace(t)
	makeTun(t, "weave-wg0")
	makeTun(t, "weave-wg1")
	apply := func() (int, error) {
		return a.ApplyDevices(t.Context(), []view.Device{testDevice("weave-wg0"), testDevice("weave-wg1")})
	}
	applied(t, apply)
	check := func() {
		t.Helper()
		for _, name := range []string{"weave-wg0", "weave-wg1"} {
			attrs := link(t, name).Attrs()
			if attrs.Alias != "weaveguard" || attrs.MTU != 1420 || attrs.Flags&net.FlagUp == 0 {
				t.Errorf("the device is %+v", attrs)
			}
			shown := ip(t, "-oneline", "address", "show", "dev", name, "scope", "global")
			if !strings.Contains(shown, "10.32.5.1/32") || !strings.Contains(shown, "fd00:5::1/128") ||
				strings.Count(shown, "\n") != 2 || strings.Contains(shown, "tentative") {
				t.Errorf("the device has the addresses %s", shown)
			}
			if got := sysctl(t, "net/ipv4/conf/"+name+"/rp_filter"); got != "2" {
				t.Errorf("rp_filter of %s is %s", name, got)
			}
		}
	}
	check()
	must(t, netlink.LinkSetDown(link(t, "weave-wg0"))) // takes the IPv6 address along
	addAddress(t, "weave-wg1", "10.32.9.1/32")
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/weave-wg1/rp_filter", []byte("1"), 0))
	applied(t, apply)
	check()
}

func TestDeviceThatIsMissingOrForeign(t *testing.T) {
	a := newNamespace(t)
	makeTun(t, "weave-wg2")
	ip(t, "link", "add", "weave-wg1", "type", "bridge")
	before := ip(t, "link", "show", "weave-wg1")
	_, err := a.ApplyDevices(t.Context(),
		[]view.Device{testDevice("weave-wg0"), testDevice("weave-wg1"), testDevice("weave-wg2")})
	wants(t, err, "weave-wg0 doesn't exist", "weave-wg1", "a bridge interface", "ip link delete weave-wg1")
	if after := ip(t, "link", "show", "weave-wg1"); after != before {
		t.Errorf("the foreign one was changed: %s", after)
	}
	if link(t, "weave-wg2").Attrs().Flags&net.FlagUp == 0 {
		t.Error("the good one wasn't brought up")
	}
}
