package route

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// ApplyPaths makes the kernel forget what it has learnt by ICMP of the ways that were found to carry more. It would keep
// that for ten minutes (ip-sysctl.rst, mtu_expires), and meanwhile fragment, or refuse, what tunnels send.
func (a *Applier) ApplyPaths(ctx context.Context, paths []view.Path) (int, error) {
	c := a.begin(ctx)
	flushed := false
	for _, path := range paths {
		learnt, found := learntRoute(path.Address)
		if path.Found == 0 || !found || learnt.MTU == 0 || learnt.MTU >= path.Found {
			continue
		}
		what := fmt.Sprintf("forgetting that the path to %s carries no more than %d bytes", path.Address, learnt.MTU)
		switch {
		case path.Address.Is6():
			c.write(what, func() error { return forget6(path.Address, learnt) })
		case !flushed: // the kernel forgets all of them or none
			flushed = true
			c.write(what, func() error { return a.forget4() })
		}
	}
	return c.result()
}

// learntRoute is the way to an endpoint with what the kernel has learnt of it. It isn't found where it leads into a
// tunnel of ours: that is no way to an endpoint.
func learntRoute(endpoint netip.Addr) (netlink.Route, bool) {
	found, err := netlink.RouteGet(endpoint.AsSlice())
	if err != nil || len(found) == 0 || found[0].Protocol == contract.RouteProtocol {
		return netlink.Route{}, false
	}
	return found[0], true
}

// forget4 drops all that was learnt of IPv4 paths.
func (a *Applier) forget4() error {
	const key = "net/ipv4/route/flush"
	err := writeSysctl(filepath.Join(a.sysctlRoot, key), "1")
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("%w: %s can't be written from here; in a container, mount the host's /proc/sys/net there writable (a "+
			"hostPath volume); else run as root", err, key)
	}
	return err
}

// forget6 drops what was learnt of one IPv6 path, which is a route of its own.
func forget6(endpoint netip.Addr, learnt netlink.Route) error {
	err := netlink.RouteDel(&netlink.Route{
		Dst: ipNet(netip.PrefixFrom(endpoint, endpoint.BitLen())), LinkIndex: learnt.LinkIndex, Gw: learnt.Gw,
		Table: unix.RT_TABLE_MAIN, Flags: unix.RTM_F_CLONED,
	})
	if gone(err) {
		return errNoChange
	}
	return err
}
