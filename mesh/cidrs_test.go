package mesh_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weaveguard/weaveguard/mesh"
)

// Where nodes claim their pod CIDRs, all that can be claimed fails closed: at once, when it grows, and after a start
// without the API server, which holds nobody to what was so then. What nodes had of another range goes on to.
func TestPodRangesOfClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.PodRanges, w.config.PodRangeSource = nil, ""
	w.cluster.set(w.self.node()) // its pod CIDR is in 10.244.0.0/16
	a := w.start(t)
	seen := fmt.Sprint(a.pass().PodRanges)
	want := func(a *live, ranges string) {
		t.Helper()
		if s := a.pass(); fmt.Sprint(s.PodRanges) != ranges {
			t.Errorf("the pod ranges are %v (%s), want %s", s.PodRanges, s.PodRangeSource, ranges)
		}
	}
	state := w.cluster.State()
	state.PodRanges = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	w.cluster.setState(state)
	want(a, "[10.244.0.0/16]")
	state.PodRanges = []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}
	w.cluster.setState(state)
	want(a, "[10.32.0.0/12 "+seen[1:])
	a.stop()

	w.cluster.setState(mesh.ClusterState{})
	w.config.PodRanges, w.config.PodRangeSource = state.PodRanges, "the Lease weaveguard/range" // of the last start
	a = w.start(t)
	want(a, "[10.32.0.0/12 "+seen[1:])
	state.PodRanges = []netip.Prefix{netip.MustParsePrefix("10.32.0.0/11")}
	w.cluster.setState(state)
	want(a, "[10.32.0.0/11 "+seen[1:])
	state.PodRanges = nil // Kubernetes gives pod CIDRs now
	w.cluster.setState(state)
	want(a, seen)
}
