package agents_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// impairment is what each host's line does, so that a packet between two hosts, which passes two lines, is lost with 30 %,
// takes 200 ms to 240 ms, and may come twice or late.
var impairment = lab.Impairment{Loss: 0.163, Duplicate: 0.01, Delay: 100 * time.Millisecond, Jitter: 20 * time.Millisecond}

// TestFaultImpairment puts all hosts on bad lines. Gossip may take nodes for gone meanwhile, but peers, routes and sessions
// stay, pods go on to talk as well as the lines let them, and a key rotates. Afterwards nothing is lost.
func TestFaultImpairment(t *testing.T) {
	m := agents.Up(t, 3)
	o := &outages{Mesh: m, pods: podsOn(t, m.Nodes, "pod")}
	before := tunnelsOf(t, m)
	var heals []func() error
	for _, n := range m.Nodes {
		heal, err := n.Impair(impairment)
		if err != nil {
			t.Fatal(err)
		}
		heals = append(heals, heal)
	}
	flows := o.between(t, o.pods, true)
	away, looks, flaps, begin := outage(2*time.Minute), 0, 0, time.Now()
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for ; time.Since(begin) < away; <-watch.C {
		if now := tunnelsOf(t, m); now != before {
			t.Fatalf("after %s the tunnels are\n%s\nand were\n%s", time.Since(begin), now, before)
		}
		for _, n := range m.Nodes {
			gone, looked := unheard(t, n)
			flaps, looks = flaps+gone, looks+looked
		}
	}
	begin = time.Now()
	newKeys(t, m.Nodes[0])()
	rotated := time.Since(begin)
	var sent, lost uint64
	for _, f := range flows {
		report := f.Stop(t)
		all := report.There.Sent + report.Back.Sent
		if share := float64(report.Lost()) / float64(all); share < 0.2 || share > 0.4 {
			t.Errorf("on the bad lines %.0f %% are lost, want about 30: %s", 100*share, report)
		}
		sent, lost = sent+all, lost+report.Lost()
	}
	for _, heal := range heals {
		if err := heal(); err != nil {
			t.Fatal(err)
		}
	}
	begin = time.Now()
	m.WaitUp(t, time.Minute)
	took := time.Since(begin)
	result := faults.Measurement{
		Order: 12, Table: faults.Outages, Fault: fmt.Sprintf("30 %% loss, 200 ms delay, duplicates, disorder for %s, and a rotation", away),
		Lane: laneOf(m), Allowed: "links and peers stay", Recovery: took,
		Note: fmt.Sprintf("(meanwhile %d of %d looks found a node gone from gossip; the rotation took %.0f s)", flaps, looks, rotated.Seconds()),
		Sent: sent, Lost: lost,
	}
	o.row(t, 13, "the lines are good again", "0 lost", func(*testing.T) time.Duration { return 0 })
	faults.Record(t, result)
}

// tunnelsOf is what the nodes' tunnels and routes are, whatever gossip says.
func tunnelsOf(t *testing.T, m *agents.Mesh) string {
	t.Helper()
	all := ""
	for _, n := range m.Nodes {
		for _, command := range [][]string{
			{"wg", "show", "all", "allowed-ips"}, {"ip", "route", "show", "table", "all", "proto", fmt.Sprint(contract.RouteProtocol)},
		} {
			all += sorted(n.MustRun(t, command[0], command[1:]...))
		}
	}
	return all
}

// unheard is how many of its peers a node doesn't hear in gossip, and of how many.
func unheard(t *testing.T, n *agents.Node) (count, of int) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Peers {
		if !p.Gossip {
			count++
		}
	}
	return count, len(s.Peers)
}
