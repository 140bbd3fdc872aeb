package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// keepalive is sent both ways on an established link, so that a session never goes stale unseen.
	keepalive = 25 * time.Second
	// knocking is the keepalive while a link is set up: it makes WireGuard start the handshake at once.
	knocking = time.Second
)

// link is one WireGuard session between this node and a peer: one of their generations each.
type link struct {
	device   int // of this node; its port is the base port and this
	far      int // the peer's device, likewise
	own      record.Generation
	peer     record.Generation
	endpoint netip.AddrPort
}

// linkEnd is what tells this node's ends of links apart.
type linkEnd struct {
	device string
	key    keys.PublicKey
}

// deviceNumber is the tunnel device of a node in generation near, towards a peer in generation far.
func deviceNumber(near, far uint32) int { return int(2*(near%2) + far%2) }

// links are all links to a peer over one pair of endpoints, oldest first. A node in rotation has two generations,
// and the rule gives each pair of generations a device and a port of its own at both ends.
func links(own []record.Generation, n view.Node, endpoint netip.AddrPort) []link {
	var all []link
	for _, o := range own {
		for _, g := range n.Generations {
			far := deviceNumber(g.Number, o.Number)
			all = append(all, link{
				device: deviceNumber(o.Number, g.Number), far: far, own: o, peer: g,
				endpoint: netip.AddrPortFrom(endpoint.Addr(), endpoint.Port()+uint16(far)),
			})
		}
	}
	slices.SortStableFunc(all, func(a, b link) int {
		return cmp.Compare(uint64(a.own.Number)+uint64(a.peer.Number), uint64(b.own.Number)+uint64(b.peer.Number))
	})
	return all
}

// planLinks plans the tunnel devices and their peers.
func (p *planner) planLinks() {
	devices := map[int]*view.Device{}
	for _, n := range p.View.Peers {
		if endpoint, ok := p.usable(n); ok {
			p.planPeer(devices, n, endpoint)
		}
	}
	if len(devices) == 0 && len(p.View.Self.Generations) > 0 {
		newest := p.View.Self.Generations[len(p.View.Self.Generations)-1]
		p.device(devices, deviceNumber(newest.Number, newest.Number), newest).MTU = p.lonelyMTU()
	}
	for i := range contract.MaxDevices {
		name := contract.DeviceName(i)
		if why := p.foreignTunnel(name); why != "" {
			p.problem("interface "+name, "remove it (`ip link delete "+name+"`) if nothing uses it", "%s", why)
		} else if d := devices[i]; d != nil {
			p.out.Devices = append(p.out.Devices, *d)
		}
	}
}

// planPeer plans the links to one peer, and which of them carries the traffic.
func (p *planner) planPeer(devices map[int]*view.Device, n view.Node, endpoint netip.AddrPort) {
	seems, carries := p.linkMTU(n, endpoint)
	var planned []link
	var foreign string
	for _, l := range links(p.View.Self.Generations, n, endpoint) {
		if why := p.foreignTunnel(contract.DeviceName(l.device)); why != "" {
			foreign = why
			continue
		}
		d := p.device(devices, l.device, l.own)
		d.Peers = append(d.Peers, view.Peer{
			Node: n.Name, PublicKey: l.peer.Key, Endpoint: l.endpoint,
			AllowedIPs: p.carried(n), Keepalive: p.keepalive(n, l), Attempt: p.attempt(n, l),
			Established: p.state(l).Established, Disowned: p.state(l).Disowned,
		})
		d.MTU = max(d.MTU, seems)
		planned = append(planned, l)
	}
	if len(planned) == 0 {
		if foreign != "" {
			p.out.PeerProblems[n.Name] = foreign
		}
		return
	}
	best := p.best(planned)
	p.ways = append(p.ways, way{node: n, device: contract.DeviceName(best.device), mtu: carries})
	for _, l := range planned {
		state := p.state(l)
		p.out.Links = append(p.out.Links, view.Link{
			Node: n.Name, Device: contract.DeviceName(l.device), ListenPort: p.port(l.device), Endpoint: l.endpoint,
			Own: l.own.Number, Peer: l.peer, Confirmed: state.Confirmed, Silent: state.Silent, Carries: l == best,
		})
	}
}

// port is the UDP port of a tunnel device of this node.
func (p *planner) port(device int) uint16 { return p.View.Self.BasePort + uint16(device) }

func (p *planner) device(devices map[int]*view.Device, number int, own record.Generation) *view.Device {
	if devices[number] == nil {
		d := &view.Device{
			Name: contract.DeviceName(number), Generation: own.Number,
			ListenPort: p.port(number),
		}
		for _, network := range p.networks {
			for _, gateway := range network.gateways() {
				d.Addresses = append(d.Addresses, netip.PrefixFrom(gateway, gateway.BitLen()))
			}
		}
		devices[number] = d
	}
	return devices[number]
}

