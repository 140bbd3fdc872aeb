package firewall

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// Names of sets. Of those that hold addresses there is one for each family, with 4 or 6 behind the name.
const (
	setTunnels = "tunnels"   // names of tunnel devices
	setInside  = "inside"    // names of all devices that may carry pods' packets
	setPods    = "pods"      // pod ranges of the cluster
	setLocal   = "local"     // pod CIDRs of this node
	setPodSide = "podside"   // names of devices by which pods' packets come to this node
	setNodes   = "nodes"     // addresses of all nodes
	setTCP     = "tcp_ports" // of nodes, not for pods
	setUDP     = "udp_ports"
	setApart   = "apart" // pairs of ranges of networks that don't reach each other
)

// masqueradeMark is the bit of the packet mark by which kube-proxy asks for masquerading (its iptablesMasqueradeBit
// 14, which is its default in all modes).
const masqueradeMark = 0x4000

// The names under which Counters tells of dropped packets.
const (
	// ToPods is a packet to a pod that would have left by a device that isn't a tunnel, a bridge of ours or lo.
	ToPods = "to-pods"
	// FromPods is a packet from a pod's address that came in by such a device.
	FromPods = "from-pods"
	// ToNode is a packet from a pod to a port of this node that isn't for pods, and ToNodes one to another node's.
	ToNode  = "to-node"
	ToNodes = "to-nodes"
	// Apart is a packet from a pod on one network to another network, and ApartHere one to an address of this node itself in
	// another network.
	Apart     = "apart"
	ApartHere = "apart-here"
)

// ruleset is a table as it should be.
type ruleset struct {
	family nftables.TableFamily
	sets   []set
	chains []chain
}

type set struct {
	name     string
	keyType  nftables.SetDatatype
	interval bool
	concat   bool // with interval: the key is several values, and an element a range of each
	elements []nftables.SetElement
}

type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

type rule struct {
	name    string // unique within the table
	match   []expr.Any
	verdict []expr.Any
	counted bool // counts the packets that match
}

// plan makes the whole table from what it has to know. Each chain's place among the others of its hook is part of
// what it does:
//
//   - from_pods, prerouting at -300 (raw): before connection tracking, so that a spoofed packet leaves no trace
//     there and no DNAT sends it on; only defragmentation is earlier.
//   - fragments, prerouting at -99: just after destination NAT, so that it sees which pod a packet goes to, and
//     before forwarding looks at its size.
//   - segment_size, postrouting at -150 (mangle): any place does where the outgoing route is known.
//   - source, postrouting at 99: just before kube-proxy's and others' source NAT at 100. Within one hook the first
//     NAT rule that matches decides for a connection, and the later ones aren't asked.
//   - to_nodes, postrouting at 98: just before source NAT, so that it sees which pod a packet comes from, and in
//     postrouting for what IPVS sends on. It keeps networks apart too: there it also sees which pod a packet goes to.
//   - to_node, input at 200: after IPVS (98 and 99), which takes packets for Services from there.
//   - to_pods, postrouting at 300: after all NAT, so that it sees the packet as it leaves; and in postrouting,
//     because forwarding wouldn't show what this node sends by itself, or by IPVS.
func plan(f view.Firewall) ruleset {
	r := ruleset{
		family: nftables.TableFamilyINet,
		sets: []set{
			nameSet(setTunnels, f.Tunnels),
			nameSet(setInside, append(append([]string{"lo"}, f.Tunnels...), f.Bridges...)),
			nameSet(setPodSide, append(slices.Clone(f.Tunnels), f.Bridges...)),
			portSet(setTCP, f.GuardedTCP),
			portSet(setUDP, f.GuardedUDP),
		},
		chains: []chain{
			{name: "from_pods", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: -300},
			{name: "segment_size", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, priority: -150,
				rules: []rule{clampSegments()}},
			{name: "fragments", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: -99,
				rules: []rule{allowFragments()}},
			{name: "source", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: 99},
			{name: "to_pods", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, priority: 300},
			{name: "to_node", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookInput, priority: 200,
				rules: join(keepApart(f.Networks, ApartHere), toNode())},
			{name: "to_nodes", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, priority: 98,
				rules: join(keepApart(f.Networks, Apart), []rule{replies("to-nodes-replies")})},
		},
	}
	fromPods, source, toPods, toNodes := &r.chains[0], &r.chains[3], &r.chains[4], &r.chains[6]
	for _, family := range []family{ipv4, ipv6} {
		r.sets = append(r.sets, prefixSet(family, setPods, f.PodRanges), prefixSet(family, setLocal, f.LocalPods),
			prefixSet(family, setNodes, singles(f.Nodes)), apartSet(family, f.Networks))
		toNodes.rules = append(toNodes.rules, toOtherNodes(family)...)
		fromPods.rules = append(fromPods.rules, rule{
			name:    family.name(FromPods),
			match:   join(family.is(), family.in(family.source(), setPods), notBy(expr.MetaKeyIIFNAME, setInside)),
			verdict: drop(),
			counted: true,
		})
		toPods.rules = append(toPods.rules, rule{
			name:    family.name(ToPods),
			match:   join(family.is(), family.in(family.destination(), setPods), notBy(expr.MetaKeyOIFNAME, setInside)),
			verdict: drop(),
			counted: true,
		})
		source.rules = append(source.rules, towardsNetworks(family, f.Networks)...)
		for _, gateway := range f.Gateways {
			if gateway = gateway.Unmap(); family.has(gateway) {
				source.rules = append(source.rules, ontoTunnel(family, gateway, "", nil)...)
			}
		}
		source.rules = append(source.rules, masquerade(family))
	}
	return r
}

