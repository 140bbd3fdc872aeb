package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"golang.org/x/sys/unix"
)

const hostInterface = "eth0"

// Places in the networks; nodes follow from firstNode.
const (
	routerPlace       = 1
	controlPlanePlace = 2
	outsidePlace      = 10
	firstNode         = 11
)

// startFabric boots the host that is nothing but the bridge between all others, and the router to
// the network outside. It has no route to any pod.
func (s *Supervisor) startFabric(ctx context.Context) error {
	info := api.Host{Name: api.Fabric, Addresses: addresses(s.spec.Underlay, routerPlace)}
	spec := api.HostSpec{Name: api.Fabric, Sysctls: map[string]string{
		"net/ipv4/ip_forward":          "1",
		"net/ipv6/conf/all/forwarding": "1",
		// The fabric is a switch: what it forwards isn't its firewall's business.
		"net/bridge/bridge-nf-call-iptables":  "0",
		"net/bridge/bridge-nf-call-ip6tables": "0",
		"net/bridge/bridge-nf-call-arptables": "0",
	}}
	return s.boot(ctx, info, spec, func(pid int) error {
		return inNamespaceOf(pid, func(h *netlink.Handle) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = api.FabricBridge, s.spec.MTU
			if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return fmt.Errorf("make the fabric's bridge: %w", err)
			}
			return errors.Join(
				bringUp(h, "lo"),
				configure(h, api.FabricBridge, s.spec.Underlay, info.Addresses),
			)
		})
	})
}

// startOutside boots a host that isn't part of the cluster, and that the cluster reaches through
// the fabric's router.
func (s *Supervisor) startOutside(ctx context.Context) error {
	info := api.Host{Name: api.Outside, Addresses: addresses(s.spec.Outside, outsidePlace)}
	spec := api.HostSpec{Name: api.Outside}
	return s.boot(ctx, info, spec, func(pid int) error {
		if err := s.plug(pid, info.Name, ""); err != nil {
			return err
		}
		err := s.inFabric(func(h *netlink.Handle) error {
			return configure(h, plugName(info.Name), s.spec.Outside, addresses(s.spec.Outside, routerPlace))
		})
		if err != nil {
			return err
		}
		return wireHost(pid, s.spec.Outside, info.Addresses)
	})
}

// onUnderlay wires a host to the fabric's bridge.
func (s *Supervisor) onUnderlay(info api.Host) func(pid int) error {
	return func(pid int) error {
		if err := s.plug(pid, info.Name, api.FabricBridge); err != nil {
			return err
		}
		return wireHost(pid, s.spec.Underlay, info.Addresses)
	}
}

// plugName is the name of the fabric's end of a host's cable.
func plugName(host string) string {
	if host == api.ControlPlane {
		return "to-control"
	}
	return "to-" + host
}

// plug lays a cable from the fabric to a host's eth0, into the bridge if it has a name.
func (s *Supervisor) plug(pid int, host, bridge string) error {
	return s.inFabric(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = plugName(host), s.spec.MTU
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: hostInterface, PeerMTU: uint32(s.spec.MTU),
			PeerNamespace: netlink.NsPid(pid),
		}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("lay a cable to host %s: %w", host, err)
		}
		if bridge != "" {
			master, err := h.LinkByName(bridge)
			if err != nil {
				return fmt.Errorf("find the fabric's bridge: %w", err)
			}
			if err := h.LinkSetMaster(veth, master); err != nil {
				return fmt.Errorf("plug host %s into the fabric: %w", host, err)
			}
		}
		return bringUp(h, attrs.Name)
	})
}

// unplug removes a host's cable, if it has one: the kernel removes that of a host that has ended
// by itself, but not at once.
func (s *Supervisor) unplug(host string) error {
	if host == api.Fabric {
		return nil
	}
	return s.inFabric(func(h *netlink.Handle) error {
		link, err := h.LinkByName(plugName(host))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unplug host %s: %w", host, err)
		}
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("unplug host %s: %w", host, err)
		}
		return nil
	})
}

// wireHost gives eth0 its addresses in a network and the host its default routes.
func wireHost(pid int, network []netip.Prefix, own []netip.Addr) error {
	return inNamespaceOf(pid, func(h *netlink.Handle) error {
		if err := bringUp(h, "lo"); err != nil {
			return err
		}
		if err := configure(h, hostInterface, network, own); err != nil {
			return err
		}
		for _, router := range addresses(network, routerPlace) {
			if err := h.RouteAdd(&netlink.Route{Gw: net.IP(router.AsSlice())}); err != nil {
				return fmt.Errorf("add the default route by %s: %w", router, err)
			}
		}
		return nil
	})
}

// configure gives a link its addresses in a network, and brings it up. Nobody else has them, so that none is looked for.
func configure(h *netlink.Handle, name string, network []netip.Prefix, own []netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	for i, address := range own {
		addr := &netlink.Addr{
			IPNet: &net.IPNet{IP: net.IP(address.AsSlice()), Mask: net.CIDRMask(network[i].Bits(), address.BitLen())},
		}
		if address.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", address, name, err)
		}
	}
	return bringUp(h, name)
}

func bringUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

func (s *Supervisor) inFabric(f func(*netlink.Handle) error) error {
	s.mu.Lock()
	fabric := s.hosts[api.Fabric]
	s.mu.Unlock()
	if fabric == nil {
		return errors.New("the fabric is down")
	}
	return inNamespaceOf(fabric.pid, f)
}

// inNamespaceOf runs f on the network namespace of a process.
func inNamespaceOf(pid int, f func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("speak netlink in the network namespace of process %d: %w", pid, err)
	}
	defer handle.Close()
	return f(handle)
}