// usable says whether a node can be a peer, and by which endpoint. What keeps it from being one is reported.
func (p *planner) usable(n view.Node) (netip.AddrPort, bool) {
	if twin := p.sameKey(n); twin != "" {
		p.out.PeerProblems[n.Name] = "it announces the same WireGuard key as node " + twin
		p.problem("node "+n.Name, "were its disk or key store copied? Move away /var/lib/weaveguard/keys.json on the "+
			"copy, and restart its agent", "it announces the same WireGuard key as node %s", twin)
		return netip.AddrPort{}, false
	}
	if len(p.cidrs[n.Name]) == 0 {
		if _, known := p.out.PeerProblems[n.Name]; !known {
			p.out.PeerProblems[n.Name] = "it has no pod CIDR"
		}
		return netip.AddrPort{}, false
	}
	for _, e := range n.Endpoints {
		if !slices.ContainsFunc(p.View.Self.Addresses, func(a netip.Addr) bool { return a.Is4() == e.Addr().Is4() }) {
			continue
		}
		if r, inside := p.amongPods(e.Addr()); inside {
			why := fmt.Sprintf("its endpoint %s is in the pod range %s, so what is sent there would go round in circles", e.Addr(), r)
			p.out.PeerProblems[n.Name] = why
			p.problem("node "+n.Name, "give the node an address outside the pod ranges, or choose another pod range", "%s", why)
			return netip.AddrPort{}, false
		}
		return e, true
	}
	p.out.PeerProblems[n.Name] = "it has no endpoint of an address family that this node has"
	return netip.AddrPort{}, false
}

// amongPods finds the pod range that an address is in.
func (p *planner) amongPods(a netip.Addr) (netip.Prefix, bool) {
	for _, r := range p.ranges {
		if r.Contains(a) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// sameKey names this node or an earlier one that has a WireGuard key of n too: WireGuard would take the two for
// one peer.
func (p *planner) sameKey(n view.Node) string {
	for _, g := range n.Generations {
		if owner := p.keyOwners[g.Key]; owner != n.Name {
			return owner
		}
	}
	return ""
}

// ownKeys finds out who has each WireGuard key: this node, or of the others the first by name.
func (p *planner) ownKeys() {
	own := func(node string, generations []record.Generation) {
		for _, g := range generations {
			if _, taken := p.keyOwners[g.Key]; !taken {
				p.keyOwners[g.Key] = node
			}
		}
	}
	own(p.View.Self.Name, p.View.Self.Generations)
	for _, n := range p.View.Peers {
		own(n.Name, n.Generations)
	}
}

// best picks the link that traffic to a peer takes: of the confirmed ones the newest; when none is, of those that ever
// had a session the newest, since that is the one that traffic took last; and else the oldest, which everybody has.
func (p *planner) best(all []link) link {
	for _, good := range []func(view.LinkState) bool{
		func(s view.LinkState) bool { return s.Confirmed }, func(s view.LinkState) bool { return s.Met },
	} {
		best, found := all[0], false
		for _, l := range all {
			if good(p.state(l)) && (!found || newer(l, best)) {
				best, found = l, true
			}
		}
		if found {
			return best
		}
	}
	return all[0]
}

// newer orders links by the peer's key before this node's own: what was said to a peer, that traffic takes its newest
// key, stays so whatever this node does with its own. The two ends may pick different links; both receive on all.
func newer(a, b link) bool {
	if a.peer.Number != b.peer.Number {
		return a.peer.Number > b.peer.Number
	}
	return a.own.Number > b.own.Number
}

// keepalive is the interval for a link: one end sets it up and the other waits, since handshakes that both ends start
// at once collide, and take many seconds to sort out. When the link is overdue both try: only one of them may be able
// to reach the other.
func (p *planner) keepalive(n view.Node, l link) time.Duration {
	state := p.state(l)
	switch {
	case state.Established:
		return keepalive
	case state.Overdue && !p.secret(l):
		return knocking
	case !p.starts(n, l) || p.bothNext(n, l) && !state.Ripe:
		return 0
	}
	return knocking
}

// attempt is which try at the handshake a link is to be at: only the end that sets the link up tries afresh. Where the other
// one has lost its session, this one forgets its own first: what it knows of it keeps new ones away.
func (p *planner) attempt(n view.Node, l link) int {
	state := p.state(l)
	if state.Established {
		return 0
	}
	attempt := 0
	if !state.Disowned.IsZero() {
		attempt++
	}
	if p.starts(n, l) {
		attempt += state.Attempt
	}
	return attempt
}

// starts reports whether this node, and not the peer, sets up a link. Who announces the next key has its end of the
// link in place by then, so the other one starts as soon as it has its own. Of two ends that are equal in this, the
// smaller name starts.
func (p *planner) starts(n view.Node, l link) bool {
	own, peer := isNext(p.View.Self.Generations, l.own), isNext(n.Generations, l.peer)
	if own != peer {
		return peer
	}
	return !p.secret(l) && p.smaller(n)
}

// smaller reports whether this node has the smaller name.
func (p *planner) smaller(n view.Node) bool { return strings.Compare(p.View.Self.Name, n.Name) < 0 }

// bothNext reports whether a link is of the next keys of both ends. Then neither knows whether the other's end stands:
// who starts gives it a moment.
func (p *planner) bothNext(n view.Node, l link) bool {
	return isNext(p.View.Self.Generations, l.own) && isNext(n.Generations, l.peer)
}

// secret reports whether a link is of an own key that nobody else knows of yet.
func (p *planner) secret(l link) bool {
	return p.View.Self.Unannounced && isNext(p.View.Self.Generations, l.own)
}

// isNext reports whether g is the newer of two generations.
func isNext(all []record.Generation, g record.Generation) bool {
	return len(all) > 1 && g.Number == all[len(all)-1].Number
}

// state is what the tunnels showed of a link last; nothing when its device had another key then.
func (p *planner) state(l link) view.LinkState {
	state := p.states[linkEnd{contract.DeviceName(l.device), l.peer.Key}]
	if state.Own != l.own.Key {
		return view.LinkState{}
	}
	return state
}
