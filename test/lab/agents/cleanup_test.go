package agents_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// stranger is what others have on a node: it must stay as it is.
var stranger = []string{
	"nft add table inet other; nft add chain inet other input '{ type filter hook input priority 5; }'; nft add rule inet other input counter",
	"nft add table bridge other",
	"ip link add weave-other type bridge; ip link set weave-other up; ip address add 192.0.2.1/24 dev weave-other",
	"ip link add wg7 type veth peer name wg8; ip link set wg8 up; ip link set wg7 up; ip route add 198.51.100.0/24 dev wg7; ip route add 203.0.113.0/24 dev wg7 proto 214",
	"ip rule add from 192.0.2.0/24 table 77; ip route add default dev wg7 table 77",
	"mkdir -p /etc/cni/net.d /opt/cni/bin; echo {} > /etc/cni/net.d/90-other.conflist; echo other > /opt/cni/bin/weaveguard-other",
}

// settingsLeft are the kernel's settings that stay as Weaveguard made them, because others may rely on them by now.
var settingsLeft = []string{"ip_forward", "forwarding", "bridge-nf-call-", "all/send_redirects", "all/accept_redirects", "accept_ra"}

// TestCleanup compares a node before Weaveguard came to it with what `weaveguard-agent cleanup`, and the removal of its keys,
// leave: nothing of ours, and all that is others'.
func TestCleanup(t *testing.T) {
	t.Parallel() // it counts no packets
	m := agents.NewOf(t, 2, agents.Options{Pods: agents.Dual})
	n := m.Nodes[0]
	for _, command := range stranger {
		n.MustRun(t, "sh", "-ec", command)
	}
	lab.Eventually(t, 30*time.Second, "the strangers' devices have their IPv6 addresses", func() error {
		if out := n.MustRun(t, "sh", "-c", "ip -6 address show tentative; ip -6 -brief address show scope link"); strings.Count(out, "fe80::") < 4 || strings.Contains(out, "tentative") {
			return errors.New(out)
		}
		return nil
	})
	before, settings := wholeNode(t, n), settingsOf(t, n)
	for _, node := range m.Nodes {
		node.Start(t)
	}
	m.WaitUp(t, time.Minute)
	pod := n.AddPod(t, "pod")
	pod.MustRun(t, "ping", "-c", "1", "-W", "5", m.Nodes[1].AddPod(t, "pod").Addr.String())
	newKeys(t, n)()
	if out, err := n.RunAgent(t.Context(), "cleanup"); err == nil || !strings.Contains(err.Error(), "stop that one first") {
		t.Errorf("while the agent runs: %v\n%s", err, out)
	}
	if err := n.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := n.RunAgent(t.Context(), "cleanup"); err == nil || !strings.Contains(err.Error(), "still attached") {
		t.Errorf("with a pod: %v\n%s", err, out)
	}
	pod.MustRun(t, "ping", "-c", "1", "-W", "5", m.Nodes[1].CIDR.Addr().Next().String()) // and that changed nothing
	pod.Remove(t)
	if n.Userspace != nil {
		if err := n.Userspace.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it does no harm twice
		if out, err := n.RunAgent(t.Context(), "cleanup"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	n.MustRun(t, "find", "/var/lib/weaveguard", "-mindepth", "1", "-delete") // the directory is a mount of the lab
	if after := wholeNode(t, n); after != before {
		t.Errorf("what cleanup left differs from what was (< before, > after):\n%s", diff(before, after))
	}
	for line := range strings.SplitSeq(diff(settings, settingsOf(t, n)), "\n") {
		expected := line == ""
		for _, setting := range settingsLeft {
			expected = expected || strings.Contains(line, setting)
		}
		if !expected {
			t.Errorf("a setting of the kernel is another: %s", line)
		}
	}
}

// wholeNode is what a node has of interfaces, routes, rules, firewall and files, but for the lab's own.
func wholeNode(t *testing.T, n *agents.Node) string {
	t.Helper()
	var b strings.Builder
	for _, command := range []string{
		"ip -brief link", "ip -brief address", "ip -4 route show table all", "ip -6 route show table all",
		"ip -4 rule", "ip -6 rule", "nft list ruleset", "ip xfrm state", "tc qdisc show",
		"find /etc/cni /opt/cni /run/weaveguard* /run/wireguard* /var/lib/weaveguard/* /etc/weaveguard* -printf '%y %m %p %s\\n' 2>/dev/null || true",
	} {
		out := changing.ReplaceAllString(n.MustRun(t, "sh", "-c", command+" | grep -v '^anycast' || true"), "") // kernels make those when they forward
		fmt.Fprintf(&b, "%s\n", sorted(out))
	}
	return b.String()
}

// settingsOf are the network settings of a node's kernel.
func settingsOf(t *testing.T, n *agents.Node) string {
	t.Helper()
	return sorted(n.MustRun(t, "sh", "-c", "cd /proc/sys/net; grep -rs . ipv4 ipv6 bridge core | grep -v '/neigh/\\|stable_secret\\|/wg7\\|/weave-other' || true"))
}

// diff are the lines that only one of two sorted texts has.
func diff(before, after string) string {
	count := map[string]int{}
	for line := range strings.SplitSeq(before, "\n") {
		count[line]++
	}
	var lines []string
	for line := range strings.SplitSeq(after, "\n") {
		if count[line]--; count[line] < 0 {
			lines = append(lines, "> "+line)
		}
	}
	for line := range strings.SplitSeq(before, "\n") {
		if count[line] > 0 {
			count[line]--
			lines = append(lines, "< "+line)
		}
	}
	return strings.Join(lines, "\n")
}
