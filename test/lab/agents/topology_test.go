package agents_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// toldWithin is how soon every agent knows of a pod that came or went anywhere.
const toldWithin = 5 * time.Second

// topology is a mesh, and what is really attached on it: a line for each interface.
type topology struct {
	*agents.Mesh
	attached map[string]bool
}

func line(node, network, pod, ifName string, addresses any) string {
	return fmt.Sprintf("%s %s %s %s %v", node, network, pod, ifName, addresses)
}

// add attaches a pod to networks, the default one first.
func (m *topology) add(t testing.TB, n *agents.Node, name string, networks ...string) *member {
	t.Helper()
	p := join(t, n, name, networks...)
	m.note(p, true, networks...)
	return p
}

func (m *topology) remove(t testing.TB, p *member, networks ...string) {
	t.Helper()
	p.leave(t, networks...)
	m.note(p, false, networks...)
}

func (m *topology) note(p *member, there bool, networks ...string) {
	for i, network := range networks {
		ifName := "eth0"
		if network != view.DefaultNetwork {
			ifName = fmt.Sprint("net", i)
		}
		at := line(p.on.Name, network, p.ID, ifName, p.addresses[network])
		if there {
			m.attached[at] = true
		} else {
			delete(m.attached, at)
		}
	}
}

// told waits until all agents tell of what is attached on all nodes, and of nothing else.
func (m *topology) told(t *testing.T, what string) {
	t.Helper()
	want := slices.Sorted(maps.Keys(m.attached))
	took := lab.Eventually(t, time.Minute, what+" is known to all", func() error {
		for _, n := range m.Nodes {
			if got, err := seenBy(t, n); err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("%s knows\n%s\n%w", n.Name, strings.Join(got, "\n"), err)
			}
		}
		return nil
	})
	t.Logf("%s: known to all %d agents after %.1f s", what, len(m.Nodes), took.Seconds())
	if took > toldWithin {
		t.Errorf("%s: known to all after %s, want it within %s", what, took, toldWithin)
	}
}

// seenBy is what `weaveguard topology` says on a node to be attached, sorted.
func seenBy(t *testing.T, n *agents.Node) ([]string, error) {
	t.Helper()
	var seen view.Topology
	if err := json.Unmarshal([]byte(n.CLI(t, "topology", "-o", "json")), &seen); err != nil {
		return nil, err
	}
	var all []string
	for _, node := range seen.Nodes {
		for _, network := range node.Networks {
			for _, at := range network.Attachments {
				if at.Stray {
					return nil, fmt.Errorf("%s calls %+v on %s a stray", n.Name, at, node.Name)
				}
				all = append(all, line(node.Name, network.Name, at.Pod, at.Interface, at.Addresses))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// Any agent tells what is attached on all nodes, soon after pods have come or gone, and also what changed while the others'
// agents were away.
func TestTopology(t *testing.T) {
	t.Parallel()
	m := &topology{agents.Up(t, 5), map[string]bool{}}
	for i, n := range m.Nodes[:2] {
		blue.write(t, n, i+1)
	}
	var pods []*member
	for _, n := range m.Nodes {
		pods = append(pods, m.add(t, n, "pod", view.DefaultNetwork))
	}
	both := m.add(t, m.Nodes[1], "both", view.DefaultNetwork, blue.name)
	m.told(t, "what is attached")
	for _, n := range m.Nodes[1:] {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	m.remove(t, both, view.DefaultNetwork, blue.name)
	m.remove(t, pods[4], view.DefaultNetwork)
	m.add(t, m.Nodes[2], "late", view.DefaultNetwork)
	for _, n := range m.Nodes[1:] {
		n.StartAgent(t)
	}
	m.WaitUp(t, 30*time.Second)
	m.told(t, "what changed while four agents were away")
	m.remove(t, pods[0], view.DefaultNetwork)
	m.told(t, "that a pod is gone")
}
