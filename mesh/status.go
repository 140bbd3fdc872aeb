package mesh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Status is what the last pass came to, with the tunnels as they are now. Safe to call at any time.
func (a *Agent) Status(ctx context.Context) view.Status {
	now := time.Now()
	s := view.Status{Time: now, Version: a.Version, Started: a.started, Node: a.Node, WireGuard: a.WireGuard,
		Kubernetes: "absent", Gossip: a.Gossip.Status(), Counters: a.count()}
	p := a.last.Load()
	if p == nil {
		s.Problems = []view.Problem{starting()}
		return s
	}
	if p.cluster != nil {
		s.Kubernetes = "unreachable"
		if p.cluster.Reachable {
			s.Kubernetes = "connected"
		}
	}
	self := p.view.Self
	s.Identity, s.PodCIDRs, s.PodRanges, s.PodRangeSource = self.Identity, self.PodCIDRs, p.view.PodRanges, p.view.PodRangeSource
	s.Networks = self.Networks
	s.Ready, s.Problems = p.ready, slices.Clone(p.problems)
	s.Endpoints = p.desired.Announce.Endpoints()
	s.Rotation = p.rotation
	for _, g := range self.Generations {
		s.Generations = append(s.Generations, view.GenerationStatus{Number: g.Number, PublicKey: g.Key})
	}
	devices, err := a.Tunnels.Observe(ctx)
	if err != nil {
		s.Problems = append(s.Problems, view.Problem{Subject: "tunnels", Message: err.Error()})
	}
	attached, err := a.Attach.Attachments(ctx)
	if s.Attachments = len(attached); err != nil {
		s.Problems = append(s.Problems, view.Problem{Subject: "attachments", Message: err.Error()})
	}
	if s.Addresses, err = a.addresses(ctx, self); err != nil {
		s.Problems = append(s.Problems, view.Problem{Subject: "addresses", Message: err.Error()})
	}
	s.Devices = deviceStatus(p.desired, devices)
	a.addTraffic(ctx, s.Devices)
	s.Repairs = a.recentRepairs(now)
	s.Peers = a.withMeasured(peerStatus(p, devices, now))
	return s
}

func (a *Agent) count() view.Counters {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.counters
	c.Refused, c.ErrorsByKind, c.RepairsByKind = maps.Clone(c.Refused), maps.Clone(c.ErrorsByKind), maps.Clone(c.RepairsByKind)
	if c.Refused == nil {
		c.Refused = map[string]uint64{}
	}
	for word, n := range a.Gossip.Refused() {
		c.Refused[word] += n
	}
	return c
}

func deviceStatus(d view.Desired, devices []view.DeviceState) []view.DeviceStatus {
	var all []view.DeviceStatus
	for _, device := range devices {
		status := view.DeviceStatus{Name: device.Name, Kind: device.Kind, PublicKey: device.PublicKey,
			ListenPort: device.ListenPort, Peers: len(device.Peers)}
		for _, want := range d.Devices {
			if want.Name == device.Name {
				status.Generation, status.MTU = want.Generation, want.MTU
			}
		}
		all = append(all, status)
	}
	return all
}

// peerStatus lists every other node that is known, sorted by name.
func peerStatus(p *pass, devices []view.DeviceState, now time.Time) []view.PeerStatus {
	states, owns := map[linkID]view.PeerState{}, map[string]keys.PublicKey{}
	for _, d := range devices {
		for _, peer := range d.Peers {
			states[linkID{d.Name, d.PublicKey, peer.PublicKey}] = peer
			owns[d.Name] = d.PublicKey
		}
	}
	alive, generations := map[string]bool{}, map[keys.PublicKey]uint32{}
	for _, n := range p.view.Peers {
		alive[n.Name] = n.Alive
		for _, g := range n.Generations {
			generations[g.Key] = g.Number
		}
	}
	byNode, links := map[string]view.PeerStatus{}, map[string][]view.LinkStatus{}
	for _, d := range p.desired.Devices {
		for _, peer := range d.Peers {
			l := carrying(p, peer.Node)
			id := linkID{d.Name, owns[d.Name], peer.PublicKey}
			s := linkStatus(d, peer, states[id], p.tracks[id], now)
			s.Generation = generations[peer.PublicKey]
			links[peer.Node] = append(links[peer.Node], oneLink(s, d.Generation, l != nil && l.Device == d.Name))
			if l != nil && l.Device != d.Name {
				continue // another link has the traffic
			}
			s.MTU, s.Gossip = routeMTU(p.desired, d, peer), alive[peer.Node]
			s.PathMTU = pathMTU(p.desired, peer.Endpoint.Addr())
			byNode[peer.Node] = s
		}
	}
	for node, why := range p.desired.PeerProblems {
		s, planned := byNode[node]
		if !planned {
			s.HandshakeAge = -1
		}
		s.Node, s.Up, s.Reason, s.Gossip = node, false, why, alive[node]
		byNode[node] = s
	}
	for _, w := range p.view.Waiting {
		s := byNode[w.Name]
		s.Gossip = w.Alive
		byNode[w.Name] = s
	}
	for _, n := range p.view.Peers {
		if s, listed := byNode[n.Name]; listed {
			s.Networks, s.Document = n.Networks, p.documents[n.Name]
			s.PodCIDRs = slices.DeleteFunc(slices.Clone(s.PodCIDRs), func(p netip.Prefix) bool { return ofNetwork(n.Networks, p) })
			byNode[n.Name] = s
		}
	}
	for node, all := range links {
		s := byNode[node]
		s.Links = all
		byNode[node] = s
	}
	return slices.SortedFunc(maps.Values(byNode), func(a, b view.PeerStatus) int { return cmp.Compare(a.Node, b.Node) })
}

