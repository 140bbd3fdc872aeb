package mesh

import (
	"maps"
	"net/netip"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// probed is what probes found, and of ways that aren't probed yet what an earlier agent of this node found: traffic that
// fits stays as it is when an agent starts.
func (a *Agent) probed() map[netip.Addr]int {
	if a.Paths == nil {
		return nil
	}
	found := a.Paths.MTUs()
	for address, mtu := range a.foundBefore {
		if mtu >= record.MinMTU {
			found[address] = mtu
		}
	}
	return found
}

// follow has the ways of the plan probed, and remembers those that carry less than they seem to.
func (a *Agent) follow(paths []view.Path) {
	if a.Paths == nil {
		return
	}
	a.Paths.Follow(paths)
	narrow := map[netip.Addr]int{}
	for _, path := range paths {
		delete(a.foundBefore, path.Address)
		if path.Found != 0 && path.Found < path.Limit {
			narrow[path.Address] = path.Found
		}
	}
	if !maps.Equal(narrow, a.remembered.Paths) {
		a.remembered.Paths, a.unsaved = narrow, true // the next pass writes it
	}
}

// gauge has the ways to all peers that there is a link to measured, at the address that packets go to. Gossip, which carries the
// probes, is at addresses of one family: a peer that is reached by the other is measured by that of gossip's, if it has one.
func (a *Agent) gauge(p *pass) {
	if a.Meter == nil {
		return
	}
	to := map[string]netip.Addr{}
	for _, l := range p.desired.Links {
		to[l.Node] = l.Endpoint.Addr()
	}
	var ways []view.Way
	for _, n := range p.view.Peers {
		address, linked := to[n.Name]
		if !linked {
			continue
		}
		for _, e := range n.Endpoints {
			if address.Is4() != a.GossipAddress.Is4() {
				address = e.Addr()
			}
		}
		if address.Is4() == a.GossipAddress.Is4() {
			ways = append(ways, view.Way{Node: n.Name, Address: address, Alive: n.Alive})
		}
	}
	a.Meter.Follow(ways)
}

// measured is what came of that, by node.
func (a *Agent) measured() map[string]view.Measured {
	if a.Meter == nil {
		return nil
	}
	return a.Meter.Measured()
}
