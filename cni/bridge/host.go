// Package bridge owns the plugin's part of the kernel: the bridge of a network, a sandbox's veth pair, its address
// and routes, and the settings that these need. It never chooses addresses, never remembers anything, and never
// touches tunnels, other routes or the firewall.
//
// All of it works in the network namespace of the calling thread: callers lock their goroutine to its thread
// (runtime.LockOSThread) from before Open until after Close.
package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is the node's network namespace.
type Host struct {
	nl   *netlink.Handle
	held []int
}

// Open opens the network namespace of the calling thread.
func Open() (*Host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return &Host{nl: nl}, nil
}

// Hold has the process that removes a device keep descriptors of this one open until this one has ended. So whatever the
// kernel does when they are closed at last, nobody waits for it.
func (h *Host) Hold(descriptors ...int) { h.held = append(h.held, descriptors...) }

// Close releases the socket.
func (h *Host) Close() { h.nl.Close() }

// retry repeats a netlink dump that other changes interrupted, which makes it incomplete.
func retry[T any](dump func() (T, error)) (T, error) {
	for range 20 {
		if v, err := dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return dump()
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// address is an interface's address as netlink wants it. All IPv6 addresses are nodad: a tentative one can't be
// used yet, and who has an address is known.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
