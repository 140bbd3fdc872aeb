package agents_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

const (
	// soakEnv says how long TestSoak goes on, as Go writes durations.
	soakEnv   = "WEAVEGUARD_SOAK"
	usualSoak = 2 * time.Minute
	// seedEnv is the number that a run began with, to have the same things happen again.
	seedEnv = "WEAVEGUARD_SOAK_SEED"
	// attached and taken have a file for each attachment and address of a node.
	attached, taken = store.DefaultDir + "/attachments", store.DefaultDir + "/addresses"
	// mostGuests is how many pods there are at most that come and go.
	mostGuests = 30
)

// soak is a mesh to which things happen at random. The programs of the first node are never killed, so that they would show
// what leaks.
type soak struct {
	*leaks
	chance *rand.Rand
	pods   []*agents.Pod // one on each node, which stay
	flows  []*lab.Flow   // between all of them
	guests []guest
	made   int // guests so far
	done   map[string]int
	used   []usage // after each step
}

// guest is a pod that comes and goes.
type guest struct {
	*agents.Pod
	on *agents.Node
}

// happening is something that happens in a soak, more often the more it weighs. It is over when it returns.
type happening struct {
	name   string
	weight int
	do     func(t *testing.T)
}

// TestSoak has faults, rotations and pods come at random. After each the mesh is whole, and no address is anybody's twice.
// Nothing is ever in the clear, and at the end nothing is left: no interface, namespace, attachment, and no goroutine,
// descriptor or memory of programs that ran all the time.
func TestSoak(t *testing.T) {
	t.Parallel() // it asks for no packet
	s := newSoak(t)
	left, used := s.remains(t), s.usage(t)
	until := time.Now().Add(soakTime(t))
	var sent, lost uint64
	s.none(t, "a soak", func() {
		for time.Now().Before(until) {
			s.step(t)
		}
		for len(s.guests) > 0 {
			s.remove(t)
		}
		s.holds(t)
		for _, f := range s.flows {
			report := f.Stop(t)
			sent, lost = sent+report.There.Sent+report.Back.Sent, lost+report.Lost()
		}
	})
	lab.Eventually(t, time.Minute, "nothing is left", func() error {
		if now := s.remains(t); now != left {
			return fmt.Errorf("the nodes differ from how they were (< before, > now):\n%s", diff(left, now))
		}
		return s.usage(t).exceeds(used)
	})
	if err := grown(s.used); err != nil {
		t.Error(err)
	}
	t.Logf("happened: %v; lost meanwhile: %d of %d datagrams; the first node's programs: %v at first, %v at last",
		s.done, lost, sent, used, s.usage(t))
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s is %q: it takes the number that a run began with", seedEnv, text)
		}
	}
	t.Logf("%s=%d has the same things happen", seedEnv, seed)
	m := agents.Up(t, 3)
	s := &soak{
		leaks: newLeaks(t, m), chance: rand.New(rand.NewPCG(seed, 0)), pods: podsOn(t, m.Nodes, "pod"), done: map[string]int{},
	}
	for i, from := range s.pods {
		to := s.pods[(i+1)%len(s.pods)]
		s.flows = append(s.flows, lab.StartFlow(t, lab.FlowOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort+uint16(i)), Marker: []byte(s.marker), Rate: rate(t) / 5, Lossy: true,
		}))
	}
	return s
}

func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(soakEnv)
	if text == "" {
		return usualSoak
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s is %q: it takes a duration such as 20m", soakEnv, text)
	}
	return d
}

