package mesh_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/output"
)

// member is an agent with real gossip, on an address of the loopback device of its own.
type member struct {
	*gossip.Gossip
	self    *speaker
	latch   mesh.Latch
	log     *output.Buffer
	config  *configuration
	cache   string
	targets func() []gossip.Target
	address netip.AddrPort

	agent *mesh.Agent
	stop  func()
}

func (m *member) Heard() []mesh.Heard {
	var all []mesh.Heard
	for _, h := range m.Gossip.Heard() {
		all = append(all, mesh.Heard{Node: h.Node, Raw: h.Raw, From: h.From, At: h.At, Alive: h.Alive})
	}
	return all
}

func (m *member) Seek([]mesh.Seed)           { m.Gossip.Seek(m.targets()) }
func (m *member) Refused() map[string]uint64 { return m.Counters() }
func (m *member) Status() view.GossipStatus  { return view.GossipStatus{Members: len(m.Members())} }

// freePort is a port that nobody has on any address, over TCP and UDP.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		p, err := net.ListenPacket("udp", fmt.Sprintf("0.0.0.0:%d", port))
		_ = l.Close()
		if err == nil {
			_ = p.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// begin starts the agent and its gossip, with what is on disk.
func (m *member) begin(t *testing.T) {
	t.Helper()
	key := []byte("0123456789abcdef0123456789abcdef")
	log := slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	m.Gossip, err = gossip.Start(gossip.Config{Node: m.self.name, Advertise: m.address.Addr(), Port: m.address.Port(),
		Keyring: keys.Keyring{key}, Log: log, Changed: m.latch.Set})
	if err != nil {
		t.Fatal(err)
	}
	remembered, err := mesh.Recall(m.cache)
	if err != nil {
		t.Fatal(err)
	}
	kernel := newKernel()
	kernel.keyOf = func(generation uint32) keys.PublicKey {
		private, _ := m.self.store.Private(generation)
		return private.Public()
	}
	m.agent = mesh.New(mesh.Config{
		Node: m.self.name, Bridge: contract.BridgeName, BasePort: contract.BasePort, WireGuard: "kernel", CachePath: m.cache, Remembered: remembered,
		PodCIDRs: []netip.Prefix{m.self.cidr()}, Addresses: []netip.Addr{m.self.address()}, GossipAddress: m.address.Addr(),
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, PodRangeSource: "--pod-range", Log: log, Latch: m.latch,
		Keys: m.self.store, Gossip: m, Network: network{kernel}, Tunnels: tunnels{kernel}, Firewall: rules{kernel}, Attach: files{kernel},
		Networks: m.config,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(a *mesh.Agent) { done <- a.Run(ctx) }(m.agent)
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s ended with %v", m.self.name, err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := m.Gossip.Stop(ended); err != nil {
			t.Errorf("stopping the gossip of %s: %v", m.self.name, err)
		}
	})
}

func members(t *testing.T, size int) []*member {
	t.Helper()
	port := freePort(t)
	all := make([]*member, size)
	targets := func() []gossip.Target {
		var targets []gossip.Target
		for _, m := range all {
			targets = append(targets, gossip.Target{Node: m.self.name, Addr: m.address})
		}
		return targets
	}
	for i := range all {
		all[i] = &member{
			self: newSpeaker(t, i+1, string(rune('a'+i))), latch: mesh.NewLatch(), log: &output.Buffer{}, config: &configuration{},
			cache: filepath.Join(t.TempDir(), "view.json"), targets: targets,
			address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, 0, byte(i + 1)}), port),
		}
	}
	for _, m := range all {
		m.begin(t)
		t.Cleanup(func() {
			m.stop()
			if t.Failed() {
				t.Logf("log of %s:\n%s", m.self.name, m.log)
			}
		})
	}
	return all
}

// see waits until all of them, but the node itself, see these networks of a node.
func see(t *testing.T, all []*member, node, networks string) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		missing := ""
		for _, m := range all {
			if got := networksOf(m.agent.Status(t.Context()), node); m.self.name != node && got != networks {
				missing = fmt.Sprintf("%s sees %q", m.self.name, got)
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: all see %q of %s; %s", networks, node, missing)
		}
	}
}

// Networks come and go on all nodes by real gossip; one that comes late gets them also of nodes that aren't there any more;
// and nothing is refused meanwhile.
func TestNetworksByGossip(t *testing.T) {
	t.Parallel()
	all := members(t, 4)
	a, b, c, d := all[0], all[1], all[2], all[3]
	for i, m := range all {
		m.config.set(subnet("blue", 50, i+1))
		m.latch.Set()
	}
	for i, m := range all {
		see(t, all, m.self.name, fmt.Sprintf("blue=10.50.%d.0/24", i+1))
	}
	b.config.set(subnet("blue", 50, 2), subnet("red", 60, 2))
	b.latch.Set()
	see(t, all, "b", "blue=10.50.2.0/24 red=10.60.2.0/24")

	b.stop() // without a goodbye
	d.stop()
	d.cache = filepath.Join(t.TempDir(), "view.json") // its disk is a new one, but for its keys
	d.begin(t)
	see(t, []*member{a, c, d}, "b", "blue=10.50.2.0/24 red=10.60.2.0/24")

	a.config.set()
	a.latch.Set()
	see(t, []*member{c, d}, "a", "")
	for _, m := range []*member{a, c, d} {
		refused := m.agent.Status(t.Context()).Counters.Refused
		for _, word := range []string{"document", "document-request", "document-request-rate", "ack", "gossip-message-size", "gossip-too-many-messages"} {
			if refused[word] > 0 {
				t.Errorf("%s refused %v in a sound mesh", m.self.name, refused)
			}
		}
		if i := slices.IndexFunc(m.agent.Status(t.Context()).Problems, func(p view.Problem) bool { return p.Subject == "networks" }); i >= 0 {
			t.Errorf("%s has problems with networks", m.self.name)
		}
	}
}
