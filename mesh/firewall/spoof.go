package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
	"golang.org/x/sys/unix"
)

// The names under which Counters tells of frames that pods sent and that were dropped.
const (
	// Spoofed is an IP packet whose source, or its frame's, isn't the pod's; with -ipv4 or -ipv6 behind.
	Spoofed = "spoofed"
	// SpoofedARP and SpoofedND are messages in which a pod says that it is somebody else; the latter with -solicitation or
	// -advertisement behind.
	SpoofedARP = "spoofed-arp"
	SpoofedND  = "spoofed-nd"
	// RouterAdvertisement is a pod that says it is a router, and NDRedirect one that says it knows a better one.
	RouterAdvertisement = "router-advertisement"
	NDRedirect          = "nd-redirect"
	// ForeignFrame is a frame that is neither IP nor ARP, such as one with a VLAN tag.
	ForeignFrame = "foreign-frame"
)

// Message types of ICMPv6 (RFC 4861, section 4).
const (
	typeRouterAdvertisement = 134
	typeSolicitation        = 135
	typeAdvertisement       = 136
	typeRedirect            = 137
)

// planSpoofing makes the table that looks at each frame that comes from a pod, with the elements of its sets. Nobody but
// the plugin names interfaces as it does, so a frame is from a pod when its port has such a name; the kernel can also
// tell the bridge, but not every kernel does so to nftables. The chains' places:
//
//   - from_ports, prerouting at -300: first of all, before the bridge learns where a MAC is, and before bridge-nf-call
//     could hand the packet to the IP firewall.
//   - to_ports, output at -300: what the node itself sends to pods.
func planSpoofing(elements map[string][]nftables.SetElement) ruleset {
	r := ruleset{
		family: nftables.TableFamilyBridge,
		chains: []chain{
			{name: "from_ports", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: -300,
				rules: join(otherPorts(), ip4FromPods(), arpFromPods(), discoveryFromPods(), ip6FromPods(), []rule{
					{name: ForeignFrame, verdict: drop(), counted: true},
				})},
			{name: "to_ports", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, priority: -300,
				rules: []rule{redirectToPods()}},
		},
	}
	for _, name := range guard.Names() {
		r.sets = append(r.sets, set{name: name, keyType: guard.KeyType(name), elements: elements[name]})
	}
	return r
}

func otherPorts() []rule {
	return []rule{{name: "other-ports", match: port(expr.MetaKeyIIFNAME, expr.CmpOpNeq), verdict: accept()}}
}

// ip4FromPods passes packets from a pod's own address. A pod that asks for multicast groups as a router does would make
// the bridge keep multicast from the others.
func ip4FromPods() []rule {
	const query = 0x11
	return []rule{
		{name: "igmp-query", match: join(frame(unix.ETH_P_IP), transport(unix.IPPROTO_IGMP, query)), verdict: drop()},
		{name: "own-ipv4", match: join(frame(unix.ETH_P_IP), owns(guard.Pods4, frameSource(), inPacket(12, 4))),
			verdict: accept()},
		{name: ipv4.name(Spoofed), match: frame(unix.ETH_P_IP), verdict: drop(), counted: true},
	}
}

// arpFromPods passes ARP for IPv4 over Ethernet (RFC 826) in which the sender is the pod: by the frame's source, and by
// both of its addresses in the message.
func arpFromPods() []rule {
	const hardwareAt, protocolAt = 8, 14
	return []rule{
		{
			name: "own-arp",
			match: join(frame(unix.ETH_P_ARP),
				equal(inPacket(0, 6), 0, 1, 8, 0, 6, 4),
				owns(guard.Pods4, frameSource(), inPacket(protocolAt, 4)),
				owns(guard.Pods4, inPacket(hardwareAt, 6), inPacket(protocolAt, 4))),
			verdict: accept(),
		},
		{name: SpoofedARP, match: frame(unix.ETH_P_ARP), verdict: drop(), counted: true},
	}
}

