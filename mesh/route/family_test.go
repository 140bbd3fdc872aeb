package route_test

import (
	"os"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// A host whose new interfaces have no IPv6, as hardened ones are set up, gets addresses of it on devices of ours all the same.
func TestInterfacesAreMadeWithoutIPv6(t *testing.T) {
	a := newNamespace(t)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	applied(t, func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) })
	checkBridge(t, link(t, "weave").Attrs().Index)
	device := testDevice("weave-wg0")
	defer makeTun(t, device.Name).Close()
	applied(t, func() (int, error) { return a.ApplyDevices(t.Context(), []view.Device{device}) })
}

// A host that has IPv6 off stays so, and is told what to do; what is of IPv4 stands.
func TestIPv6IsOff(t *testing.T) {
	a := newNamespace(t)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0))
	_, err := a.ApplyBridges(t.Context(), []view.Bridge{testBridge()})
	wants(t, err, "weave", "fd00:5::1/64", "net.ipv6.conf.all.disable_ipv6", "pod CIDRs")
	if got := ip(t, "address", "show", "weave"); !strings.Contains(got, "10.32.5.1/24") {
		t.Errorf("the bridge has %s", got)
	}
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0))
	applied(t, func() (int, error) { return a.ApplyBridges(t.Context(), []view.Bridge{testBridge()}) })
}
