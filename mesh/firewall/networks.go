package firewall

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// apartSet has the pairs of ranges that nothing gets from one to the other: those of any two networks of which none is to
// reach the other, both ways.
func apartSet(family family, networks []view.FirewallNetwork) set {
	address := prefixSet(family, setApart, nil)
	s := set{name: address.name, keyType: nftables.MustConcatSetType(address.keyType, address.keyType), interval: true, concat: true}
	for i, from := range networks {
		for j, to := range networks {
			if i == j || slices.Contains(from.Reaches, to.Name) || slices.Contains(to.Reaches, from.Name) {
				continue
			}
			for _, source := range family.of(from.Ranges) {
				for _, destination := range family.of(to.Ranges) {
					s.elements = append(s.elements, nftables.SetElement{
						Key:    slices.Concat(source.Addr().AsSlice(), destination.Addr().AsSlice()),
						KeyEnd: slices.Concat(last(source), last(destination)),
					})
				}
			}
		}
	}
	return s
}

// keepApart drops what goes from one network to another. The network of a packet is that of its source address: by a
// bridge nobody sends from another's, which the table of the bridge family sees to, and by a tunnel nobody sends from
// an address that isn't the peer's.
func keepApart(networks []view.FirewallNetwork, name string) []rule {
	if len(networks) < 2 {
		return nil // as most nodes are: then no packet pays for it
	}
	var rules []rule
	for _, family := range []family{ipv4, ipv6} {
		rules = append(rules, rule{name: family.name(name), match: join(family.is(), family.between(setApart)), verdict: drop(), counted: true})
	}
	return rules
}

// between matches when source and destination, side by side as they are in the header too, are a pair in a set.
func (f family) between(set string) []expr.Any {
	const sourceRegister = unix.NFT_REG_1
	destinationRegister := uint32(unix.NFT_REG32_01)
	if f == ipv6 {
		destinationRegister = unix.NFT_REG_2
	}
	address := func(offset, register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length()}
	}
	return []expr.Any{
		address(f.source(), sourceRegister), address(f.destination(), destinationRegister),
		&expr.Lookup{SourceRegister: sourceRegister, SetName: f.setName(set)},
	}
}

// towardsNetworks is the source NAT of what leaves by a tunnel to networks beside the default one: the far node takes it
// for this network's only with an address of this network.
func towardsNetworks(family family, networks []view.FirewallNetwork) []rule {
	var rules []rule
	for i, n := range networks {
		if i == 0 {
			continue
		}
		for _, gateway := range n.Gateways {
			at := slices.IndexFunc(n.Ranges, func(r netip.Prefix) bool { return r.Contains(gateway) })
			if at >= 0 && family.has(gateway) {
				rules = append(rules, ontoTunnel(family, gateway, "-"+n.Name, family.to(n.Ranges[at]))...)
			}
		}
	}
	return rules
}

// to matches packets to a prefix.
func (f family) to(prefix netip.Prefix) []expr.Any {
	mask := make([]byte, f.length())
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination(), Len: f.length()},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length(), Mask: mask, Xor: make([]byte, f.length())},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Masked().Addr().AsSlice()},
	}
}
