package agents_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// runner is where a program can run: a node, or a pod.
type runner interface {
	Run(ctx context.Context, path string, args ...string) (string, error)
}

// Pods reach no port of nodes that isn't for them, on their own node at whichever address, and on another; what a flag
// allows they reach, and nodes reach each other all the time.
func TestPodsReachNoPortOfNodes(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	for _, n := range m.Nodes {
		n.Args = []string{"--ui-address=:6786"}
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	pod := a.AddPod(t, "pod")
	reach := func(from runner, to netip.Addr, port int) error {
		_, err := from.Run(t.Context(), "timeout", "1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", to, port))
		return err
	}
	nodes := []netip.Addr{a.Addr4, gateway(a), b.Addr4, gateway(b)}
	for _, to := range nodes {
		for _, port := range []int{6782, 6783, 6785, 6786} {
			if reach(pod, to, port) == nil {
				t.Errorf("a pod reaches port %d at %s", port, to)
			}
		}
	}
	for _, to := range []netip.Addr{a.Addr4, b.Addr4} {
		for _, port := range []int{6782, 6783, 6786} {
			if err := reach(a.Host, to, port); err != nil {
				t.Errorf("a node doesn't reach port %d at %s: %v", port, to, err)
			}
		}
	}
	for _, n := range m.Nodes {
		if err := n.Agent.Stop(); err != nil {
			t.Error(err)
		}
		n.Args = append(n.Args, "--allow-pods-to=metrics")
		n.StartAgent(t)
	}
	m.WaitUp(t, time.Minute)
	for _, to := range nodes {
		if err := reach(pod, to, 6782); err != nil {
			t.Errorf("a pod doesn't reach the metrics at %s, though it may: %v", to, err)
		}
		if reach(pod, to, 6783) == nil {
			t.Errorf("a pod reaches the gossip at %s", to)
		}
	}
}

// openPort is a port of nodes that nothing guards.
const openPort = 9

// podSays is what the test's datagrams begin with.
const podSays = "pod says"

// arrivals are datagrams of this test that got past all firewalls of a node, to where sockets take them.
type arrivals struct{ at *agents.Node }

func watchArrivals(t *testing.T, at *agents.Node) arrivals {
	t.Helper()
	at.MustRun(t, "nft", "table ip arrivals { set seen { type ipv4_addr . inet_service; size 100; flags dynamic; }; "+
		"chain input { type filter hook input priority 300; "+
		fmt.Sprintf("meta l4proto udp @th,64,64 0x%x update @seen { ip daddr . udp dport }; }; }", podSays))
	return arrivals{at}
}

// missing are those of the ports at the address for which nothing came.
func (a arrivals) missing(t *testing.T, to netip.Addr, ports []int) []int {
	t.Helper()
	seen := a.at.MustRun(t, "nft", "list", "set", "ip", "arrivals", "seen")
	var missing []int
	for _, port := range ports {
		if !strings.Contains(seen, fmt.Sprintf("%s . %d", to, port)) {
			missing = append(missing, port)
		}
	}
	return missing
}

// A pod's datagrams get to no gossip and WireGuard port of its own node and of another; those of nodes do, and so do the
// pod's own, the same way, to a port that is for all, and to each of them where the guard is out.
func TestPodsReachNoUDPPortOfNodes(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	pod := a.AddPod(t, "pod")
	guarded := []int{contract.GossipPort}
	for device := range contract.MaxDevices {
		guarded = append(guarded, contract.BasePort+device)
	}
	watches := map[*agents.Node]arrivals{a: watchArrivals(t, a), b: watchArrivals(t, b)}
	targets := map[netip.Addr]*agents.Node{a.Addr4: a, gateway(a): a, b.Addr4: b, gateway(b): b}
	// send sends one to each port, in this order, and waits until those that must come are there.
	send := func(from runner, to netip.Addr, ports []int, must ...int) {
		t.Helper()
		at := watches[targets[to]]
		lab.Eventually(t, 10*time.Second, fmt.Sprintf("datagrams arrive at %s", to), func() error {
			for _, port := range ports {
				out, err := from.Run(t.Context(), "bash", "-c", fmt.Sprintf("printf %%s '%s' >/dev/udp/%s/%d", podSays, to, port))
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
			if missing := at.missing(t, to, must); len(missing) > 0 {
				return fmt.Errorf("none at %v", missing)
			}
			return nil
		})
	}
	for to, node := range targets {
		send(pod, to, append(guarded, openPort), openPort)
		if missing := watches[node].missing(t, to, guarded); len(missing) != len(guarded) {
			t.Errorf("of %v at %s, a pod reaches all but %v", guarded, to, missing)
		}
	}
	for _, to := range []netip.Addr{a.Addr4, b.Addr4} {
		send(a, to, guarded, guarded...)
	}
	for _, n := range m.Nodes {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		n.MustRun(t, "nft", "flush", "set", "inet", "weaveguard", "udp_ports")
		n.MustRun(t, "nft", "flush", "set", "ip", "arrivals", "seen")
	}
	for to := range targets {
		send(pod, to, guarded, guarded...)
	}
}