// withMeasured adds to peers what probes told of the ways to them, and gossip's pings of the clocks of those that it sees.
func (a *Agent) withMeasured(peers []view.PeerStatus) []view.PeerStatus {
	measured, pulses := a.measured(), a.Gossip.Pulses()
	for i := range peers {
		m := measured[peers[i].Node]
		peers[i].RTT, peers[i].Loss, peers[i].Probes = m.RTT.Seconds(), m.Loss(), m.Probes
		if pulse := pulses[peers[i].Node]; pulse.ClockKnown && peers[i].Gossip {
			offset := pulse.ClockOffset.Seconds()
			peers[i].ClockOffset = &offset
		}
	}
	return peers
}

// oneLink is a link by itself: one of those to a peer, which has the peer's status when traffic takes it.
func oneLink(s view.PeerStatus, own uint32, carries bool) view.LinkStatus {
	return view.LinkStatus{
		Device: s.Device, OwnGeneration: own, PublicKey: s.PublicKey, Generation: s.Generation, Endpoint: s.Endpoint, Carries: carries,
		LastHandshake: s.LastHandshake, HandshakeAge: s.HandshakeAge, ReceivedBytes: s.ReceivedBytes, SentBytes: s.SentBytes,
	}
}

// ofNetwork reports whether a prefix is a node's part of one of its networks.
func ofNetwork(networks []view.Network, p netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n view.Network) bool { return slices.Contains(n.CIDRs, p) })
}

func linkStatus(d view.Device, peer view.Peer, state view.PeerState, track linkTrack, now time.Time) view.PeerStatus {
	s := view.PeerStatus{
		Node: peer.Node, Endpoint: peer.Endpoint.String(), Device: d.Name, PublicKey: peer.PublicKey,
		PodCIDRs: peer.AllowedIPs, LastHandshake: state.LastHandshake, HandshakeAge: -1,
		ReceivedBytes: state.ReceivedBytes, SentBytes: state.SentBytes,
	}
	if state.PublicKey == (keys.PublicKey{}) {
		s.Reason = fmt.Sprintf("%s doesn't have it as a peer yet", d.Name)
		return s
	}
	if state.Endpoint.IsValid() {
		s.Endpoint = state.Endpoint.String()
	}
	if state.LastHandshake.IsZero() {
		s.Reason = fmt.Sprintf("no handshake yet: does UDP port %d reach %s, and port %d this node?",
			peer.Endpoint.Port(), peer.Endpoint.Addr(), d.ListenPort)
		return s
	}
	age := now.Sub(state.LastHandshake)
	if track.handshake.Equal(state.LastHandshake) {
		age = track.age(now) // also when the system clock was set since
	}
	s.HandshakeAge = age.Seconds()
	s.Up = age < establishedFor
	if !s.Up {
		s.Reason = fmt.Sprintf("no handshake for %s: is the node down, or UDP port %d blocked?",
			age.Round(time.Second), peer.Endpoint.Port())
	}
	return s
}

// routeMTU is the MTU of the way to a peer, in bytes.
func routeMTU(d view.Desired, device view.Device, peer view.Peer) int {
	for _, r := range d.Routes {
		if r.Device == device.Name && slices.Contains(peer.AllowedIPs, r.Destination) && r.MTU != 0 {
			return r.MTU
		}
	}
	return device.MTU
}

// pathMTU is what probes found that the way to an address carries, if that is less than it seems to; else 0.
func pathMTU(d view.Desired, address netip.Addr) int {
	for _, path := range d.Paths {
		if path.Address == address && path.Found < path.Limit {
			return path.Found
		}
	}
	return 0
}
