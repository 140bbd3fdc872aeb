package userspace

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// The kernel takes a path for one that carries less than the tunnel's datagrams have: they leave all the same, in fragments.
func TestBatchOnNarrowPath(t *testing.T) {
	const link, mtu, size, count = "weave-wg3", 1400, 1452, 5
	for _, c := range []struct{ here, there string }{
		{"198.51.100.1", "198.51.100.7"},
		{"2001:db8::1", "2001:db8::7"},
	} {
		t.Run(c.there, func(t *testing.T) {
			out, err := createTUN(link, 1500)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			here, there := netip.MustParseAddr(c.here), netip.MustParseAddr(c.there)
			routeTo(t, link, here, there, mtu)
			bind := wideBind{conn.NewDefaultBind()}
			if _, _, err := bind.Open(0); err != nil {
				t.Fatal(err)
			}
			defer bind.Close()
			endpoint, err := bind.ParseEndpoint(netip.AddrPortFrom(there, 51820).String())
			if err != nil {
				t.Fatal(err)
			}
			var batch [][]byte
			for i := range count {
				packet := append(make([]byte, 0, device.MaxMessageSize), bytes.Repeat([]byte{'A' + byte(i)}, size)...)
				batch = append(batch, packet) // with room, as those of devices have, for the others of its message
			}
			if err := bind.Send(batch, endpoint); err != nil {
				t.Fatal(err)
			}
			var left [count]int // bytes of each datagram
			packet, sizes := make([]byte, 2048), []int{0}
			for left[count-1] < size {
				if _, err := out.Read([][]byte{packet}, sizes, 0); err != nil {
					t.Fatal(err)
				}
				if sizes[0] > mtu {
					t.Fatalf("a packet of %d bytes left", sizes[0])
				}
				for i := range left {
					left[i] += bytes.Count(packet[:sizes[0]], batch[i][:1])
				}
			}
			for i, n := range left {
				if n < size {
					t.Errorf("of datagram %d only %d bytes left", i, n)
				}
			}
		})
	}
}

// routeTo gives a device an address, and a route to another by a path that carries so many bytes.
func routeTo(t *testing.T, name string, here, there netip.Addr, mtu int) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	alone := func(a netip.Addr) *net.IPNet {
		return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	}
	own := &netlink.Addr{IPNet: alone(here)}
	if here.Is6() {
		own.Flags = unix.IFA_F_NODAD
	}
	err = errors.Join(netlink.AddrAdd(link, own), netlink.LinkSetUp(link))
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{Dst: alone(there), LinkIndex: link.Attrs().Index, MTU: mtu})
	}
	if err != nil {
		t.Fatal(err)
	}
}
