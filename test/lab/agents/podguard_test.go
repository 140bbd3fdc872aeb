package agents_test

import (
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