// step has one thing happen, and sees that all is well afterwards.
func (s *soak) step(t *testing.T) {
	t.Helper()
	all := []happening{
		{"a pod comes", 8, s.add},
		{"a pod goes", 6, s.remove},
		{"the plugin is killed", 3, s.killPlugin},
		{"something is broken by hand", 6, s.breakByHand},
		{"an agent is killed", 2, func(t *testing.T) { s.restart(t, s.any(s.Nodes[1:])) }},
		{"agents are killed at once", 1, func(t *testing.T) { s.restart(t, s.Nodes[1:]...) }},
		{"a WireGuard daemon is killed", 1, s.killUserspace},
		{"a key rotates", 2, func(t *testing.T) { newKeys(t, s.any(s.Nodes))() }},
		{"all keys rotate", 1, func(t *testing.T) { newKeys(t, s.Nodes...)() }},
		{"a host is cut off", 2, s.cut},
		{"a host has a bad line", 1, s.impair},
		{"a disk is full", 1, func(t *testing.T) { fullDisk(t, s.any(s.Nodes), func() {}) }},
		{"a disk is read-only", 1, func(t *testing.T) { readOnly(t, s.any(s.Nodes), func() {}) }},
		{"garbage comes", 1, s.garbage},
	}
	total := 0
	for _, h := range all {
		total += h.weight
	}
	at := s.chance.IntN(total)
	for _, h := range all {
		if at -= h.weight; at >= 0 {
			continue
		}
		t.Logf("%s", h.name)
		h.do(t)
		s.done[h.name]++
		s.holds(t)
		s.used = append(s.used, s.usage(t))
		return
	}
}

func (s *soak) any(nodes []*agents.Node) *agents.Node { return nodes[s.chance.IntN(len(nodes))] }

// newGuest makes a sandbox on some node.
func (s *soak) newGuest(t *testing.T) guest {
	t.Helper()
	s.made++
	n := s.any(s.Nodes)
	return guest{n.NewPod(t, fmt.Sprintf("guest-%d", s.made)), n}
}

func (s *soak) add(t *testing.T) {
	if len(s.guests) == mostGuests {
		return
	}
	g := s.newGuest(t)
	if err := g.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.guests = append(s.guests, g)
}

func (s *soak) remove(t *testing.T) {
	if len(s.guests) == 0 {
		return
	}
	i := s.chance.IntN(len(s.guests))
	s.guests[i].Remove(t)
	s.guests = slices.Delete(s.guests, i, i+1)
}

// killPlugin ends the plugin at some moment of an ADD. The runtime deletes what it couldn't add.
func (s *soak) killPlugin(t *testing.T) {
	g := s.newGuest(t)
	g.AttachKilled(t, time.Duration(s.chance.IntN(20))*time.Millisecond)
	g.Remove(t)
}

func (s *soak) breakByHand(t *testing.T) {
	i := s.chance.IntN(len(s.Nodes))
	n, peer := s.Nodes[i], s.Nodes[(i+1)%len(s.Nodes)]
	all := damages(t, n, peer)
	d := all[s.chance.IntN(len(all))]
	t.Logf("%s: %s", n.Name, d.name)
	s.settle(t)
	d.repaired(t, n, nodeState(t, n), false)
}

// settle waits until no node has links that a rotation leaves: their end isn't the repair that a fault asks for.
func (s *soak) settle(t *testing.T) {
	t.Helper()
	lab.Eventually(t, time.Minute, "only links that carry are left", func() error {
		for _, n := range s.Nodes {
			status, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			carrying := map[string]bool{}
			for _, peer := range status.Peers {
				if len(peer.Links) != 1 {
					return fmt.Errorf("%s has %d links to %s", n.Name, len(peer.Links), peer.Node)
				}
				carrying[peer.Device] = true
			}
			if status.Rotation.Phase != string(keys.Idle) || len(status.Devices) != len(carrying) {
				return fmt.Errorf("%s has %d tunnel devices, of which %d carry; its rotation: %v",
					n.Name, len(status.Devices), len(carrying), status.Rotation)
			}
		}
		return nil
	})
}

// restart kills agents. While they are away, a pod comes and one goes.
func (s *soak) restart(t *testing.T, nodes ...*agents.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	s.add(t)
	s.remove(t)
	for _, n := range nodes {
		n.StartAgent(t)
	}
}

func (s *soak) killUserspace(t *testing.T) {
	if s.Kernel {
		return // the kernel carries the tunnels
	}
	n := s.any(s.Nodes[1:])
	if err := n.Userspace.Kill(); err != nil {
		t.Fatal(err)
	}
	n.StartUserspace(t)
}

