package cni

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/ipam"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// runtimeConfig is what a runtime asks for in the configuration's runtimeConfig, by the capabilities of the CNI
// project's conventions (CONVENTIONS.md). Empty: whatever is free.
type runtimeConfig struct {
	// IPs are addresses, with or without a prefix length: one of each family at most.
	IPs []string `json:"ips"`
	// MAC is that of the interface in the sandbox.
	MAC string `json:"mac"`
}

// wanted are a runtime's requests, found possible.
type wanted struct {
	addresses []netip.Addr     // by pool; the zero Addr is any
	mac       net.HardwareAddr // nil: the one that follows from the address
}

// requests reads what the runtime asks for.
func (c *config) requests(n network) (wanted, error) {
	w := wanted{addresses: make([]netip.Addr, len(n.pools))}
	for _, text := range c.RuntimeConfig.IPs {
		address, err := parseAddress(text)
		if err != nil {
			return w, invalid("runtimeConfig.ips", "%q isn't an address like 10.32.5.9 or 10.32.5.9/24", text)
		}
		i := slices.IndexFunc(n.pools, func(p ipam.Pool) bool { return p.Subnet.Contains(address) })
		if i < 0 {
			return w, invalid("runtimeConfig.ips", "%s isn't in a subnet of this node (%s)", address, subnets(n))
		}
		if err := n.pools[i].Gives(address); err != nil {
			return w, invalid("runtimeConfig.ips", "%v; choose another", err)
		}
		if w.addresses[i].IsValid() {
			return w, invalid("runtimeConfig.ips", "%s and %s are of one family; ask for one of each at most", w.addresses[i], address)
		}
		w.addresses[i] = address
	}
	if c.RuntimeConfig.MAC == "" {
		return w, n.macFollows(w.addresses)
	}
	mac, err := net.ParseMAC(c.RuntimeConfig.MAC)
	if err != nil || len(mac) != 6 {
		return w, invalid("runtimeConfig.mac", "%q isn't a MAC like 02:00:00:00:00:01", c.RuntimeConfig.MAC)
	}
	if mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return w, invalid("runtimeConfig.mac", "%s can't be an interface's: it is a group address (an odd first byte), or zero", mac)
	}
	if contract.DerivedMAC(mac) || contract.DerivedMAC(bridge.HostMAC(mac)) {
		return w, invalid("runtimeConfig.mac", "%s is of those that follow from addresses on this node; choose another", mac)
	}
	w.mac = mac
	return w, nil
}

// macFollows returns an error if the MAC that follows from the first address may be that of another one, which only differs in
// what a MAC has no room for. Those that nobody asked for are the first of their subnet.
func (n network) macFollows(addresses []netip.Addr) error {
	const room = 32 // bits of an address
	if len(addresses) == 0 || !addresses[0].Is6() {
		return nil
	}
	first, err := n.pools[0].Subnet.Addr().Prefix(addresses[0].BitLen() - room)
	if err != nil || first.Contains(addresses[0]) {
		return err
	}
	return invalid("runtimeConfig.ips", "%s isn't in %s, so another interface may have the MAC that follows from it; choose one from there, "+
		"or ask for a MAC too", addresses[0], first)
}

// parseAddress reads an address with or without a prefix length.
func parseAddress(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err
}

func subnets(n network) string {
	var all []netip.Prefix
	for _, p := range n.pools {
		all = append(all, p.Subnet)
	}
	return fmt.Sprint(all)
}

// unused returns an error if another attachment of the bridge has the MAC: the bridge would send frames to one of both.
func unused(tx *store.Tx, name string, mac net.HardwareAddr) error {
	all, err := tx.List()
	if err != nil {
		return wrap(types.ErrIOFailure, "looking for the MAC among the attachments", err)
	}
	for _, a := range all {
		other, err := net.ParseMAC(a.MAC)
		if err != nil || a.Bridge != name {
			continue
		}
		if bytes.Equal(mac, other) || bytes.Equal(mac, bridge.HostMAC(other)) {
			return invalid("runtimeConfig.mac", "%s is in use by %s; choose another", mac, a.ID)
		}
	}
	return nil
}
