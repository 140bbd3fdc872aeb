package tunneltest

import (
	"net"
	"net/netip"
)

func toIPNet(prefix netip.Prefix) net.IPNet {
	return net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// toPrefix gives what WireGuard makes of an allowed IP: its host bits are cleared. It panics on what isn't one.
func toPrefix(allowed net.IPNet) netip.Prefix {
	prefix := netip.MustParsePrefix(allowed.String())
	return prefix.Masked()
}

func toUDPAddr(endpoint netip.AddrPort) *net.UDPAddr {
	if !endpoint.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(endpoint)
}