func (s *soak) cut(t *testing.T) {
	n := s.any(s.Nodes)
	if err := n.Cut(); err != nil {
		t.Fatal(err)
	}
	s.whileAway(t)
	if err := n.Heal(); err != nil {
		t.Fatal(err)
	}
}

func (s *soak) impair(t *testing.T) {
	heal, err := s.any(s.Nodes).Impair(impairment)
	if err != nil {
		t.Fatal(err)
	}
	s.whileAway(t)
	if err := heal(); err != nil {
		t.Fatal(err)
	}
}

// garbage pours what isn't gossip on some node for a second, from another one's host.
func (s *soak) garbage(t *testing.T) {
	i := s.chance.IntN(len(s.Nodes))
	n, from := s.Nodes[i], s.Nodes[(i+1)%len(s.Nodes)]
	s.made++
	pour := lab.StartFlow(t, lab.FlowOptions{
		From: from, To: from, Addr: netip.AddrPortFrom(n.Addr, contract.GossipPort), Listen: netip.AddrPortFrom(from.Addr, uint16(20000+s.made)),
		Rate: garbageRate, Size: 300, OneWay: true, DeadPath: true, Lossy: true,
	})
	pour.Send(t, garbageRate)
	pour.Stop(t)
}

// whileAway goes on for up to five seconds' traffic.
func (s *soak) whileAway(t *testing.T) {
	t.Helper()
	s.flows[0].Send(t, uint64(1+s.chance.IntN(rate(t))))
}

// holds waits until the mesh is whole, and sees that each address is one pod's, which all nodes reach, and that the nodes
// keep what is attached and nothing else.
func (s *soak) holds(t *testing.T) {
	t.Helper()
	s.WaitUp(t, time.Minute)
	owner := map[netip.Addr]string{}
	pods := map[*agents.Node]int{}
	for i, p := range s.pods {
		owner[p.Addr] = p.Path
		pods[s.Nodes[i]]++
	}
	for _, g := range s.guests {
		if other, owned := owner[g.Addr]; owned || !g.on.CIDR.Contains(g.Addr) {
			t.Errorf("%s on %s has %s of %s; has another it, too: %q", g.Path, g.on.Name, g.Addr, g.on.CIDR, other)
		}
		owner[g.Addr] = g.Path
		pods[g.on]++
	}
	for _, n := range s.Nodes {
		for _, where := range []string{attached, taken} {
			if kept := strings.Fields(n.MustRun(t, "ls", where)); len(kept) != pods[n] {
				t.Errorf("%s has in %s %v of %d pods", n.Name, where, kept, pods[n])
			}
		}
	}
	for i, from := range s.pods {
		targets := []netip.Addr{s.pods[(i+1)%len(s.pods)].Addr}
		if len(s.guests) > 0 {
			targets = append(targets, s.guests[s.chance.IntN(len(s.guests))].Addr)
		}
		for _, to := range targets {
			lab.Eventually(t, 20*time.Second, fmt.Sprintf("%v reaches %s", from, to), func() error {
				_, err := from.Run(t.Context(), "ping", "-c", "1", "-W", "1", to.String())
				return err
			})
		}
	}
}

// remains are what pods and rotations could leave on the nodes.
func (s *soak) remains(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, n := range s.Nodes {
		for _, command := range []string{
			"ip -brief link | sed 's/[@ ].*//; s/^weave-wg.*/weave-wg/' | sort -u", "ls /sys/class/net/weave/brif", "ip netns list | sed 's/ .*//'",
			// Which address was given last isn't known any more after someone removed what the plugin keeps.
			"ls -I 'last-*' " + strings.Join([]string{contract.StateDir, contract.RunDir, store.DefaultDir, attached, taken}, " "),
			"ls /etc/cni/net.d /opt/cni/bin", "nft list tables",
		} {
			fmt.Fprintf(&b, "%s: %s\n", n.Name, sorted(n.MustRun(t, "sh", "-c", command)))
		}
	}
	return b.String()
}
