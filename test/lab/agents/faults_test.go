package agents_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// repairPatience is how long a busy machine may take to put right what somebody changed by hand, for which 2 s are meant. The
// slow pass alone, every 30 s, is too late.
func repairPatience() time.Duration {
	if emulated() {
		return 25 * time.Second
	}
	return 10 * time.Second
}

// lookPatience is how long it may take until a look finds that all is as it was: on an emulated machine a look alone takes seconds.
func lookPatience() time.Duration {
	if emulated() {
		return 2 * time.Minute
	}
	return repairPatience()
}

// damage is something that somebody does by hand.
type damage struct {
	name string
	do   []string // a command on the node
	// told is what the agent's line of the repair says.
	told string
	// harmless: it costs no packet.
	harmless bool
	// kernel: it is about what the kernel does, WireGuard among that, so an emulated machine with another kernel does it too.
	kernel bool
}

// TestFaultRepairs has somebody break by hand what the agent made, one thing after the other, while pods talk. Each is put
// right, said once, and lets nothing out in the clear.
func TestFaultRepairs(t *testing.T) {
	nodes := 3
	if emulated() {
		nodes = 2
	}
	m := agents.Up(t, nodes)
	n := m.Nodes[0]
	pods := podsOn(t, m.Nodes, "pod")
	l := newLeaks(t, m)
	whole := nodeState(t, n)
	l.none(t, "things are broken by hand", func() {
		for i, d := range damages(t, n, m.Nodes[1]) {
			if emulated() && !d.kernel {
				continue
			}
			t.Run(d.name, func(t *testing.T) { d.test(t, i, m, n, pods, l.marker, whole) })
		}
	})
}

// damages are what somebody may do on a node that has a pod and a peer.
func damages(t *testing.T, n, peer *agents.Node) []damage {
	t.Helper()
	device := strings.Fields(n.MustRun(t, "wg", "show", "interfaces"))[0]
	port := strings.Fields(n.MustRun(t, "sh", "-c", "ls /sys/class/net/weave/brif"))[0]
	key := strings.Fields(n.MustRun(t, "wg", "show", device, "peers"))[0]
	remote := peer.CIDR.String()
	set := func(key, value string) []string {
		return []string{"sh", "-c", "echo " + value + " > /proc/sys/net/" + key}
	}
	return []damage{
		{name: "the firewall is flushed (`nft flush ruleset`)", do: []string{"nft", "flush", "ruleset"}, told: "firewall table", harmless: true, kernel: true},
		{name: "a chain of the firewall is flushed", do: []string{"nft", "flush", "chain", "inet", "weaveguard", "to_pods"}, told: "firewall table", harmless: true},
		{name: "a peer is removed (`wg set`)", do: []string{"wg", "set", device, "peer", key, "remove"}, told: "adding peers to " + device, kernel: true},
		{name: "a peer's allowed IPs are taken", do: []string{"wg", "set", device, "peer", key, "allowed-ips", ""}, told: "giving allowed IPs to peers of " + device},
		{name: "the tunnel's port is changed", do: []string{"wg", "set", device, "listen-port", "9"}, told: "setting the port of " + device},
		{name: "the tunnel device is deleted", do: []string{"ip", "link", "delete", device}, told: "making the tunnel device", kernel: true},
		{name: "the tunnel device is set down", do: []string{"ip", "link", "set", device, "down"}, told: device},
		{name: "a route is removed", do: []string{"ip", "route", "delete", remote}, told: remote, kernel: true},
		{name: "the bridge is set down", do: []string{"ip", "link", "set", "weave", "down"}, told: "weave", kernel: true},
		{name: "the bridge is deleted", do: []string{"ip", "link", "delete", "weave"}, told: "making the bridge weave"},
		{name: "the bridge's address is removed", do: []string{"ip", "address", "flush", "dev", "weave"}, told: "weave"},
		{name: "a pod is taken off the bridge", do: []string{"ip", "link", "set", port, "nomaster"}, told: port},
		{name: "a pod's interface is set down", do: []string{"ip", "link", "set", port, "down"}, told: port},
		{name: "`ip_forward` is set to 0", do: set("ipv4/ip_forward", "0"), told: "ip_forward", kernel: true},
		{name: "`rp_filter` is set to 1", do: set("ipv4/conf/"+device+"/rp_filter", "1"), told: "rp_filter", kernel: true},
		{name: "`bridge-nf-call-iptables` is set to 1", do: set("bridge/bridge-nf-call-iptables", "1"), told: "bridge-nf-call-iptables", kernel: true},
		{name: "the CNI configuration is removed", do: []string{"rm", "/etc/cni/net.d/05-weaveguard.conflist"}, told: "05-weaveguard.conflist", harmless: true},
		{name: "the CNI configuration is changed", do: []string{"sh", "-c", "echo {} > /etc/cni/net.d/05-weaveguard.conflist"},
			told: "05-weaveguard.conflist", harmless: true},
		{name: "the CNI plugin is removed", do: []string{"rm", "/opt/cni/bin/weaveguard"}, told: "/opt/cni/bin/weaveguard", harmless: true},
		{name: "the CNI plugin is changed", do: []string{"sh", "-c", "echo >> /opt/cni/bin/weaveguard"}, told: "/opt/cni/bin/weaveguard", harmless: true},
		{name: "what the plugin keeps of pods is removed", do: []string{"sh", "-c", "rm -r /run/weaveguard/cni || true"}, // part of it may be back already
			told: "storing the attachment of pod", harmless: true},
		{name: "the ready file is removed", do: []string{"rm", "/run/weaveguard/cni.json"}, told: "cni.json", harmless: true},
	}
}

