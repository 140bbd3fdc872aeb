package gossip_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestRecordsReachAll(t *testing.T) {
	nodes := mesh(t, 4)
	for _, n := range nodes {
		for _, h := range n.Heard() {
			if !h.Alive {
				t.Errorf("%s: the living %s isn't alive", n.name, h.Node)
			}
			if h.Node == n.name {
				t.Errorf("%s hears itself", n.name)
			}
			if want := fmt.Sprintf("127.0.0.%s", h.Node[1:]); h.From.String() != want {
				t.Errorf("%s: record of %s comes from %s, want %s", n.name, h.Node, h.From, want)
			}
		}
		members := n.Members()
		if len(members) != len(nodes) {
			t.Fatalf("%s: members %v, want %d", n.name, members, len(nodes))
		}
		for i, m := range members {
			want := gossip.Member{Node: nodes[i].name, Addr: nodes[i].addr, Self: nodes[i] == n}
			if m != want {
				t.Errorf("%s: member %+v, want %+v", n.name, m, want)
			}
		}
		if p := n.Problems(); len(p) > 0 {
			t.Errorf("%s: problems in a sound mesh: %v", n.name, p)
		}
		if c := n.Counters(); len(c) > 0 {
			t.Errorf("%s: refused %v in a sound mesh", n.name, c)
		}
	}
}

func TestUpdateReachesAllAndIsTold(t *testing.T) {
	nodes := mesh(t, 3)
	before := nodes[2].changes.Load()
	nodes[0].announce(t, []byte("second"))
	eventually(t, "the update arrives", func() bool { return nodes[1].has("n1", []byte("second")) })
	eventually(t, "the update arrives", func() bool { return nodes[2].has("n1", []byte("second")) })
	eventually(t, "the change is told", func() bool { return nodes[2].changes.Load() > before })
}

// What arrives while a change is being told must be told too; and Changed may call back.
func TestChangedMayCallBack(t *testing.T) {
	first := start(t, "n1", 1)
	var self atomic.Pointer[gossip.Gossip]
	var calls atomic.Int64
	second := start(t, "n2", 2, func(c *gossip.Config) {
		c.Changed = func() {
			if g := self.Load(); g != nil {
				g.Heard()
				if err := g.Announce(fmt.Appendf(nil, "call %d", calls.Add(1))); err != nil {
					t.Error(err)
				}
			}
		}
	})
	self.Store(second.Gossip)
	first.Seek([]gossip.Target{second.target()})
	first.announce(t, []byte("a"))
	eventually(t, "a change leads to an announcement", func() bool { return calls.Load() > 0 && len(first.Heard()) > 0 })
}

func TestSeedIsEnough(t *testing.T) {
	first, second := start(t, "n1", 1), start(t, "n2", 2)
	first.announce(t, []byte("a"))
	second.announce(t, []byte("b"))
	second.Seek([]gossip.Target{{Addr: first.addr}})
	eventually(t, "both hear each other", func() bool {
		return first.has("n2", []byte("b")) && second.has("n1", []byte("a"))
	})
}

// A node that seeks first and finds nobody must be found later, whoever comes up in which order.
func TestJoinOrderDoesNotMatter(t *testing.T) {
	early := start(t, "n1", 1)
	early.announce(t, []byte("a"))
	early.Seek([]gossip.Target{{Node: "n2", Addr: netip.MustParseAddrPort("127.0.0.2:6783")}})
	eventually(t, "the early node reports that it is alone", func() bool {
		return slices.ContainsFunc(early.Problems(), func(p view.Problem) bool { return p.Subject == "gossip" })
	})
	late := start(t, "n2", 2)
	late.announce(t, []byte("b"))
	eventually(t, "both hear each other", func() bool {
		return early.has("n2", []byte("b")) && late.has("n1", []byte("a"))
	})
	eventually(t, "the problem is over", func() bool { return len(early.Problems()) == 0 })
}