// discoveryFromPods passes neighbour solicitations and advertisements (RFC 4861, sections 4.3 and 4.4) that a pod sends
// from an address of its own, with no option but its own MAC; an advertisement must be for an address of its own.
func discoveryFromPods() []rule {
	rules := []rule{
		{name: RouterAdvertisement, match: icmp6(typeRouterAdvertisement), verdict: drop(), counted: true},
		{name: NDRedirect, match: icmp6(typeRedirect), verdict: drop(), counted: true},
		// A kernel asks whether its link-local address is taken, and gets no answer.
		{name: "unspecified", match: join(frame(unix.ETH_P_IPV6), equal(inPacket(8, 16), make([]byte, 16)...)), verdict: drop()},
	}
	const (
		lengthAt, sourceAt = 4, 8 // in the IPv6 header
		targetAt           = 8    // in the message, as the next
		optionAt           = 24
		sourceOption       = 1 // of link-layer addresses
		targetOption       = 2
	)
	source := inPacket(sourceAt, 16)
	target := inMessage(targetAt, 16)
	for _, m := range []struct {
		name    string
		kind    byte
		option  byte
		subject *expr.Payload // whose MAC the option has
	}{
		{"own-solicitation", typeSolicitation, sourceOption, source},
		{"own-advertisement", typeAdvertisement, targetOption, target},
	} {
		own := join(icmp6(m.kind), owns(guard.Neighbours6, frameSource(), source),
			owns(guard.Neighbours6, frameSource(), m.subject))
		rules = append(rules,
			rule{name: m.name + "-bare", match: join(own, equal(inPacket(lengthAt, 2), 0, optionAt)), verdict: accept()},
			rule{
				name: m.name,
				match: join(own, equal(inPacket(lengthAt, 2), 0, optionAt+8), equal(inMessage(optionAt, 2), m.option, 1),
					owns(guard.Neighbours6, inMessage(optionAt+2, 6), m.subject)),
				verdict: accept(),
			},
			rule{name: SpoofedND + "-" + m.name[len("own-"):], match: icmp6(m.kind), verdict: drop(), counted: true},
		)
	}
	return rules
}

// ip6FromPods passes packets from a pod's own address. All else that goes by link-local addresses, such as joining
// multicast groups and looking for routers, is of no use here.
func ip6FromPods() []rule {
	source := inPacket(8, 16)
	linkLocal := netip.MustParsePrefix("fe80::/10")
	return []rule{
		{
			name: "link-local",
			match: join(frame(unix.ETH_P_IPV6), []expr.Any{
				&expr.Payload{DestRegister: 1, Base: source.Base, Offset: source.Offset, Len: 2},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, 0xc0}, Xor: []byte{0, 0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkLocal.Addr().AsSlice()[:2]},
			}),
			verdict: drop(),
		},
		{name: "own-ipv6", match: join(frame(unix.ETH_P_IPV6), owns(guard.Pods6, frameSource(), source)), verdict: accept()},
		{name: ipv6.name(Spoofed), match: frame(unix.ETH_P_IPV6), verdict: drop(), counted: true},
	}
}

// redirectToPods keeps the node from telling a pod to go to another one directly, which the bridge wouldn't carry: for
// IPv6 there is no setting against it.
func redirectToPods() rule {
	return rule{name: "redirect-to-pods", match: join(port(expr.MetaKeyOIFNAME, expr.CmpOpEq), icmp6(typeRedirect)),
		verdict: drop()}
}

// port compares the beginning of a device's name with that of our ports.
func port(direction expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: direction, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte(store.PortPrefix)},
	}
}

// frame matches frames of an EtherType. It reads it from the frame, where a VLAN tag has another.
func frame(etherType uint16) []expr.Any {
	return equal(&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2}, byte(etherType>>8), byte(etherType))
}

// frameSource is the source MAC of the frame; inPacket and inMessage are bytes of what is in it, counted from the
// network and the transport header.
func frameSource() *expr.Payload {
	return &expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
}

func inPacket(offset, length uint32) *expr.Payload {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func inMessage(offset, length uint32) *expr.Payload {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

func icmp6(kind byte) []expr.Any {
	return join(frame(unix.ETH_P_IPV6), transport(unix.IPPROTO_ICMPV6, kind))
}

// transport matches the first byte of a message of a protocol.
func transport(protocol, first byte) []expr.Any {
	return join([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}, equal(inMessage(0, 1), first))
}

// equal matches when bytes are these.
func equal(at *expr.Payload, want ...byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: at.Base, Offset: at.Offset, Len: at.Len},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// owns matches when the port, a MAC and an address are an element of a set. The registers lie side by side: 16 bytes,
// 8, and those of the address.
func owns(set string, mac, address *expr.Payload) []expr.Any {
	const nameRegister, macRegister, addressRegister = unix.NFT_REG_1, unix.NFT_REG_2, unix.NFT_REG32_06
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nameRegister},
		&expr.Payload{DestRegister: macRegister, Base: mac.Base, Offset: mac.Offset, Len: mac.Len},
		&expr.Payload{DestRegister: addressRegister, Base: address.Base, Offset: address.Offset, Len: address.Len},
		&expr.Lookup{SourceRegister: nameRegister, SetName: set},
	}
}
