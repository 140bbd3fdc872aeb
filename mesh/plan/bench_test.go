package plan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/plan"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// BenchmarkMake plans for meshes of growing size: the time for each node must not grow much with it.
func BenchmarkMake(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000} {
		in := mesh(1)
		in.View.PodRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		for n := 2; n <= nodes; n++ {
			peer := node(n)
			peer.Name = fmt.Sprintf("node-%04d", n)
			peer.PodCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)}
			peer.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), contract.BasePort)}
			in.View.Peers = append(in.View.Peers, peer)
			in.View.Links = append(in.View.Links, view.LinkState{
				Device: "weave-wg0", PublicKey: key(n, 0), Confirmed: true, Established: true})
		}
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				if d := plan.Make(in); len(d.Devices) != 1 || len(d.Devices[0].Peers) != nodes-1 {
					b.Fatalf("planned %d devices", len(d.Devices))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(nodes), "ns/node")
		})
	}
}
