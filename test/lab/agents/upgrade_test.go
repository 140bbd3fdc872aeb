package agents_test

import (
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// TestFaultUpgrade replaces the agents of the previous version one after the other, under traffic between all pods. In between the
// mesh has both versions, keys of nodes of either rotate, pods come, and a userspace daemon of the previous version stays.
// What agents keep on disk and say to each other is of either version. It takes the repository's history, so it runs in full
// only, and by `make faults`.
func TestFaultUpgrade(t *testing.T) {
	if !full.Wanted() && !faults.Wanted() {
		t.Log("not now: it needs the repository's history, and `make test-full` and `make faults` run it, as docs/reliability.md says")
		return
	}
	m := agents.New(t, 3)
	old := agents.Previous(t)
	for _, n := range m.Nodes {
		n.Programs = old
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	o := &outages{Mesh: m, pods: podsOn(t, m.Nodes, "pod")}
	o.row(t, 18, "agents of the previous version are replaced one by one, and keys rotate in between", "0 lost", func(t *testing.T) time.Duration {
		var took time.Duration
		for _, n := range m.Nodes {
			if err := n.Agent.Stop(); err != nil {
				t.Fatal(err)
			}
			n.Programs = agents.Programs{}
			took = max(took, o.start(t, n))
			newKeys(t, m.Nodes...)()
			for _, other := range m.Nodes {
				pod := other.AddPod(t, "guest")
				pod.MustRun(t, "ping", "-c", "1", "-W", "5", o.pods[0].Addr.String())
				pod.Remove(t)
			}
		}
		return took
	})
}
