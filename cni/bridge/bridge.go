package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Spec is a network's bridge as it should be.
type Spec struct {
	Name    string
	MTU     int      // bytes; used when the bridge is made
	Subnets []Subnet // one of each family at most, IPv4 first
}

// Subnet is a subnet of a network, with the bridge's own address in it.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

func (s Spec) mac() net.HardwareAddr {
	var gateways []netip.Addr
	for _, subnet := range s.Subnets {
		gateways = append(gateways, subnet.Gateway)
	}
	return contract.BridgeMAC(gateways...)
}

// ErrForeign says that an interface with the bridge's name isn't ours.
var ErrForeign = errors.New("the bridge's name is taken")

// ErrForwarding says that the kernel doesn't forward, so that no packet of a pod would get anywhere.
var ErrForwarding = errors.New("the kernel doesn't forward packets")

// Ensure makes the bridge as the agent would, or completes one of ours, and returns its index. Errors: ErrForeign,
// ErrForwarding, else the kernel's.
func (h *Host) Ensure(spec Spec) (int, error) {
	link, err := h.bridge(spec)
	if err != nil {
		return 0, err
	}
	attrs := link.Attrs()
	if !bytes.Equal(attrs.HardwareAddr, spec.mac()) {
		if err := h.nl.LinkSetHardwareAddr(link, spec.mac()); err != nil {
			return 0, fmt.Errorf("setting the MAC of the bridge %s: %w", spec.Name, err)
		}
	}
	if attrs.Alias != contract.BridgeAlias {
		if err := h.nl.LinkSetAlias(link, contract.BridgeAlias); err != nil {
			return 0, fmt.Errorf("marking the bridge %s as Weaveguard's: %w", spec.Name, err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := h.nl.LinkSetUp(link); err != nil {
			return 0, fmt.Errorf("setting the bridge %s up: %w", spec.Name, err)
		}
	}
	// Adding what is there already is refused at once; listing the addresses would take longer with each pod.
	for _, s := range spec.Subnets {
		gateway := netip.PrefixFrom(s.Gateway, s.Prefix.Bits())
		if err := h.nl.AddrAdd(link, address(gateway)); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("adding the gateway address %s to the bridge %s: %w", gateway, spec.Name, err)
		}
	}
	if err := setSysctls(contract.BridgeSysctls(spec.Name)); err != nil {
		return 0, err
	}
	if off := checkSysctls(forwardingSysctls(spec.Subnets), "of the node"); len(off) > 0 {
		return 0, fmt.Errorf("%w: %s", ErrForwarding, strings.Join(off, "; "))
	}
	return attrs.Index, nil
}

// bridge finds the bridge, or makes it, and refuses one that isn't ours.
func (h *Host) bridge(spec Spec) (netlink.Link, error) {
	link, err := h.nl.LinkByName(spec.Name)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = spec.Name, spec.mac()
		br := &netlink.Bridge{LinkAttrs: attrs}
		err = h.nl.LinkAdd(br)
		if err == nil { // only an MTU that is set on an existing bridge stays when ports join
			err = h.nl.LinkSetMTU(br, spec.MTU)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) { // another ADD, or the agent, may have been faster
			return nil, fmt.Errorf("making the bridge %s: %w", spec.Name, err)
		}
		link, err = h.nl.LinkByName(spec.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the bridge %s: %w", spec.Name, err)
	}
	// What lies outside the fast path of an ADD may take longer: who else has this bridge?
	if link.Type() == "bridge" && link.Attrs().Alias == contract.BridgeAlias {
		return link, nil
	}
	if err := h.foreign(link, spec.mac()); err != nil {
		return nil, err
	}
	return link, nil
}

// foreign returns ErrForeign, with whose it looks like, for an interface that isn't our bridge.
func (h *Host) foreign(link netlink.Link, mac net.HardwareAddr) error {
	attrs := link.Attrs()
	found := contract.HostLink{Name: attrs.Name, Kind: link.Type(), Alias: attrs.Alias, MAC: attrs.HardwareAddr}
	if found.Kind == "device" {
		found.Kind = "" // netlink's word for an interface without a kind
	}
	all, err := retry(func() ([]netlink.Link, error) { return h.nl.LinkList() })
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == attrs.Index {
			found.Ports = append(found.Ports, l.Attrs().Name)
		}
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", attrs.Name, err)
	}
	var addresses []netip.Prefix
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			addresses = append(addresses, p)
		}
	}
	if err := contract.ForeignBridge(found, addresses, mac); err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
