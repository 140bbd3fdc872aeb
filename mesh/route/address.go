package route

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addresses gives a link of ours exactly the wanted addresses; the kernel's own link-local ones are left alone.
// Surplus ones go first: when an IPv4 primary goes, the kernel may take the others of its subnet with it.
func (c *changes) addresses(link netlink.Link, want []netip.Prefix) {
	have, err := readAddresses(link)
	if err != nil {
		c.fail(err)
		return
	}
	name, removed := link.Attrs().Name, false
	for _, address := range have {
		if slices.Contains(want, address) || address.Addr().IsLinkLocalUnicast() {
			continue
		}
		removed = c.write("removing the address "+address.String()+" from "+name, func() error {
			err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)})
			if gone(err) {
				return errNoChange
			}
			return err
		}) || removed
	}
	if removed {
		if have, err = readAddresses(link); err != nil {
			c.fail(err)
			return
		}
	}
	for _, address := range want {
		if slices.Contains(have, address) {
			continue
		}
		c.write("adding the address "+address.String()+" to "+name, func() error {
			return netlink.AddrAdd(link, newAddress(address))
		})
	}
}

// newAddress is an address as we add it. A tentative IPv6 address can't be a route's source, and nobody else has
// ours: no duplicate address detection. One for a single host needs no route to itself.
func newAddress(address netip.Prefix) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(address)}
	if address.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
		if address.IsSingleIP() {
			addr.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
	}
	return addr
}

func readAddresses(link netlink.Link) ([]netip.Prefix, error) {
	list, err := dump("addresses", func() ([]netlink.Addr, error) {
		return netlink.AddrList(link, netlink.FAMILY_ALL)
	})
	if err != nil {
		return nil, err
	}
	var addresses []netip.Prefix
	for _, addr := range list {
		if prefix, ok := prefixOf(addr.IPNet); ok {
			addresses = append(addresses, prefix)
		}
	}
	return addresses, nil
}

// ipNet and prefixOf convert between netip and the library's types; neither masks.
func ipNet(prefix netip.Prefix) *net.IPNet {
	address := prefix.Addr()
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), address.BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	// A mask of 4 bytes goes with an IPv4 address, which the library may hold in 16 bytes.
	bits, size := n.Mask.Size()
	if size == 32 {
		address = address.Unmap()
	}
	prefix := netip.PrefixFrom(address, bits)
	return prefix, prefix.IsValid()
}

// addrOf returns the zero Addr for no address.
func addrOf(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip)
	return address.Unmap()
}

// gone reports that what was to be removed wasn't there any more.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}
