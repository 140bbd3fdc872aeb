package agents_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// colour is a network: on part N it has 10.NUMBER.N.0/24 and fdNUMBER:0:0:N::/64.
type colour struct {
	name   string
	number int
}

var (
	blue  = colour{"blue", 50}
	red   = colour{"red", 60}
	green = colour{"green", 70}
)

// write configures the network on a node.
func (c colour) write(t testing.TB, n *agents.Node, part int, reaches ...string) {
	t.Helper()
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "type": "weaveguard", "bridge": %q, "subnets": ["10.%d.%d.0/24", "fd%d:0:0:%d::/64"],
		"ranges": ["10.%d.0.0/16", "fd%d::/48"]`, c.name, c.bridge(), c.number, part, c.number, part, c.number, c.number)
	if len(reaches) > 0 {
		config += fmt.Sprintf(`, "reaches": ["%s"]`, strings.Join(reaches, `", "`))
	}
	n.MustRun(t, "sh", "-c", fmt.Sprintf("mkdir -p %s; echo '%s}' > %s.new; mv %[3]s.new %[3]s", contract.NetworksDir, config, c.file()))
}

func (c colour) bridge() string { return "weave-" + c.name }
func (c colour) file() string   { return contract.NetworksDir + "/" + c.name + ".conf" }

// config is what a pod asks for the network with: the same on all nodes.
func (c colour) config() string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "type": "weaveguard"}`, c.name)
}

// member is a pod on several networks.
type member struct {
	*agents.Pod
	on        *agents.Node
	addresses map[string][]netip.Addr // by network, of the default one too
}

// join makes a pod on networks, in this order; the name of the default one is view.DefaultNetwork.
func join(t testing.TB, n *agents.Node, name string, networks ...string) *member {
	t.Helper()
	p := &member{n.NewPod(t, name), n, map[string][]netip.Addr{}}
	for i, network := range networks {
		ifName, config := fmt.Sprint("net", i), colour{name: network}.config()
		if network == view.DefaultNetwork {
			ifName, config = "eth0", ""
		}
		lab.Eventually(t, 30*time.Second, name+" on "+n.Name+" is attached to "+network, func() error {
			addresses, err := p.Delegate(t.Context(), "ADD", ifName, config)
			p.addresses[network] = addresses
			return err
		})
	}
	return p
}

