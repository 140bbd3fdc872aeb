package agents

import (
	"net/netip"

	"github.com/weaveguard/weaveguard/test/family"
)

// Options says which address families a mesh has. The zero value is IPv4 for all.
type Options struct {
	Pods     Family // of pods
	Underlay Family // by which nodes reach each other: IPv4 or IPv6; with IPv6 the hosts have no other
}

// Family is one address family, or both.
type Family = family.Family

// The families.
const (
	IPv4 = family.IPv4
	IPv6 = family.IPv6
	Dual = family.Dual
)

// The pod ranges of a mesh. Node N (from 1) has 10.32.N.0/24 and fd32:0:0:N::/64 of them.
var (
	podRange4 = netip.MustParsePrefix("10.32.0.0/12")
	podRange6 = netip.MustParsePrefix("fd32::/48")
)

// PodRanges are all that pods of the mesh have addresses from, IPv4 first.
func (m *Mesh) PodRanges() []netip.Prefix {
	return m.options.Pods.Of(podRange4, podRange6)
}

// cidrsOf are the pod CIDRs of a node, for numbers under 256.
func cidrsOf(f Family, number int) []netip.Prefix {
	v4, v6 := podRange4.Addr().As4(), podRange6.Addr().As16()
	v4[2], v6[7] = byte(number), byte(number)
	return f.Of(netip.PrefixFrom(netip.AddrFrom4(v4), 24), netip.PrefixFrom(netip.AddrFrom16(v6), 64))
}
