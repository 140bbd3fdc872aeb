package cni

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// The order of a result's interfaces.
const (
	bridgeInterface = iota
	hostInterface
	sandboxInterface
)

// result describes an attachment as the CNI spec (section 5) wants it.
func result(c *config, n network, a store.Attachment, port bridge.Port, netns string) *current.Result {
	r := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			bridgeInterface:  {Name: n.bridge, Mac: contract.BridgeMAC(n.gateways()...).String()},
			hostInterface:    {Name: a.HostIfName, Mac: port.HostMAC().String(), Mtu: a.MTU},
			sandboxInterface: {Name: a.IfName, Mac: a.MAC, Mtu: a.MTU, Sandbox: netns},
		},
		DNS: c.DNS,
	}
	for _, address := range port.Addresses {
		r.IPs = append(r.IPs, &current.IPConfig{
			Interface: current.Int(sandboxInterface),
			Address:   ipNet(single(address.Address)),
			Gateway:   address.Gateway.AsSlice(),
		})
		for _, destination := range port.Destinations(address) {
			r.Routes = append(r.Routes, &types.Route{Dst: ipNet(destination), GW: address.Gateway.AsSlice()})
		}
	}
	return r
}

func (p *plugin) print(r *current.Result, version string) error {
	converted, err := r.GetAsVersion(version)
	if err != nil {
		return wrap(types.ErrIncompatibleCNIVersion, fmt.Sprintf("making a result of version %s", version), err)
	}
	if err := converted.PrintTo(p.stdout); err != nil {
		return wrap(types.ErrIOFailure, "writing the result to stdout", err)
	}
	return nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
