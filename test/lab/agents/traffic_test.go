package agents_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// load is that of a rotation's traffic on a machine that isn't emulated: datagrams a second each way, of the small and of the
// large ones.
type load struct{ small, large int }

// largeSize is the payload of the large ones.
const largeSize = 1200

// heavy is a load whose large ones make 40 Mbit/s.
func heavy() load { return load{1000, 4167} }

// light leaves processor to what isn't about traffic alone: as much as other faults have. In full it is heavy, too.
func light() load {
	if full.Wanted() {
		return heavy()
	}
	return load{500, 500}
}

// traffic is what must lose nothing: numbered datagrams in both directions between pods on each two of three nodes, and
// large ones each way between the first two.
type traffic struct {
	rate  int // of the first flow
	flows []*lab.Flow
}

// startTraffic starts it between pods, one on each node.
func startTraffic(t *testing.T, pods []*agents.Pod, l load) *traffic {
	t.Helper()
	if os.Getenv(rateEnv) != "" {
		l = load{rate(t), rate(t)}
	}
	f := &traffic{rate: l.small}
	add := func(from, to *agents.Pod, rate, size int) {
		port := flowPort + uint16(len(f.flows)) // each pod has several ends
		f.flows = append(f.flows, lab.StartFlow(t, lab.FlowOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, port), Rate: rate, Size: size, Marker: []byte("rotation"),
		}))
	}
	for i, from := range pods {
		for _, to := range pods[i+1:] {
			add(from, to, l.small, 0)
		}
	}
	add(pods[0], pods[1], l.large, largeSize)
	return f
}

// stop goes on for 5 s, and returns what was lost; nothing may be.
func (f *traffic) stop(t *testing.T) {
	t.Helper()
	f.flows[0].Send(t, uint64(5*f.rate))
	var sent, lost uint64
	for _, flow := range f.flows {
		report := flow.Stop(t)
		sent += report.There.Sent + report.Back.Sent
		lost += report.Lost()
		if report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
	t.Logf("%d of %d datagrams lost", lost, sent)
}

// podsOn attaches a pod on each node.
func podsOn(t testing.TB, nodes []*agents.Node, name string) []*agents.Pod {
	t.Helper()
	var pods []*agents.Pod
	for _, n := range nodes {
		pods = append(pods, n.AddPod(t, name))
	}
	return pods
}
