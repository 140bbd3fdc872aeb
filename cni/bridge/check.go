package bridge

import (
	"bytes"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Check compares the kernel with what Ensure and Attach make, and returns a line for each thing that differs. An
// error says that it couldn't look.
func (h *Host) Check(bridge string, s *Sandbox, p Port) ([]string, error) {
	differs, err := h.checkNode(bridge, p)
	if err != nil {
		return nil, err
	}
	err = s.do(func() error {
		inside, err := Open()
		if err != nil {
			return err
		}
		defer inside.Close()
		more, err := inside.checkSandbox(p)
		differs = append(differs, more...)
		return err
	})
	return differs, err
}

func (h *Host) checkNode(name string, p Port) ([]string, error) {
	br, err := h.nl.LinkByName(name)
	if isNotFound(err) {
		return []string{fmt.Sprintf("the bridge %s is missing", name)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the bridge %s: %w", name, err)
	}
	differs, err := h.checkBridge(br, p)
	if err != nil {
		return nil, err
	}
	port, err := h.nl.LinkByName(p.HostIfName)
	if isNotFound(err) {
		return append(differs, fmt.Sprintf("the host's end %s of the veth is missing", p.HostIfName)), nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", p.HostIfName, err)
	}
	differs = append(differs, checkLink(port, p.HostMAC(), p.MTU)...)
	if port.Attrs().MasterIndex != br.Attrs().Index {
		return append(differs, fmt.Sprintf("%s isn't a port of the bridge %s", p.HostIfName, name)), nil
	}
	info, err := retry(func() (netlink.Protinfo, error) { return h.nl.LinkGetProtinfo(port) })
	if err != nil {
		return nil, fmt.Errorf("looking at the bridge port %s: %w", p.HostIfName, err)
	}
	if !info.Isolated {
		differs = append(differs, fmt.Sprintf("the bridge port %s isn't isolated", p.HostIfName))
	}
	return differs, nil
}

func (h *Host) checkBridge(br netlink.Link, p Port) ([]string, error) {
	attrs := br.Attrs()
	if br.Type() != "bridge" || attrs.Alias != contract.BridgeAlias {
		return []string{fmt.Sprintf("the interface %s isn't Weaveguard's bridge (its alias is %q, not %q)", attrs.Name,
			attrs.Alias, contract.BridgeAlias)}, nil
	}
	var differs []string
	if attrs.Flags&net.FlagUp == 0 {
		differs = append(differs, fmt.Sprintf("the bridge %s is down", attrs.Name))
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return h.nl.AddrList(br, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s: %w", attrs.Name, err)
	}
	var subnets []Subnet
	for _, a := range p.Addresses {
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return have.IP.Equal(a.Gateway.AsSlice()) }) {
			differs = append(differs, fmt.Sprintf("the bridge %s lacks the gateway address %s", attrs.Name, a.Gateway))
		}
		subnets = append(subnets, Subnet{Gateway: a.Gateway})
	}
	if mac := (Spec{Subnets: subnets}).mac(); !bytes.Equal(mac, attrs.HardwareAddr) {
		differs = append(differs, fmt.Sprintf("the bridge %s has the MAC %s, not %s", attrs.Name, attrs.HardwareAddr, mac))
	}
	differs = append(differs, checkSysctls(contract.BridgeSysctls(attrs.Name), "of the node")...)
	return append(differs, checkSysctls(forwardingSysctls(subnets), "of the node")...), nil
}

func checkLink(link netlink.Link, mac net.HardwareAddr, mtu int) []string {
	var differs []string
	attrs := link.Attrs()
	if link.Type() != "veth" {
		differs = append(differs, fmt.Sprintf("%s is a %s, not a veth", attrs.Name, link.Type()))
	}
	if attrs.Flags&net.FlagUp == 0 {
		differs = append(differs, fmt.Sprintf("%s is down", attrs.Name))
	}
	if !bytes.Equal(attrs.HardwareAddr, mac) {
		differs = append(differs, fmt.Sprintf("%s has the MAC %s, not %s", attrs.Name, attrs.HardwareAddr, mac))
	}
	if attrs.MTU != mtu {
		differs = append(differs, fmt.Sprintf("%s has the MTU %d, not %d", attrs.Name, attrs.MTU, mtu))
	}
	return differs
}

// checkSandbox looks at the namespace that h was opened in, which is the sandbox's.
func (h *Host) checkSandbox(p Port) ([]string, error) {
	link, err := h.nl.LinkByName(p.IfName)
	if isNotFound(err) {
		return []string{fmt.Sprintf("the sandbox lacks the interface %s", p.IfName)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %s in the sandbox: %w", p.IfName, err)
	}
	differs := checkLink(link, p.MAC, p.MTU)
	addrs, err := retry(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of %s in the sandbox: %w", p.IfName, err)
	}
	for _, a := range p.Addresses {
		want := single(a.Address)
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { p, ok := prefixOf(have.IPNet); return ok && p == want }) {
			differs = append(differs, fmt.Sprintf("%s in the sandbox lacks the address %s", p.IfName, want))
		}
	}
	unrouted, err := h.checkRoutes(link, p)
	if err != nil {
		return nil, err
	}
	differs = append(differs, unrouted...)
	return append(differs, checkSysctls(interfaceSysctls(p.IfName, p.hasIPv6()), "in the sandbox")...), nil
}
