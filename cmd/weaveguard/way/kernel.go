package way

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Netlink is the kernel of the network namespace that this process runs in.
type Netlink struct{}

// Route implements Kernel.
func (Netlink) Route(from, to netip.Addr, in string) (Route, error) {
	options := &netlink.RouteGetOptions{Iif: in}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	var refused unix.Errno
	switch {
	case errors.As(err, &refused) && (refused == unix.EHOSTUNREACH || refused == unix.ENETUNREACH || refused == unix.EACCES ||
		refused == unix.EINVAL || refused == unix.EXDEV):
		return Route{Refused: refused.Error()}, nil
	case err != nil:
		return Route{}, fmt.Errorf("asking the kernel for the route to %s: %w", to, err)
	case len(routes) == 0:
		return Route{Refused: "it names none"}, nil
	}
	r := routes[0]
	switch r.Type {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return Route{Refused: "it is closed by a route for it"}, nil
	}
	answer := Route{MTU: r.MTU, Local: r.Type == unix.RTN_LOCAL}
	if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
		answer.Gateway = gateway.Unmap()
	}
	if source, ok := netip.AddrFromSlice(r.Src); ok && source.Unmap() != from {
		answer.Source = source.Unmap()
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Route{}, fmt.Errorf("reading the device of the route to %s: %w", to, err)
	}
	answer.Device = link.Attrs().Name
	if answer.MTU == 0 {
		answer.MTU = link.Attrs().MTU
	}
	return answer, nil
}

// Holder implements Kernel. A tunnel device has the gateways' addresses too, and isn't what is asked for.
func (Netlink) Holder(address netip.Addr) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("listing this node's devices: %w", err)
	}
	for _, i := range interfaces {
		link, err := netlink.LinkByIndex(i.Index)
		if err != nil || link.Type() != "bridge" { // it is gone since, or no bridge
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return "", fmt.Errorf("reading the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == address {
				return i.Name, nil
			}
		}
	}
	return "", nil
}