// An agent that restarts has a new member name. Its node must never look gone, apart from the time when it is.
func TestRestart(t *testing.T) {
	t.Parallel()
	for i, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%t", graceful), func(t *testing.T) {
			t.Parallel()
			host := 60 + 10*i
			nodes := meshAt(t, host, 3)
			if graceful {
				nodes[1].stop(t)
			} else {
				nodes[1].crash(t)
			}
			again := start(t, "n2", host+1)
			again.announce(t, []byte("n2 again"))
			again.Seek([]gossip.Target{nodes[0].target(), nodes[2].target()})
			eventually(t, "the new record is heard", func() bool {
				return nodes[0].has("n2", []byte("n2 again")) && nodes[2].has("n2", []byte("n2 again"))
			})
			// memberlist now finds out about the old member: at once after a goodbye, else when its probes fail. The
			// node stays alive through it.
			watch := time.Second
			if !graceful {
				watch = 8 * time.Second
			}
			for end := time.Now().Add(watch); time.Now().Before(end); {
				if !nodes[0].sees("n2") {
					t.Fatal("the node is gone although its new member is alive")
				}
				if got := len(nodes[0].Members()); got != 3 {
					t.Fatalf("%d members, want 3", got)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if p := nodes[0].Problems(); len(p) > 0 {
				t.Errorf("a restart is reported as a problem: %v", p)
			}
		})
	}
}

func TestNodeThatStopsIsNotAliveAndKeepsItsRecord(t *testing.T) {
	nodes := mesh(t, 3)
	nodes[2].stop(t)
	eventually(t, "its leaving is seen", func() bool { return !nodes[0].sees("n3") && !nodes[1].sees("n3") })
	for _, h := range nodes[0].Heard() {
		if h.Node == "n3" && h.Alive {
			t.Error("a node that left is heard alive")
		}
	}
	if !nodes[0].has("n3", []byte("record of n3")) {
		t.Error("the record of a node that left is lost")
	}
	nodes[0].Forget("n3")
	if nodes[0].has("n3", []byte("record of n3")) {
		t.Error("a forgotten node is still there")
	}
}

// Forgetting a node that is alive must not lose what it announces: memberlist tells that only once.
func TestForgetKeepsTheLiving(t *testing.T) {
	nodes := mesh(t, 2)
	nodes[1].announce(t, []byte("newer"))
	eventually(t, "the update arrives", func() bool { return nodes[0].has("n2", []byte("newer")) })
	nodes[0].Forget("n2")
	heard := nodes[0].Heard()
	if len(heard) != 1 || string(heard[0].Raw) != "newer" {
		t.Errorf("after forgetting a living node: %+v, want its newest record alone", heard)
	}
}

func TestSharedRecordReachesNewcomer(t *testing.T) {
	nodes := mesh(t, 2)
	dead := []byte("record of a node that is down")
	unsaid := []byte("record of a node that somebody silenced")
	nodes[0].Share(map[string][]byte{"down": dead, "n1": []byte("record of n1"), "n2": unsaid})
	newcomer := start(t, "n3", 3)
	newcomer.Seek([]gossip.Target{nodes[0].target()})
	eventually(t, "the newcomer hears of the node that is down", func() bool { return newcomer.has("down", dead) })
	eventually(t, "and what a living node's member doesn't announce", func() bool { return newcomer.has("n2", unsaid) })
	eventually(t, "and what it does", func() bool { return newcomer.has("n2", []byte("record of n2")) })
	for _, h := range newcomer.Heard() {
		switch {
		case h.Node == "down" && (h.Alive || h.From.IsValid()):
			t.Errorf("handed on: %+v, want it not alive and from nobody", h)
		case h.Node == "n2" && h.From.IsValid() == bytes.Equal(h.Raw, unsaid):
			t.Errorf("%q of n2 comes from %v", h.Raw, h.From)
		}
	}
	if newcomer.sees("down") {
		t.Error("a node that is down is a member")
	}
}

func TestWrongKey(t *testing.T) {
	stranger := []byte("another key, as long as it takes")
	inside := start(t, "n1", 1)
	outside := start(t, "n2", 2, func(c *gossip.Config) { c.Keyring = [][]byte{stranger} })
	inside.announce(t, []byte("a"))
	outside.announce(t, []byte("b"))
	before := inside.changes.Load()
	outside.Seek([]gossip.Target{inside.target()})
	problem := func(n *node, address string) bool {
		return slices.ContainsFunc(n.Problems(), func(p view.Problem) bool {
			return p.Subject == "gossip from "+address && p.Remedy != "" && strings.Contains(p.Message, "can't be decrypted")
		})
	}
	eventually(t, "the mesh reports who has another key", func() bool { return problem(inside, "127.0.0.2") })
	eventually(t, "a new problem is told like other news", func() bool { return inside.changes.Load() > before })
	eventually(t, "the stranger reports whom it can't hear", func() bool { return problem(outside, "127.0.0.1") })
	for _, n := range []*node{inside, outside} {
		if n.Counters()["gossip-undecryptable"] == 0 {
			t.Errorf("%s counts %v", n.name, n.Counters())
		}
		if len(n.Heard()) > 0 || len(n.Members()) != 1 {
			t.Errorf("%s has heard %v of %v", n.name, n.Heard(), n.Members())
		}
		for _, key := range [][]byte{meshKey, stranger} {
			for _, text := range []string{string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key),
				strings.Trim(fmt.Sprint(key), "[]")} {
				if strings.Contains(n.log.String(), text) || strings.Contains(fmt.Sprintf("%+v", n.Gossip), text) {
					t.Errorf("%s shows a gossip key", n.name)
				}
			}
		}
	}
}

