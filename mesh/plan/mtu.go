package plan

import (
	"math"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// overhead4 and overhead6 are what WireGuard adds to a packet: the outer IP and UDP headers, and 32 bytes of
	// its own.
	overhead4 = 60
	overhead6 = 80
	// defaultMTU is Ethernet's, for a path that nothing is known of.
	defaultMTU = 1500
	// minMTU6 is the least that IPv6 works with (RFC 8200, section 5).
	minMTU6 = 1280
	// padding is the multiple that WireGuard pads packets to, within the device's MTU. A route's MTU is rounded
	// down to it, so that padding never takes a packet over the path's MTU.
	padding = 16
)

// ownMTU is the MTU of the interface that has this node's underlay address, in bytes; 0: unknown. Of two
// interfaces the narrower counts.
func (p *planner) ownMTU() uint16 {
	mtu := 0
	for _, a := range p.Host.Addresses {
		if !slices.Contains(p.View.Self.Addresses, a.Address.Addr()) {
			continue
		}
		for _, l := range p.Host.Links {
			if l.Name == a.Device && l.MTU >= record.MinMTU && (mtu == 0 || l.MTU < mtu) {
				mtu = l.MTU
			}
		}
	}
	return uint16(min(mtu, math.MaxUint16))
}

// linkMTU is the MTU inside the tunnel to a peer, in bytes.
func (p *planner) linkMTU(n view.Node, endpoint netip.AddrPort) int {
	if p.View.Self.MTU != 0 {
		return p.View.Self.MTU
	}
	path := p.Host.PathMTU[endpoint.Addr()]
	if path == 0 {
		path = defaultMTU
	}
	if n.MTU != 0 {
		path = min(path, n.MTU)
	}
	return p.inside(path, endpoint.Addr().Is4())
}

// lonelyMTU is the MTU of a tunnel device without peers: what this node's own underlay allows.
func (p *planner) lonelyMTU() int {
	if p.View.Self.MTU != 0 {
		return p.View.Self.MTU
	}
	path := int(p.ownMTU())
	if path == 0 {
		path = defaultMTU
	}
	return p.inside(path, slices.ContainsFunc(p.View.Self.Addresses, netip.Addr.Is4))
}

func (p *planner) inside(path int, is4 bool) int {
	overhead := overhead6
	if is4 {
		overhead = overhead4
	}
	mtu := (path - overhead) / padding * padding
	for _, cidr := range p.ownCIDRs() {
		if cidr.Addr().Is6() {
			return max(mtu, minMTU6)
		}
	}
	return mtu
}

// podMTU is the MTU of the bridge and of pods: the widest tunnel's. A narrower one has it on its route.
func (p *planner) podMTU() int {
	mtu := 0
	for _, d := range p.out.Devices {
		mtu = max(mtu, d.MTU)
	}
	if mtu == 0 {
		return p.lonelyMTU()
	}
	return mtu
}
