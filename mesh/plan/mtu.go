package plan

import (
	"fmt"
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

// givenMTU is what this node was told to use inside tunnels, in bytes; 0: nothing. IPv6 works with no less than minMTU6: the
// kernel turns it off on such a device, and the plugin attaches no pod.
func (p *planner) givenMTU() int {
	mtu := p.View.Self.MTU
	if mtu == 0 || mtu >= minMTU6 || !p.hasIPv6() {
		return mtu
	}
	p.warning("node "+p.View.Self.Name, fmt.Sprintf("give --mtu %d at least, or leave it out", minMTU6),
		"--mtu is %d, and pods with IPv6 addresses need %d: that is used", mtu, minMTU6)
	return minMTU6
}

// linkMTU is the MTU inside the tunnel to a peer, in bytes: by what the way to it seems to carry, and by what probes
// found that it does.
func (p *planner) linkMTU(n view.Node, endpoint netip.AddrPort) (seems, carries int) {
	if mtu := p.givenMTU(); mtu != 0 {
		return mtu, mtu
	}
	address := endpoint.Addr()
	path := p.Host.PathMTU[address]
	if path == 0 {
		path = defaultMTU
	}
	if n.MTU != 0 {
		path = min(path, n.MTU)
	}
	found := p.Host.Probed[address]
	limit := (path-overhead(address))/padding*padding + overhead(address)
	p.out.Paths = append(p.out.Paths, view.Path{Address: address, Limit: limit, Found: found})
	seems = p.inside(path, address.Is4())
	carries = seems
	if found != 0 && found < limit {
		path = found
		carries = p.inside(path, address.Is4())
	}
	if carries > path-overhead(address) {
		p.warning("node "+n.Name, "let the network between the two nodes carry larger packets", "the way to it carries packets "+
			"of %d bytes, and pods with IPv6 addresses need %d: larger ones are fragmented or lost", path, minMTU6+overhead(address))
	}
	return seems, carries
}

// lonelyMTU is the MTU of a tunnel device without peers: what this node's own underlay allows.
func (p *planner) lonelyMTU() int {
	if mtu := p.givenMTU(); mtu != 0 {
		return mtu
	}
	path := int(p.ownMTU())
	if path == 0 {
		path = defaultMTU
	}
	return p.inside(path, slices.ContainsFunc(p.View.Self.Addresses, netip.Addr.Is4))
}

func (p *planner) inside(path int, is4 bool) int {
	mtu := (path - overheadOf(is4)) / padding * padding
	if p.hasIPv6() {
		return max(mtu, minMTU6)
	}
	return mtu
}

// overheadOf is what the tunnel adds to a packet over an underlay of a family.
func overheadOf(is4 bool) int {
	if is4 {
		return overhead4
	}
	return overhead6
}

func overhead(endpoint netip.Addr) int { return overheadOf(endpoint.Is4()) }

// podMTU is the MTU of new pods: of the widest way. A narrower one has it on its route.
func (p *planner) podMTU() int {
	mtu := 0
	for _, w := range p.ways {
		mtu = max(mtu, w.mtu)
	}
	if mtu == 0 {
		return p.lonelyMTU()
	}
	return mtu
}

// bridgeMTU is the MTU of a bridge. Pods keep the one that they were started with, and a bridge drops, without a word,
// what is too large for a port. So the narrowest port counts: what is larger is then fragmented, or refused as ICMP has it.
func (p *planner) bridgeMTU(name string) int {
	mtu := p.podMTU()
	for _, bridge := range p.Host.Links {
		if bridge.Name != name {
			continue
		}
		for _, port := range p.Host.Links {
			if port.MTU > 0 && port.MTU < mtu && slices.Contains(bridge.Ports, port.Name) {
				mtu = port.MTU
			}
		}
	}
	if p.hasIPv6() {
		return max(mtu, minMTU6)
	}
	return mtu
}