// A key rotates by way of a keyring that has both.
func TestKeyringDecryptsWithAllKeys(t *testing.T) {
	next := []byte("another key, as long as it takes")
	first := start(t, "n1", 1, func(c *gossip.Config) { c.Keyring = [][]byte{meshKey, next} })
	second := start(t, "n2", 2, func(c *gossip.Config) { c.Keyring = [][]byte{next, meshKey} })
	first.announce(t, []byte("a"))
	second.announce(t, []byte("b"))
	second.Seek([]gossip.Target{first.target()})
	eventually(t, "both hear each other", func() bool {
		return first.has("n2", []byte("b")) && second.has("n1", []byte("a"))
	})
}

// The record's limit is the metadata's.
func TestAnnounceSize(t *testing.T) {
	nodes := mesh(t, 2)
	largest := make([]byte, 512)
	_, _ = rand.Read(largest)
	nodes[0].announce(t, largest)
	eventually(t, "512 bytes arrive", func() bool { return nodes[1].has("n1", largest) })
	for _, raw := range [][]byte{nil, {}, make([]byte, 513), make([]byte, 1<<20)} {
		if err := nodes[0].Announce(raw); err == nil {
			t.Errorf("%d bytes are announced", len(raw))
		}
	}
	if !nodes[1].has("n1", largest) {
		t.Error("a refused announcement harmed the one before")
	}
}

// Whatever a member announces is kept as it is: somebody else judges it.
func TestHostileMetadataIsOnlyACandidate(t *testing.T) {
	nodes := mesh(t, 2)
	for size := 1; size <= 512; size += 73 {
		junk := make([]byte, size)
		_, _ = rand.Read(junk)
		nodes[0].announce(t, junk)
		eventually(t, fmt.Sprintf("%d random bytes arrive", size), func() bool { return nodes[1].has("n1", junk) })
	}
	count := 0
	for _, h := range nodes[1].Heard() {
		if h.Node == "n1" {
			count++
		}
	}
	if count > 4 {
		t.Errorf("%d candidates for one node", count)
	}
}

func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	nodes := meshAt(t, 50, 4)
	heal := cut(t, nodes[:2], nodes[2:])
	eventually(t, "the sides lose each other", func() bool {
		for i, n := range nodes {
			if len(n.Members()) != 2 || !n.sees(nodes[i^1].name) {
				return false
			}
		}
		return true
	})
	nodes[0].announce(t, []byte("announced apart"))
	for _, n := range nodes[2:] {
		if !n.has("n1", []byte("record of n1")) {
			t.Errorf("%s lost the record of n1 with the network", n.name)
		}
	}
	heal()
	eventually(t, "all see all again", func() bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool { return len(n.Members()) != 4 })
	})
	eventually(t, "what was announced apart arrives", func() bool {
		return nodes[2].has("n1", []byte("announced apart")) && nodes[3].has("n1", []byte("announced apart"))
	})
}

func TestStartRefuses(t *testing.T) {
	busy := start(t, "n1", 1)
	tests := []struct {
		name   string
		change func(*gossip.Config)
		want   string
	}{
		{"no name", func(c *gossip.Config) { c.Node = "" }, "node name"},
		{"a slash in the name", func(c *gossip.Config) { c.Node = "a/b" }, `"a/b"`},
		{"a long name", func(c *gossip.Config) { c.Node = strings.Repeat("n", 254) }, "254 bytes"},
		{"no key", func(c *gossip.Config) { c.Keyring = nil }, "key is missing"},
		{"a short key", func(c *gossip.Config) { c.Keyring = [][]byte{meshKey, []byte("SECRET")} }, "key 2 has 6 bytes"},
		{"no address", func(c *gossip.Config) { c.Advertise = netip.Addr{} }, "address"},
		{"any address", func(c *gossip.Config) { c.Advertise = netip.IPv4Unspecified() }, "0.0.0.0"},
		{"no port", func(c *gossip.Config) { c.Port = 0 }, "port"},
		{"no logger", func(c *gossip.Config) { c.Log = nil }, "logger"},
		{"a port in use", func(c *gossip.Config) { c.Advertise = busy.addr.Addr() }, "127.0.0.1:6783"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := gossip.Config{Node: "n2", Advertise: netip.MustParseAddr("127.0.0.2"), Port: contract.GossipPort,
				Keyring: [][]byte{meshKey}, Log: slog.New(slog.DiscardHandler)}
			tt.change(&config)
			g, err := gossip.Start(config)
			if err == nil {
				_ = g.Stop(t.Context())
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("error %q, want one with %q and without the key", err, tt.want)
			}
		})
	}
}

