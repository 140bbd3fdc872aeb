package agents_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// Agents that are given no pod CIDR, and start at once, claim one each, and their pods talk. One that claimed another's while it was
// cut off says so when it is back; its pod keeps its address, and when that is gone it claims another.
func TestClaimsByGossip(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 5)
	for _, n := range m.Nodes {
		n.CIDRs = nil
		n.Start(t)
	}
	t.Logf("all are up after %s", m.WaitUp(t, time.Minute))
	learnClaims(t, m)
	pods := podsOn(t, m.Nodes, "pod")
	for i, pod := range pods {
		reach(t, pod.NetNS, pods[(i+1)%len(pods)].Addr)
	}

	first, last := m.Nodes[0], m.Nodes[4]
	pods[4].Remove(t)
	if err := last.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := last.Cut(); err != nil {
		t.Fatal(err)
	}
	last.MustRun(t, "rm", "/run/weaveguard/cni.json")
	last.MustRun(t, "sh", "-c", fmt.Sprintf(`echo '{"version":1,"self":{"node":"%s","podCIDRs":["%s"]}}' > /var/lib/weaveguard/view.json`,
		last.Name, first.CIDR))
	last.CIDRs = nil // which it isn't given
	last.StartAgent(t)
	last.CIDRs = first.CIDRs
	lab.Eventually(t, time.Minute, "the one that is cut off has the first one's pod CIDR", func() error {
		s, err := last.Status(t.Context())
		if err == nil && (!s.Ready || len(s.PodCIDRs) != 1 || s.PodCIDRs[0] != first.CIDR) {
			err = fmt.Errorf("it has %v, and the problems %v", s.PodCIDRs, s.Problems)
		}
		return err
	})
	pod := last.AddPod(t, "alone")
	if err := last.Heal(); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, time.Minute, "both say so", func() error {
		for _, n := range []*agents.Node{first, last} {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			if err := hasProblem(s, "announces the pod CIDR "+first.CIDR.String()+" of this node too"); err != nil {
				return err
			}
		}
		return nil
	})
	if s, err := last.Status(t.Context()); err != nil || len(s.PodCIDRs) != 1 || !s.PodCIDRs[0].Contains(pod.Addr) {
		t.Errorf("its pod has %s, and it has %v, %v", pod.Addr, s.PodCIDRs, err)
	}
	reach(t, pods[0].NetNS, pods[1].Addr, pods[2].Addr)
	pod.Remove(t)
	m.WaitUp(t, time.Minute)
	learnClaims(t, m)
	again := last.AddPod(t, "again")
	reach(t, again.NetNS, pods[0].Addr, pods[3].Addr)
}

// learnClaims notes which pod CIDR each node has. No two have the same.
func learnClaims(t *testing.T, m *agents.Mesh) {
	t.Helper()
	holders := map[netip.Prefix]string{}
	for _, n := range m.Nodes {
		s, err := n.Status(t.Context())
		if err != nil || len(s.PodCIDRs) != 1 {
			t.Fatalf("%s has the pod CIDRs %v, %v", n.Name, s.PodCIDRs, err)
		}
		cidr := s.PodCIDRs[0]
		if other := holders[cidr]; other != "" || cidr.Bits() != 24 || !m.PodRanges()[0].Overlaps(cidr) {
			t.Errorf("%s has %s, which is %q's", n.Name, cidr, other)
		}
		n.CIDR, n.CIDRs, holders[cidr] = cidr, s.PodCIDRs, n.Name
	}
}

// hasProblem returns an error unless one of the status' problems has a text.
func hasProblem(s view.Status, text string) error {
	for _, p := range s.Problems {
		if strings.Contains(p.Message, text) {
			return nil
		}
	}
	return fmt.Errorf("none of its problems says %q: %v", text, s.Problems)
}
