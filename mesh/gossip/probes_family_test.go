package gossip_test

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// narrowLoopback puts the test in a network namespace of its own, whose loopback carries packets of so many bytes.
func narrowLoopback(t *testing.T, mtu int) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread goes with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (this test needs root): %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetMTU(lo, mtu), netlink.LinkSetUp(lo)); err != nil {
		t.Fatal(err)
	}
}

// Over both families the largest packet that fits is answered, and one that is larger isn't sent: never in fragments, which
// the kernel would otherwise make of a datagram.
func TestProbesAreNeverFragments(t *testing.T) {
	const mtu = 1400
	for family, address := range map[string]netip.Addr{
		"IPv4": netip.AddrFrom4([4]byte{127, 0, 0, 1}), "IPv6": netip.IPv6Loopback(),
	} {
		t.Run(family, func(t *testing.T) {
			narrowLoopback(t, mtu)
			n := start(t, "n1", 1, func(c *gossip.Config) { c.Advertise, c.Port = address, contract.GossipPort })
			n.addr = netip.AddrPortFrom(address, contract.GossipPort)
			heard := answersTo(n)
			if err := n.Probe(address, mtu+1, 1); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("a probe of %d bytes where %d fit: %v", mtu+1, mtu, err)
			}
			probe(t, n, n, mtu, 2)
			eventually(t, "what fits is answered", func() bool { return heard.count(2) == 1 })
			if heard.count(1) != 0 {
				t.Error("what doesn't fit was answered")
			}
			other := netip.IPv6Loopback()
			if address.Is6() {
				other = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			if err := n.Probe(other, mtu, 3); err == nil {
				t.Errorf("a probe was sent to %s, an address of another family than gossip's", other)
			}
		})
	}
}
