package agents_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// watchFor counts in a pod the echo requests that arrive from an address.
func watchFor(t *testing.T, at *agents.Pod, from netip.Addr) (count func() int) {
	t.Helper()
	family, echo := "ip", "icmp"
	if from.Is6() {
		family, echo = "ip6", "icmpv6"
	}
	chain := "s" + strings.NewReplacer(".", "_", ":", "_").Replace(from.String())
	at.MustRun(t, "nft", fmt.Sprintf("table %s watch { chain %s { type filter hook input priority 0; %s saddr %s %s type echo-request counter; }; }",
		family, chain, family, from, echo))
	return func() int {
		t.Helper()
		fields := strings.Fields(at.MustRun(t, "nft", "list", "chain", family, "watch", chain))
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

// rogue is a pod that sends as another, and those that it sends to: a neighbour and a pod of another node.
type rogue struct {
	*agents.Pod
	near, far *agents.Pod
}

// send has it take an address, ping from that, and give it back. It returns how many packets arrived at the neighbour and at
// the far pod.
func (r rogue) send(t *testing.T, as netip.Addr) (near, far int) {
	t.Helper()
	nearCount, farCount := watchFor(t, r.near, as), watchFor(t, r.far, as)
	address := []string{netip.PrefixFrom(as, as.BitLen()).String(), "dev", "eth0"}
	r.MustRun(t, "ip", append([]string{"address", "add"}, append(address, "nodad")...)...)
	defer r.MustRun(t, "ip", append([]string{"address", "del"}, address...)...)
	for _, to := range []*agents.Pod{r.near, r.far} {
		if at := addressLike(to.Addrs, as); at != as {
			// With 1 ping ends when no answer comes.
			_, err := r.Run(t.Context(), "ping", "-c", "3", "-i", "0.05", "-W", "0.3", "-I", as.String(), at.String())
			if err != nil && !strings.Contains(err.Error(), "exit status 1") {
				t.Errorf("ping as %s: %v", as, err)
			}
		}
	}
	return nearCount(), farCount()
}

// addressLike is the one of the addresses that has another's family.
func addressLike(all []netip.Addr, other netip.Addr) netip.Addr {
	return all[slices.IndexFunc(all, func(a netip.Addr) bool { return a.Is4() == other.Is4() })]
}

// A pod takes the addresses of others, of either family, and pings from them a neighbour and a pod of another node: none
// arrives, while what is right goes on without loss, also when somebody removes the table, which the agent makes again. When
// the agent is gone and the table too, an address of this node's range arrives at both, so nothing else stops that. (Of other
// addresses the far node's tunnel takes none from this node: WireGuard's allowed IPs.)
func TestPodsSpeakForThemselvesAlone(t *testing.T) {
	m := agents.UpOf(t, 2, agents.Options{Pods: agents.Dual})
	a, b := m.Nodes[0], m.Nodes[1]
	r := rogue{Pod: a.AddPod(t, "rogue"), near: a.AddPod(t, "near"), far: b.AddPod(t, "far")}
	witness := a.AddPod(t, "witness")
	var flows []*lab.Flow
	for i := range r.near.Addrs {
		for _, pair := range [][2]*agents.Pod{{r.near, r.far}, {r.far, witness}, {witness, r.near}} {
			flows = append(flows, lab.StartFlow(t, lab.FlowOptions{
				From: pair[0], To: pair[1], Addr: netip.AddrPortFrom(pair[1].Addrs[i], flowPort+uint16(len(flows))), Rate: rate(t),
			}))
		}
	}
	r.MustRun(t, "sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce")
	nobody := []netip.Addr{netip.MustParseAddr("10.32.1.200"), netip.MustParseAddr("fd32:0:0:1::200")}
	for i, free := range nobody {
		for name, as := range map[string]netip.Addr{
			"a neighbour": r.near.Addrs[i], "another node's pod": r.far.Addrs[i], "nobody": free,
			"the gateway": gatewayOf(a.CIDRs[i]), "the other gateway": gatewayOf(b.CIDRs[i]),
			"outside": []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8::9")}[i],
		} {
			if near, far := r.send(t, as); near != 0 || far != 0 {
				t.Errorf("as %s, %s, %d packets arrived at the neighbour and %d at the far pod", name, as, near, far)
			}
		}
	}
	a.MustRun(t, "nft", "delete", "table", "bridge", "weaveguard")
	for i, set := range []string{"pods4", "pods6"} {
		lab.Eventually(t, 10*time.Second, "the table is back, with all pods", func() error {
			out, err := a.Run(t.Context(), "nft", "list", "set", "bridge", "weaveguard", set)
			if err == nil && (!strings.Contains(out, r.Addrs[i].String()) || !strings.Contains(out, r.near.Addrs[i].String())) {
				err = fmt.Errorf("the set is %s", out)
			}
			return err
		})
	}
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
	for _, as := range nobody {
		if near, far := r.send(t, as); near == 0 || far == 0 {
			t.Errorf("without the guard, as %s, %d packets arrived at the neighbour and %d at the far pod: what else stops them?", as, near, far)
		}
	}
}
