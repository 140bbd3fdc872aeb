package agents_test

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// watchFor counts in a pod what arrives from an address.
func watchFor(t *testing.T, at *agents.Pod, from netip.Addr) (count func() int) {
	t.Helper()
	set := "s" + strings.ReplaceAll(from.String(), ".", "_")
	at.MustRun(t, "nft", "table ip watch { chain "+set+" { type filter hook input priority 0; ip saddr "+from.String()+
		" ip protocol icmp counter; }; }")
	return func() int {
		t.Helper()
		fields := strings.Fields(at.MustRun(t, "nft", "list", "chain", "ip", "watch", set))
		for i, field := range fields {
			if field == "packets" {
				n, err := strconv.Atoi(fields[i+1])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatalf("no counter in %v", fields)
		return 0
	}
}

// A pod takes the addresses of others, and pings from them a neighbour and a pod of another node: none arrives, while what
// is right goes on without loss, also when somebody removes the table, which the agent makes again. When the agent is gone
// and the table too, an address of this node's range arrives at both, so nothing else stops that. (Of other addresses the
// far node's tunnel takes none from this node: WireGuard's allowed IPs.)
func TestPodsSpeakForThemselvesAlone(t *testing.T) {
	m := agents.Up(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	rogue, near, far := a.AddPod(t, "rogue"), a.AddPod(t, "near"), b.AddPod(t, "far")
	witness := a.AddPod(t, "witness")
	flows := []*lab.Flow{flow(t, near, far, "there"), flow(t, far, witness, "back"), flow(t, witness, near, "near")}
	rogue.MustRun(t, "sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce")
	others := map[string]netip.Addr{
		"a neighbour": near.Addr, "another node's pod": far.Addr, "nobody": netip.MustParseAddr("10.32.1.200"),
		"the gateway": gateway(a), "the other gateway": gateway(b), "outside": netip.MustParseAddr("198.51.100.9"),
	}
	ping := func(as netip.Addr, to *agents.Pod) {
		if as == to.Addr {
			return
		}
		_, _ = rogue.Run(t.Context(), "ping", "-c", "3", "-i", "0.05", "-W", "1", "-I", as.String(), to.Addr.String()) // no answer comes
	}
	counts := map[string][2]func() int{}
	for name, as := range others {
		counts[name] = [2]func() int{watchFor(t, near, as), watchFor(t, far, as)}
		rogue.MustRun(t, "ip", "address", "add", as.String()+"/32", "dev", "eth0")
		ping(as, near)
		ping(as, far)
		if n, f := counts[name][0](), counts[name][1](); n != 0 || f != 0 {
			t.Errorf("as %s %d packets arrived at the neighbour and %d at the far pod", name, n, f)
		}
		rogue.MustRun(t, "ip", "address", "del", as.String()+"/32", "dev", "eth0")
	}
	a.MustRun(t, "nft", "delete", "table", "bridge", "weaveguard")
	lab.Eventually(t, 10*time.Second, "the table is back, with all pods", func() error {
		out, err := a.Run(t.Context(), "nft", "list", "set", "bridge", "weaveguard", "pods4")
		if err == nil && (!strings.Contains(out, rogue.Addr.String()) || !strings.Contains(out, near.Addr.String())) {
			err = fmt.Errorf("the set is %s", out)
		}
		return err
	})
	for _, f := range flows {
		f.Send(t, uint64(rate(t)))
		if report := f.Stop(t); report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
	if err := a.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	a.MustRun(t, "nft", "delete", "table", "bridge", "weaveguard")
	nobody := others["nobody"]
	rogue.MustRun(t, "ip", "address", "add", nobody.String()+"/32", "dev", "eth0")
	ping(nobody, near)
	ping(nobody, far)
	if n, f := counts["nobody"][0](), counts["nobody"][1](); n == 0 || f == 0 {
		t.Errorf("without the guard %d packets arrived at the neighbour and %d at the far pod: what else stops them?", n, f)
	}
}

// Pods reach no port of nodes that isn't for them, on their own node at whichever address, and on another; what a flag
// allows they reach, and nodes reach each other all the time.
func TestPodsReachNoPortOfNodes(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	pod := a.AddPod(t, "pod")
	type runner interface {
		Run(ctx context.Context, path string, args ...string) (string, error)
	}
	reach := func(from runner, to netip.Addr, port int) error {
		_, err := from.Run(t.Context(), "timeout", "1", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", to, port))
		return err
	}
	nodes := []netip.Addr{a.Addr4, gateway(a), b.Addr4, gateway(b)}
	for _, to := range nodes {
		for _, port := range []int{6782, 6783, 6785} {
			if reach(pod, to, port) == nil {
				t.Errorf("a pod reaches port %d at %s", port, to)
			}
		}
	}
	for _, to := range []netip.Addr{a.Addr4, b.Addr4} {
		for _, port := range []int{6782, 6783} {
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
