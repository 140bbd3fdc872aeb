package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Input is all that a plan depends on.
type Input struct {
	View view.View
	Host view.Host
}

// String is the input as text.
func (in Input) String() string { return in.View.String() + in.Host.String() }

// planner is one run of Make: the input, and the output as it grows.
type planner struct {
	Input
	out view.Desired
	// cidrs is what each node, this one too, keeps of its pod CIDRs after conflicts.
	cidrs     map[string][]netip.Prefix
	keyOwners map[keys.PublicKey]string
	states    map[linkEnd]view.LinkState
	// ranges are all that only tunnels and bridges may carry, and defaultRanges those of the default network.
	ranges, defaultRanges []netip.Prefix
	networks              []network // this node's, the default one first
	left                  []leftBridge
	ownBridges            map[string]bool // of networks beside the default one, in use or left behind
	// ways are how the pods of other nodes are reached.
	ways []way
}

// way is the link that traffic to a node takes.
type way struct {
	node   view.Node
	device string
	mtu    int // bytes, inside the tunnel
}

// Make plans the desired state. It never fails: what can't be planned is in the result's Problems, by name, and
// the rest is planned all the same.
func Make(in Input) view.Desired {
	p := &planner{Input: in, cidrs: map[string][]netip.Prefix{}, keyOwners: map[keys.PublicKey]string{},
		states: map[linkEnd]view.LinkState{}}
	p.out.PeerProblems = map[string]string{}
	for _, state := range in.View.Links {
		p.states[linkEnd{state.Device, state.PublicKey}] = state
	}
	p.ownKeys()
	p.findBridges()
	p.settleCIDRs()
	p.announce()
	p.planNetworks()
	p.planLinks()
	p.planRoutes()
	p.planBridges()
	p.planSysctls()
	p.planFirewall()
	p.reportWaiting()
	p.sortProblems()
	return p.out
}

// sortProblems puts what keeps this node itself from working before what concerns others.
func (p *planner) sortProblems() {
	own := []string{"node " + p.View.Self.Name, "bridge " + p.View.Self.Bridge}
	slices.SortStableFunc(p.out.Problems, func(a, b view.Problem) int {
		return cmp.Compare(slices.Index(own, b.Subject), slices.Index(own, a.Subject))
	})
}

func (p *planner) problem(subject, remedy, format string, args ...any) {
	p.report(view.Problem{Subject: subject, Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (p *planner) warning(subject, remedy, format string, args ...any) {
	p.report(view.Problem{Subject: subject, Message: fmt.Sprintf(format, args...), Remedy: remedy, Warning: true})
}

func (p *planner) report(problem view.Problem) {
	if !slices.Contains(p.out.Problems, problem) {
		p.out.Problems = append(p.out.Problems, problem)
	}
}

// announce fills in what the node says about itself. It says what it was given, also where it is in conflict:
// the others must be able to see the conflict too.
func (p *planner) announce() {
	self := p.View.Self
	generations := slices.Clone(self.Generations)
	if self.Unannounced && len(generations) > 1 {
		generations = generations[:len(generations)-1]
	}
	r := record.Record{Identity: self.Identity, Generations: generations, MTU: p.ownMTU()}
	for _, a := range self.Addresses {
		if e := self.Endpoint; e.IsValid() && e.Is4() == a.Is4() {
			a = e
		}
		endpoint := netip.AddrPortFrom(a, self.BasePort)
		if a.Is4() {
			r.Endpoint4 = endpoint
		} else {
			r.Endpoint6 = endpoint
		}
	}
	for _, cidr := range self.PodCIDRs {
		if cidr.Addr().Is4() {
			r.PodCIDR4 = cidr
		} else {
			r.PodCIDR6 = cidr
		}
	}
	p.out.Announce = r
}

func (p *planner) planSysctls() {
	p.out.Sysctls = []contract.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}}
	if p.hasIPv6() {
		p.forward6()
	}
	for _, bridge := range p.out.Bridges {
		p.out.Sysctls = append(p.out.Sysctls, contract.BridgeSysctls(bridge.Name)...)
	}
}

// forward6 turns IPv6 forwarding on. A host that forwards takes no router advertisements unless accept_ra is 2, and
// would lose its default route; an interface that takes none anyway stays so.
func (p *planner) forward6() {
	devices := []string{"all", "default"}
	for _, l := range p.Host.Links {
		if l.Kind != "veth" && l.Name != "lo" && !p.ours(l.Name) {
			devices = append(devices, l.Name)
		}
	}
	slices.Sort(devices)
	for _, device := range devices {
		p.out.Sysctls = append(p.out.Sysctls, contract.Sysctl{
			Key: "net/ipv6/conf/" + device + "/accept_ra", Value: "2", From: "1", Optional: true})
	}
	p.out.Sysctls = append(p.out.Sysctls, contract.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"})
}

// nodeAddresses are the underlay addresses of all nodes, as far as they are known. What Kubernetes has beyond the records
// may be anything that a kubelet wrote: what is among pods belongs to one of them, and is no node's.
func (p *planner) nodeAddresses() []netip.Addr {
	all := slices.Clone(p.View.Self.Addresses)
	if e := p.View.Self.Endpoint; e.IsValid() {
		all = append(all, e)
	}
	for _, n := range p.View.Peers {
		for _, e := range n.Endpoints {
			all = append(all, e.Addr())
		}
	}
	for _, a := range p.View.NodeAddresses {
		if _, pods := p.amongPods(a); !pods && a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// guardedPorts are the ports of nodes that pods mustn't reach. Other nodes may serve on the usual ports what this one
// serves on others.
func (p *planner) guardedPorts() (tcp, udp []uint16) {
	self := p.View.Self
	allowed := func(service string) bool { return slices.Contains(self.AllowPodsTo, service) }
	if !allowed(contract.ServiceMetrics) {
		tcp = append(tcp, contract.MetricsPort)
	}
	if !allowed(contract.ServiceHealth) {
		tcp = append(tcp, contract.HealthPort)
	}
	if !allowed(contract.ServiceUI) {
		tcp = append(tcp, contract.UIPort)
	}
	for _, own := range self.OwnPorts {
		if !allowed(own.Service) {
			tcp = append(tcp, own.Port)
		}
	}
	if !allowed(contract.ServiceGossip) {
		tcp, udp = append(tcp, contract.GossipPort), append(udp, contract.GossipPort)
	}
	for i := range uint16(contract.MaxDevices) {
		udp = append(udp, self.BasePort+i)
	}
	slices.Sort(tcp)
	slices.Sort(udp)
	return slices.Compact(tcp), slices.Compact(udp)
}

func (p *planner) reportWaiting() {
	for _, w := range p.View.Waiting {
		p.out.PeerProblems[w.Name] = w.Reason
	}
}