// leave detaches the pod from all its networks.
func (p *member) leave(t testing.TB, networks ...string) {
	t.Helper()
	for i, network := range networks {
		ifName, config := fmt.Sprint("net", i), colour{name: network}.config()
		if network == view.DefaultNetwork {
			ifName, config = "eth0", ""
		}
		if _, err := p.Delegate(t.Context(), "DEL", ifName, config); err != nil {
			t.Error(err)
		}
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// answers pings all addresses at once from those of the pod on a network, and returns which answer.
func (p *member) answers(t testing.TB, network string, to ...netip.Addr) []string {
	t.Helper()
	script := ""
	for _, from := range p.addresses[network] {
		for _, address := range to {
			if from.Is4() == address.Is4() {
				script += fmt.Sprintf("{ ping -c 2 -i 0.2 -W 1 -I %s %s >/dev/null 2>&1 && echo %s; } & ", from, address, address)
			}
		}
	}
	out, err := p.Run(t.Context(), "sh", "-c", script+"wait")
	if err != nil {
		t.Error(err)
	}
	got := strings.Fields(out)
	slices.Sort(got)
	return got
}

// reaches checks that all addresses answer the pod, within a while.
func (p *member) reaches(t testing.TB, network string, to ...netip.Addr) {
	t.Helper()
	took := lab.Eventually(t, 30*time.Second, fmt.Sprintf("%s on %s reaches %v by %s", p.Name, p.on.Name, to, network), func() error {
		if got := p.answers(t, network, to...); len(got) != len(to) {
			return fmt.Errorf("only %v answer", got)
		}
		return nil
	})
	t.Logf("%s on %s reaches %v by %s after %.1f s", p.Name, p.on.Name, to, network, took.Seconds())
}

// reachesNone checks that no address answers the pod, but its own.
func (p *member) reachesNone(t testing.TB, network string, to ...netip.Addr) {
	t.Helper()
	to = slices.DeleteFunc(slices.Clone(to), func(a netip.Addr) bool {
		return slices.Contains(slices.Concat(slices.Collect(maps.Values(p.addresses))...), a)
	})
	if got := p.answers(t, network, to...); len(got) > 0 {
		t.Errorf("%s on %s reaches %v by %s", p.Name, p.on.Name, got, network)
	}
}

// networks is a mesh of three nodes: blue is on all of them, red on the first two.
type networks struct {
	*agents.Mesh
	all   []*member // on all networks of its node
	reds  []*member // on red alone, on the first two nodes
	blues []*member // on blue alone, likewise
}

func newNetworks(t *testing.T) *networks {
	t.Helper()
	n := &networks{Mesh: agents.Up(t, 3)}
	for i, node := range n.Nodes {
		blue.write(t, node, i+1)
		if i < 2 {
			red.write(t, node, i+1)
		}
	}
	for i, node := range n.Nodes {
		on := []string{view.DefaultNetwork, "blue", "red"}
		if i == 2 {
			on = on[:2]
		}
		n.all = append(n.all, join(t, node, "all", on...))
		if i < 2 {
			n.reds = append(n.reds, join(t, node, "red", "red"))
			n.blues = append(n.blues, join(t, node, "blue", "blue"))
		}
	}
	return n
}

// Pods on several networks, as a meta plugin attaches them, reach their peers on each, and no other network's; by keys that
// change, with networks that come and go, and agents that are killed. Nothing is lost, nothing is in the clear.
func TestNetworks(t *testing.T) {
	begin := time.Now()
	n := newNetworks(t)
	const marker = "what pods of several networks say"
	capture := n.Lab.Capture(t, "", []byte(marker))
	t.Run("peers on each", n.testReach)
	t.Run("apart", n.testApart)
	flows := n.flows(t, marker)
	n.change(t)
	for _, f := range flows {
		if report := f.Stop(t); report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
	t.Run("removed under pods", n.testLeft)
	t.Run("asked to reach", n.testReaching)
	if report := capture.Stop(); report.Marked != 0 || report.Packets == 0 {
		t.Errorf("the underlay carried %s", report)
	}
	t.Logf("all took %.0f s", time.Since(begin).Seconds())
}

func (n *networks) testReach(t *testing.T) {
	a, b, c := n.all[0], n.all[1], n.all[2]
	a.reaches(t, "blue", slices.Concat(b.addresses["blue"], c.addresses["blue"], n.blues[0].addresses["blue"])...)
	b.reaches(t, "blue", slices.Concat(a.addresses["blue"], c.addresses["blue"])...)
	a.reaches(t, "red", slices.Concat(b.addresses["red"], n.reds[0].addresses["red"], n.reds[1].addresses["red"])...)
	b.reaches(t, "red", a.addresses["red"]...)
	a.reaches(t, view.DefaultNetwork, slices.Concat(b.addresses[view.DefaultNetwork], c.addresses[view.DefaultNetwork])...)
	for _, node := range n.Nodes[:2] {
		node.MustRun(t, "ping", "-c", "1", "-W", "2", n.reds[0].addresses["red"][0].String())
		node.MustRun(t, "ping", "-c", "1", "-W", "2", n.reds[1].addresses["red"][1].String())
	}
	for ifName, network := range map[string]string{"eth0": "", "net1": blue.config(), "net2": red.config()} {
		if _, err := a.Delegate(t.Context(), "CHECK", ifName, network); err != nil {
			t.Error(err)
		}
	}
	if routes := n.Nodes[2].MustRun(t, "ip", "route"); strings.Contains(routes, "10.60.") {
		t.Errorf("a node without red has its routes:\n%s", routes)
	}
	if allowed := n.Nodes[2].MustRun(t, "wg", "show", "all", "allowed-ips"); strings.Contains(allowed, "10.60.") || !strings.Contains(allowed, "10.50.2.0/24") {
		t.Errorf("a node without red carries\n%s", allowed)
	}
}

// testApart goes from each network to the others, on one node and across, to pods and to the nodes' own addresses.
func (n *networks) testApart(t *testing.T) {
	of := func(network string) (all []netip.Addr) {
		for _, p := range slices.Concat(n.all, n.reds, n.blues) {
			all = append(all, p.addresses[network]...)
		}
		return all
	}
	gateways := map[string][]netip.Addr{view.DefaultNetwork: {gateway(n.Nodes[0]), gateway(n.Nodes[1])}}
	for _, c := range []colour{blue, red} {
		for part := range 2 {
			gateways[c.name] = append(gateways[c.name], netip.AddrFrom4([4]byte{10, byte(c.number), byte(part + 1), 1}))
		}
	}
	names := []string{view.DefaultNetwork, "blue", "red"}
	var pinging sync.WaitGroup
	defer pinging.Wait()
	for from, senders := range map[string][]*member{"red": {n.reds[0], n.all[1]}, "blue": {n.blues[1], n.all[0]}, view.DefaultNetwork: {n.all[2], n.all[0]}} {
		for _, to := range names {
			for _, p := range senders {
				if from != to {
					pinging.Go(func() { p.reachesNone(t, from, slices.Concat(of(to), gateways[to])...) })
				}
			}
		}
	}
}

// flows starts numbered datagrams on each network.
func (n *networks) flows(t *testing.T, marker string) []*lab.Flow {
	t.Helper()
	var flows []*lab.Flow
	for network, pairs := range map[string][][2]*member{
		view.DefaultNetwork: {{n.all[0], n.all[1]}, {n.all[2], n.all[0]}}, "blue": {{n.all[0], n.all[2]}, {n.all[1], n.blues[0]}}, "red": {{n.all[0], n.reds[1]}},
	} {
		for _, pair := range pairs {
			for _, to := range pair[1].addresses[network] {
				flows = append(flows, lab.StartFlow(t, lab.FlowOptions{
					From: pair[0], To: pair[1], Addr: netip.AddrPortFrom(to, flowPort+uint16(len(flows))), Marker: []byte(marker), Rate: rate(t) / 2,
				}))
			}
		}
	}
	return flows
}

// change rotates keys, adds a network and takes it away, and kills an agent.
func (n *networks) change(t *testing.T) {
	t.Helper()
	a, b := n.Nodes[0], n.Nodes[1]
	a.Rotate(t)
	a.AwaitKey(t, 1, rotationDeadline)
	green.write(t, a, 1)
	green.write(t, b, 2)
	one, two := join(t, a, "green", "green"), join(t, b, "green", "green")
	one.reaches(t, "green", two.addresses["green"]...)
	b.Rotate(t)
	b.AwaitKey(t, 1, rotationDeadline)
	one.leave(t, "green")
	two.leave(t, "green")
	for _, node := range []*agents.Node{a, b} {
		node.MustRun(t, "rm", green.file())
		gone(t, node, green)
	}
	if err := b.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	b.StartAgent(t)
	n.WaitUp(t, time.Minute)
	settled(t, b)
}

// gone waits until nothing of a network is left on a node.
func gone(t *testing.T, n *agents.Node, c colour) {
	t.Helper()
	lab.Eventually(t, 30*time.Second, c.name+" is gone from "+n.Name, func() error {
		for _, command := range []string{"ip link show " + c.bridge(), "ip route | grep 10\\\\." + fmt.Sprint(c.number), "ip address | grep 10\\\\." + fmt.Sprint(c.number),
			"ip -6 route | grep fd" + fmt.Sprint(c.number), "nft list table inet weaveguard | grep -e 10\\\\." + fmt.Sprint(c.number) + " -e " + c.bridge(),
			"wg show all allowed-ips | grep 10\\\\." + fmt.Sprint(c.number), "grep " + c.name + " /run/weaveguard/cni.json"} {
			if out, err := n.Run(t.Context(), "sh", "-c", command); err == nil {
				return fmt.Errorf("%s shows %s", command, out)
			}
		}
		return nil
	})
}

// testLeft removes red's file from a node that has pods on it: they are named, their bridge stays, nothing of theirs leaves, and
// all goes with them; then red comes back.
func (n *networks) testLeft(t *testing.T) {
	a, held := n.Nodes[0], n.reds[0]
	a.MustRun(t, "rm", red.file())
	lab.Eventually(t, 30*time.Second, "the pods on red are named", func() error {
		s, err := a.Status(t.Context())
		if err == nil && !slices.ContainsFunc(s.Problems, func(p view.Problem) bool {
			return p.Subject == "network red" && strings.Contains(p.Message, "(net0)") && strings.Contains(p.Message, "(net2)")
		}) {
			err = fmt.Errorf("problems are %v", s.Problems)
		}
		return err
	})
	held.reachesNone(t, "red", slices.Concat(n.reds[1].addresses["red"], n.all[0].addresses["blue"])...)
	l := newLeaks(t, n.Mesh) // whatever isn't held back leaves
	l.send(t, a, held, n.reds[1].addresses["red"][0])
	l.none(t, "red is gone, and its pods are there", func() {})
	if err := l.senders[0].Kill(); err != nil {
		t.Error(err)
	}
	held.reaches(t, "red", n.all[0].addresses["red"]...)
	held.leave(t, "red")
	if _, err := n.all[0].Delegate(context.Background(), "DEL", "net2", red.config()); err != nil {
		t.Error(err)
	}
	gone(t, a, red)
	n.all[0].reaches(t, "blue", n.all[2].addresses["blue"]...)
	red.write(t, a, 1)
	n.reds[0] = join(t, a, "red-again", "red")
	n.reds[0].reaches(t, "red", n.reds[1].addresses["red"]...)
}

// testReaching lets red reach blue and the default network: first on one node, where that opens what stays on it alone.
func (n *networks) testReaching(t *testing.T) {
	here := n.reds[0]
	var plain []*member
	for _, node := range n.Nodes[:2] {
		plain = append(plain, join(t, node, "plain", view.DefaultNetwork))
	}
	there := slices.Concat(n.blues[1].addresses["blue"], plain[1].addresses[view.DefaultNetwork])
	red.write(t, n.Nodes[0], 1, "blue", view.DefaultNetwork)
	here.reaches(t, "red", slices.Concat(n.blues[0].addresses["blue"], plain[0].addresses[view.DefaultNetwork])...)
	n.blues[0].reaches(t, "blue", here.addresses["red"]...)
	plain[0].reaches(t, view.DefaultNetwork, here.addresses["red"][0])
	here.reachesNone(t, "red", there...)
	red.write(t, n.Nodes[1], 2, "blue", view.DefaultNetwork)
	here.reaches(t, "red", there...)
	n.blues[1].reaches(t, "blue", here.addresses["red"]...)
	// Also a pod that is on both networks answers by the one that it was asked on.
	plain[0].reaches(t, view.DefaultNetwork, n.all[1].addresses["red"][0])
	n.blues[1].reachesNone(t, "blue", plain[0].addresses[view.DefaultNetwork]...)
}