// A host behind a 1:1 NAT doesn't have the address that it is known by.
func TestAddressThatTheHostLacks(t *testing.T) {
	behind := start(t, "n1", 1, func(c *gossip.Config) { c.Advertise = netip.MustParseAddr("192.0.2.1") })
	behind.announce(t, []byte("a"))
	other := start(t, "n2", 2, func(c *gossip.Config) { c.Port++ })
	other.Seek([]gossip.Target{{Addr: netip.MustParseAddrPort("127.0.0.1:6783")}})
	eventually(t, "it is reached at another address", func() bool { return other.has("n1", []byte("a")) })
	for _, m := range other.Members() {
		if m.Node == "n1" && m.Addr.String() != "192.0.2.1:6783" {
			t.Errorf("it is known at %s", m.Addr)
		}
	}
}

func TestIPv6(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs := []string{"fd00::1", "fd00::2"}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a + "/128")
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD // or it can't be bound to for a moment
		if err := netlink.AddrReplace(lo, addr); err != nil {
			t.Fatalf("adding %s: %v", a, err)
		}
	}
	var nodes []*node
	for i, a := range addrs {
		n := start(t, fmt.Sprintf("n%d", i+1), i+1, func(c *gossip.Config) { c.Advertise = netip.MustParseAddr(a) })
		n.addr = netip.AddrPortFrom(netip.MustParseAddr(a), contract.GossipPort)
		n.announce(t, []byte(a))
		nodes = append(nodes, n)
	}
	nodes[0].Seek([]gossip.Target{nodes[1].target()})
	eventually(t, "both hear each other", func() bool {
		return nodes[0].has("n2", []byte("fd00::2")) && nodes[1].has("n1", []byte("fd00::1"))
	})
}

// Everything ends with Stop; memberlist's probes and timers some seconds later.
func TestStopEndsAll(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("mesh", func(t *testing.T) {
		nodes := mesh(t, 3)
		nodes[0].Seek([]gossip.Target{{Node: "nobody", Addr: netip.MustParseAddrPort("127.0.0.99:6783")}})
		nodes[2].crash(t)
		nodes[0].stop(t)
		nodes[1].stop(t)
		if err := nodes[0].Stop(t.Context()); err != nil {
			t.Errorf("stopping twice: %v", err)
		}
		if err := nodes[0].Announce([]byte("late")); err == nil {
			t.Error("announced after Stop")
		}
		nodes[0].Seek([]gossip.Target{{Addr: nodes[1].addr}})
		again := start(t, "n1", 1) // the port is free at once
		again.stop(t)
	})
	eventually(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
	if t.Failed() {
		stacks := make([]byte, 1<<20)
		t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// Stop ends the attempt to join a host that takes connections and says nothing.
func TestStopWhileJoining(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.9:6783")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	n := start(t, "n1", 1)
	n.Seek([]gossip.Target{{Addr: netip.MustParseAddrPort("127.0.0.9:6783")}})
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n.stop(t)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection stays open: %v", err)
	}
}

// TestConvergence logs how long a change of all records at once takes to reach all.
func TestConvergence(t *testing.T) {
	size := 8
	if os.Getenv("WEAVEGUARD_TEST_FULL") != "" {
		size = 30
	}
	nodes := mesh(t, size)
	for round := range 3 {
		record := func(n *node) []byte {
			return append(fmt.Appendf(nil, "round %d of %s ", round, n.name), make([]byte, 270)...)
		}
		began := time.Now()
		for _, n := range nodes {
			n.announce(t, record(n))
		}
		announced := time.Since(began)
		eventually(t, "all hear all", func() bool { return allHear(nodes, record) })
		t.Logf("%d nodes changed at once: announced in %v, everywhere after %v", size,
			announced.Round(time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	}
}