// test does the damage while pods on all nodes talk to each other, and waits until all is as it was.
func (d damage) test(t *testing.T, order int, m *agents.Mesh, n *agents.Node, pods []*agents.Pod, marker, whole string) {
	var flows []*lab.Flow
	for i, from := range pods {
		to := pods[(i+1)%len(pods)]
		flows = append(flows, lab.StartFlow(t, lab.FlowOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort+uint16(10*order+i)), Marker: []byte(marker), Rate: rate(t), Lossy: !d.harmless,
		}))
	}
	said := len(repairsOf(n))
	took := d.repaired(t, n, whole, true)
	m.WaitUp(t, time.Minute)
	flows[0].Send(t, uint64(rate(t)/2))
	result := faults.Measurement{
		Order: order, Table: faults.Repairs, Fault: d.name, Lane: laneOf(m), Allowed: "repaired within 2 s", Recovery: took,
	}
	for _, f := range flows {
		report := f.Stop(t)
		result.Sent += report.There.Sent + report.Back.Sent
		result.Lost += report.Lost()
	}
	if d.harmless && result.Lost != 0 {
		t.Errorf("%d datagrams were lost", result.Lost)
	}
	lines := repairsOf(n)[said:]
	if told := strings.Join(lines, "\n"); !strings.Contains(told, d.told) || len(lines) > 3 {
		t.Errorf("the log tells of the repair:\n%s\nwant %q, once", told, d.told)
	}
	faults.Record(t, result)
}

// repaired does the damage, and waits until all is as it was when it was whole, and the agent's log tells of it: of a mesh in which nothing else
// happens it does. It returns how long that took from before the damage to the log's last line, if the log tells of it: a look
// takes longer than most repairs.
func (d damage) repaired(t *testing.T, n *agents.Node, whole string, told bool) time.Duration {
	t.Helper()
	said := len(repairsOf(n))
	began := time.Now()
	n.MustRun(t, d.do[0], d.do[1:]...)
	took := lab.Eventually(t, lookPatience(), "all is as it was before "+d.name, func() error {
		if now := nodeState(t, n); now != whole {
			return fmt.Errorf("it is\n%s\nand was\n%s", now, whole)
		}
		if told && len(repairsOf(n)) == said {
			return errors.New("the log doesn't tell of it")
		}
		return nil
	})
	if lines := repairsOf(n); len(lines) > said {
		took = repairedAt(t, lines[len(lines)-1]).Sub(began)
	}
	if took > repairPatience() {
		t.Errorf("it was repaired after %s", took)
	}
	return took
}

// repairedAt is when the agent wrote a line of its log.
func repairedAt(t *testing.T, line string) time.Time {
	t.Helper()
	text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatalf("the log's line %q: %v", line, err)
	}
	return at
}

// laneOf is where a mesh is: the kernel of the machine may have WireGuard, but that which the lane vm boots has it.
func laneOf(m *agents.Mesh) string {
	if m.Kernel {
		return faults.VM
	}
	return faults.Lab
}

// emulated reports whether the machine is one that is slower than machines are.
func emulated() bool { return os.Getenv(rateEnv) != "" }

// repairsOf are the lines by which an agent told of repairs.
func repairsOf(n *agents.Node) []string {
	var lines []string
	for line := range strings.Lines(n.Agent.Log()) {
		if strings.Contains(line, "repaired: ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// changing is what of a node's state changes by itself: counters, indexes, ages, and what pods' neighbours are.
var changing = regexp.MustCompile(`(?m)packets \d+ bytes \d+|@if\d+|# handle \d+|expires \d+sec`)

// nodeState is all that Weaveguard made on a node, as tools show it.
func nodeState(t *testing.T, n *agents.Node) string {
	t.Helper()
	var script strings.Builder
	script.WriteString("look() { echo %; \"$@\" 2>&1 || echo \"$1 fails\"; }\n") // so it isn't as it was
	for _, command := range []string{
		"nft list table inet weaveguard", "nft list table bridge weaveguard",
		"wg show all allowed-ips", "wg show all listen-port", "wg show all public-key",
		"ip -brief link", "ip -4 -brief address", "ip route show table all proto 213",
		"ls /sys/class/net/weave/brif",
		"grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/weave*/rp_filter /proc/sys/net/bridge/bridge-nf-call-*",
		"ls /run/weaveguard/cni/attachments /run/weaveguard/cni/addresses",
		"sha256sum /etc/cni/net.d/* /opt/cni/bin/weaveguard* /run/weaveguard/cni.json",
	} {
		script.WriteString("look " + command + "\n")
	}
	var b strings.Builder
	out := n.MustRun(t, "sh", "-c", script.String())
	for part := range strings.SplitSeq(changing.ReplaceAllString(out, ""), "%\n") { // what was made again may come in another order
		fmt.Fprintln(&b, sorted(part))
	}
	return b.String()
}

// sorted is a text with its lines in order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