// toNode drops what pods send to ports of this node that aren't for them, at whichever of its addresses: pods of this
// node by the bridge, and those of others by a tunnel, by which nodes themselves never gossip. After destination NAT,
// so that a Service in front makes no difference.
func toNode() []rule {
	rules := []rule{replies("to-node-replies")}
	for _, p := range protocols() {
		rules = append(rules, rule{
			name: ToNode + "-" + p.name, match: join(by(expr.MetaKeyIIFNAME, setPodSide), p.to()), verdict: drop(), counted: true,
		})
	}
	return rules
}

// toOtherNodes drops what pods of this node send to such ports of other nodes.
func toOtherNodes(family family) []rule {
	var rules []rule
	for _, p := range protocols() {
		rules = append(rules, rule{
			name: family.name(ToNodes + "-" + p.name),
			match: join(family.is(), family.in(family.source(), setLocal), family.in(family.destination(), setNodes),
				p.to()),
			verdict: drop(),
			counted: true,
		})
	}
	return rules
}

// replies passes what answers a node: one may have called a pod from such a port. What isn't of a connection at all
// doesn't match.
func replies(name string) rule {
	const reply = 1 // IP_CT_DIR_REPLY
	return rule{
		name: name,
		match: []expr.Any{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{reply}},
		},
		verdict: accept(),
	}
}

// ontoTunnel is the source NAT of what leaves by a tunnel: for connections that kube-proxy has marked, and for all
// that don't come from a pod of this node, as the far node takes only our pods' addresses from us. It isn't a
// masquerade: a masqueraded connection is bound to its device, and would be reset when its route moves to another
// tunnel. Towards limits it to destinations, and suffix is for the rules' names.
func ontoTunnel(family family, gateway netip.Addr, suffix string, towards []expr.Any) []rule {
	translate := []expr.Any{
		&expr.Immediate{Register: 1, Data: gateway.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(family), RegAddrMin: 1, FullyRandom: true},
	}
	return []rule{
		{
			name:    family.name("marked") + suffix,
			match:   join(by(expr.MetaKeyOIFNAME, setTunnels), family.is(), towards, marked(masqueradeMark)),
			verdict: translate,
		},
		{
			name:    family.name("foreign") + suffix,
			match:   join(by(expr.MetaKeyOIFNAME, setTunnels), family.is(), towards, family.notIn(family.source(), setLocal)),
			verdict: translate,
		},
	}
}

// masquerade is for what pods of this node send out of the cluster. From pod to pod never, and never for multicast
// and broadcast, which have no connections. Fully random ports: two connections that are made at once don't then
// fight for the same one.
func masquerade(family family) rule {
	return rule{
		name: family.name("masquerade"),
		match: join(family.is(), family.in(family.source(), setLocal), family.notIn(family.destination(), setPods),
			notBy(expr.MetaKeyOIFNAME, setInside), family.unicast()),
		verdict: []expr.Any{&expr.Masq{FullyRandom: true}},
	}
}

// clampSegments lowers the segment size that a TCP connection through a tunnel asks for (RFC 9293, section 3.7.1)
// to what fits the route; the kernel never raises it.
func clampSegments() rule {
	const (
		flagsAt, syn, rst = 13, 0x02, 0x04
		optionMSS         = 2
	)
	return rule{
		name: "segment-size",
		match: join(by(expr.MetaKeyOIFNAME, setTunnels), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsAt, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		}),
		verdict: []expr.Any{
			&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: 1, Type: optionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		},
	}
}

// allowFragments takes the flag "don't fragment" (RFC 791, section 3.1) from what comes to pods from outside by an
// address of this node: NodePorts, host ports, answers to masqueraded pods. Pods have a smaller MTU than the underlay,
// and with the flag a packet between the two would be refused with an ICMP message that says that MTU of the way to
// this node's address. A sender that is a node keeps that for its tunnel too, which goes to the same address, and
// then each full packet of the tunnel is fragmented. IPv6 has no such flag.
func allowFragments() rule {
	const flagsAt, checksumAt = 6, 10
	flags := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: flagsAt, Len: 2}
	return rule{
		name: "fragments",
		match: join(ipv4.is(), ipv4.in(ipv4.destination(), setPods), notBy(expr.MetaKeyIIFNAME, setInside), []expr.Any{
			flags,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0x40, 0}, Xor: []byte{0, 0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
		}),
		verdict: []expr.Any{
			flags,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xbf, 0xff}, Xor: []byte{0, 0}},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader,
				Offset: flagsAt, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksumAt},
		},
	}
}

func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
