package agents_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// writeNetwork configures a network in 10.RANGE.0.0/16 on a node, with the node's part of it.
func writeNetwork(t testing.TB, n *agents.Node, name string, number, part int) {
	t.Helper()
	n.MustRun(t, "mkdir", "-p", contract.NetworksDir)
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "type": "weaveguard", "bridge": "weave-%s", "subnets": ["10.%d.%d.0/24"], "ranges": ["10.%d.0.0/16"]}`,
		name, name, number, part, number)
	n.MustRun(t, "sh", "-c", fmt.Sprintf("cat > %s/%s.conf <<'EOT'\n%s\nEOT", contract.NetworksDir, name, config))
}

// networksOf names the networks of a node that another one's status shows.
func networksOf(s view.Status, node string) string {
	var names []string
	for _, p := range s.Peers {
		for _, n := range p.Networks {
			if p.Node == node {
				names = append(names, fmt.Sprintf("%s=%s", n.Name, n.CIDRs[0]))
			}
		}
	}
	return strings.Join(names, " ")
}

// A network that is configured on running nodes is known to all, comes back with an agent, and goes with its file; a file
// that can't be used, and a network that doesn't go together with another node's, are said.
func TestNetworksAreTold(t *testing.T) {
	m := agents.Up(t, 3)
	until := func(n *agents.Node, what string, condition func(view.Status) bool) {
		t.Helper()
		lab.Eventually(t, time.Minute, what, func() error {
			s, err := n.Status(t.Context())
			if err == nil && !condition(s) {
				err = fmt.Errorf("%s has peers %+v and problems %v", n.Name, s.Peers, s.Problems)
			}
			return err
		})
	}
	problem := func(s view.Status, subject string) bool {
		return slices.ContainsFunc(s.Problems, func(p view.Problem) bool { return p.Subject == subject })
	}
	a, b, c := m.Nodes[0], m.Nodes[1], m.Nodes[2]
	for i, n := range m.Nodes {
		writeNetwork(t, n, "blue", 50, i+1)
	}
	for _, n := range m.Nodes {
		for i, other := range m.Nodes {
			if n != other {
				want := fmt.Sprintf("blue=10.50.%d.0/24", i+1)
				until(n, n.Name+" knows blue of "+other.Name, func(s view.Status) bool { return networksOf(s, other.Name) == want })
			}
		}
	}
	writeNetwork(t, c, "red", 50, 9) // in blue's range
	until(c, "what doesn't go together is said", func(s view.Status) bool { return problem(s, contract.NetworksDir+"/red.conf") })
	c.MustRun(t, "rm", contract.NetworksDir+"/red.conf", contract.NetworksDir+"/blue.conf")
	until(a, "blue is gone from "+c.Name, func(s view.Status) bool { return networksOf(s, c.Name) == "" })
	writeNetwork(t, c, "red", 50, 9)
	until(c, "its own network isn't used", func(s view.Status) bool { return problem(s, "network red") && len(s.Networks) == 0 })
	until(a, "nor is it elsewhere", func(s view.Status) bool {
		return problem(s, "network red of node "+c.Name) && networksOf(s, c.Name) == "" && len(s.Networks) == 1
	})
	if err := b.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	b.StartAgent(t)
	until(b, "all is as it was", func(s view.Status) bool {
		return len(s.Networks) == 1 && networksOf(s, a.Name) == "blue=10.50.1.0/24" && problem(s, "network red of node "+c.Name)
	})
	if out := a.CLI(t, "status"); !strings.Contains(out, "network blue") || !strings.Contains(out, b.Name+" has the networks blue 10.50.2.0/24") {
		t.Errorf("the status is\n%s", out)
	}
}
