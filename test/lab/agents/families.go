package agents

import (
	"net/netip"
)

// Options says which address families a mesh has. The zero value is IPv4 for all.
type Options struct {
	Pods     Family // of pods
	Underlay Family // by which nodes reach each other: IPv4 or IPv6; with IPv6 the hosts have no other
}

// Family is one address family, or both.
type Family int

// The families.
const (
	IPv4 Family = iota
	IPv6
	Dual
)

// String is the family's name.
func (f Family) String() string { return [...]string{"IPv4", "IPv6", "dual stack"}[f] }

// The pod ranges of a mesh. Node N (from 1) has 10.32.N.0/24 and fd32:0:0:N::/64 of them.
var (
	podRange4 = netip.MustParsePrefix("10.32.0.0/12")
	podRange6 = netip.MustParsePrefix("fd32::/48")
)

// PodRanges are all that pods of the mesh have addresses from, IPv4 first.
func (m *Mesh) PodRanges() []netip.Prefix {
	return m.options.Pods.of(podRange4, podRange6)
}

// of are the prefixes of the family.
func (f Family) of(v4, v6 netip.Prefix) []netip.Prefix {
	switch f {
	case IPv6:
		return []netip.Prefix{v6}
	case Dual:
		return []netip.Prefix{v4, v6}
	}
	return []netip.Prefix{v4}
}

// cidrs are the pod CIDRs of a node, for numbers under 256.
func (f Family) cidrs(number int) []netip.Prefix {
	v4, v6 := podRange4.Addr().As4(), podRange6.Addr().As16()
	v4[2], v6[7] = byte(number), byte(number)
	return f.of(netip.PrefixFrom(netip.AddrFrom4(v4), 24), netip.PrefixFrom(netip.AddrFrom16(v6), 64))
}
