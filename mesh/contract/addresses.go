package contract

import (
	"bytes"
	"math"
	"net"
	"net/netip"
)

// Gateway returns the first usable address of a subnet (10.32.5.1 of 10.32.5.0/24, fd00::1 of fd00::/64): the
// address of its bridge, and every pod's gateway.
func Gateway(subnet netip.Prefix) netip.Addr {
	return subnet.Masked().Addr().Next()
}

// PodAddresses is how many addresses of a node's subnet pods can have: not the network's own, not the gateway's, and of IPv4
// not the broadcast address. At most 2^63-1: larger is said as that.
func PodAddresses(subnet netip.Prefix) uint64 {
	bits, taken := subnet.Addr().BitLen()-subnet.Bits(), uint64(2)
	if subnet.Addr().Is4() {
		taken++
	}
	switch {
	case bits < 2: // the plugin takes none that small
		return 0
	case bits >= 63:
		return math.MaxInt64
	}
	return 1<<bits - taken
}

// PodMAC returns the MAC of the pod interface with this first address. It follows from the address, so that
// neighbour caches stay right when an address is used again, and is unique on a bridge as addresses are.
func PodMAC(address netip.Addr) net.HardwareAddr { return addressMAC(address) }

// DerivedMAC reports whether a MAC is one that follows from an address, of whichever node.
func DerivedMAC(mac net.HardwareAddr) bool { return bytes.HasPrefix(mac, []byte(derivedMAC)) }

// derivedMAC begins them: locally administered, unicast.
const derivedMAC = "\x0a\x57"

// addressMAC is derivedMAC and the last four bytes of the address, which tell apart
// the addresses of any one subnet that a node can fill.
func addressMAC(address netip.Addr) net.HardwareAddr {
	b := address.Unmap().AsSlice()
	return append(net.HardwareAddr(derivedMAC), b[len(b)-4:]...)
}
