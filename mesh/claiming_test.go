package mesh_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// claimers are agents without Kubernetes that claim their pod CIDRs, and hear each other as far as they aren't kept apart.
type claimers struct {
	t   *testing.T
	all []*claimer
	mu  sync.Mutex // guards what follows
	cut bool       // those with even numbers, and the others, don't hear each other
}

type claimer struct {
	*world
	mesh  *claimers
	live  *live
	heard map[string]mesh.Heard // guarded by the mesh's mu
	off   bool                  // likewise
}

// newClaimers makes agents with names that have their numbers, in order. None runs yet.
func newClaimers(t *testing.T, n int, ranges ...string) *claimers {
	t.Helper()
	m := &claimers{t: t}
	var cut []claim.Range
	for _, text := range ranges {
		r := claim.Range{Prefix: netip.MustParsePrefix(text), Bits: 24}
		if r.Prefix.Addr().Is6() {
			r.Bits = 64
		}
		cut = append(cut, r)
	}
	for i := range n {
		w := newWorld(t)
		w.self.number, w.self.name = i+1, fmt.Sprintf("n%02d", i)
		w.config.Node, w.config.GossipAddress, w.config.Addresses = w.self.name, w.self.address(), []netip.Addr{w.self.address()}
		w.config.Cluster, w.config.Claims = nil, cut
		w.config.PodRanges = nil
		for _, r := range cut {
			w.config.PodRanges = append(w.config.PodRanges, r.Prefix)
		}
		c := &claimer{world: w, mesh: m, heard: map[string]mesh.Heard{}, off: true}
		w.config.Gossip = claimGossip{w.air, c}
		w.config.Hosts = mesh.NewHosts(mesh.HostsConfig{Configured: []string{"192.0.2.1", "192.0.2.2"}, Path: t.TempDir() + "/hosts", Log: w.config.Log})
		m.all = append(m.all, c)
	}
	return m
}

// claimGossip is the gossip of a claimer.
type claimGossip struct {
	*air
	c *claimer
}

// Announce has all that can hear it hear it, a moment later.
func (g claimGossip) Announce(raw []byte) error {
	time.AfterFunc(300*time.Millisecond, func() { g.c.mesh.spread(g.c, raw) })
	return g.air.Announce(raw)
}

func (g claimGossip) Heard() []mesh.Heard {
	m := g.c.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []mesh.Heard
	for _, h := range g.c.heard {
		if h.Node == g.c.self.name {
			continue
		}
		if h.Alive = g.c.hears(m.named(h.Node)); !h.Alive {
			h.At = nil
		}
		all = append(all, h)
	}
	return all
}

// hears reports whether one hears another now. The lock is held.
func (c *claimer) hears(other *claimer) bool {
	return c != other && !c.off && !other.off && !(c.mesh.cut && c.self.number%2 != other.self.number%2)
}

func (m *claimers) named(name string) *claimer {
	return m.all[slices.IndexFunc(m.all, func(c *claimer) bool { return c.self.name == name })]
}

// spread tells others of a record, and of what its node has heard.
func (m *claimers) spread(from *claimer, raw []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := mesh.Heard{Node: from.self.name, Raw: raw, From: from.self.address(), At: []netip.Addr{from.self.address()}}
	from.heard[from.self.name] = h
	m.tell(from)
}

// tell tells those that hear a node of all that it has heard.
func (m *claimers) tell(from *claimer) {
	for _, to := range m.all {
		if !to.hears(from) {
			continue
		}
		for node, h := range from.heard {
			if node != to.self.name && (node == from.self.name || to.heard[node].Raw == nil) {
				to.heard[node] = h
			}
		}
		to.config.Latch.Set()
	}
}

// apart keeps the nodes with even numbers and the others apart, or brings them together.
func (m *claimers) apart(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
	for _, c := range m.all {
		m.tell(c)
	}
}

func (m *claimers) start(nodes ...*claimer) {
	m.t.Helper()
	for _, c := range nodes {
		m.mu.Lock()
		c.off = false
		m.mu.Unlock()
		c.live = c.world.start(m.t)
		m.apart(m.cut)
	}
}

func (m *claimers) stop(c *claimer) {
	c.live.stop()
	m.mu.Lock()
	c.off, c.heard = true, map[string]mesh.Heard{}
	m.mu.Unlock()
}

// has is what a node has, once pods can be attached there.
func (c *claimer) has() ([]netip.Prefix, error) {
	s := c.live.Status(c.mesh.t.Context())
	if !c.kernel.open() {
		return nil, fmt.Errorf("no pod is attached on %s: %v", c.self.name, s.Problems)
	}
	return s.PodCIDRs, nil
}

// within waits until something holds, and returns how long that took.
func (m *claimers) within(d time.Duration, what string, check func() error) time.Duration {
	m.t.Helper()
	begin := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > d {
			m.t.Fatalf("not within %s: %s: %v", d, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// distinct waits until all nodes have pod CIDRs that are theirs alone, and each has the others as peers.
func (m *claimers) distinct(d time.Duration) time.Duration {
	m.t.Helper()
	return m.within(d, "each has its own", func() error {
		holders := map[netip.Prefix]string{}
		for _, c := range m.all {
			cidrs, err := c.has()
			if err != nil {
				return err
			}
			for _, cidr := range cidrs {
				if other := holders[cidr]; other != "" {
					return fmt.Errorf("%s and %s have %s", other, c.self.name, cidr)
				}
				holders[cidr] = c.self.name
			}
			if got := len(planned(c.kernel)); got != len(m.all)-1 {
				return fmt.Errorf("%s has %d peers: %v", c.self.name, got, c.live.Status(m.t.Context()).Problems)
			}
		}
		return nil
	})
}

// attach has a pod attached on a node that is open for it.
func (c *claimer) attach() netip.Addr {
	c.mesh.t.Helper()
	cidrs, err := c.has()
	if err != nil {
		c.mesh.t.Fatal(err)
	}
	address := cidrs[0].Addr().Next().Next()
	c.kernel.mu.Lock()
	c.kernel.attached = []view.Attachment{{Attachment: record.Attachment{Name: "web", Addresses: []netip.Addr{address}}}}
	c.kernel.mu.Unlock()
	return address
}

func (c *claimer) detach() {
	c.kernel.mu.Lock()
	c.kernel.attached = nil
	c.kernel.mu.Unlock()
	c.config.Latch.Set()
}

// wiped forgets all that a node has on disk but its keys.
func (c *claimer) wiped() {
	if err := os.Remove(c.config.CachePath); err != nil {
		c.mesh.t.Fatal(err)
	}
}

// reboot ends all that was attached.
func (c *claimer) reboot() {
	c.kernel.mu.Lock()
	c.kernel.attached, c.kernel.ready, c.kernel.held = nil, nil, map[string]string{}
	c.kernel.mu.Unlock()
}

// problem is the first of a node's problems about itself.
func (c *claimer) problem() (view.Problem, bool) {
	for _, p := range c.live.Status(c.mesh.t.Context()).Problems {
		if p.Subject == "node "+c.self.name {
			return p, true
		}
	}
	return view.Problem{}, false
}

// Nodes that start at once, also where there are hardly more blocks than nodes, have blocks of their own soon.
func TestClaimsAtOnce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		nodes  int
		ranges []string
		within time.Duration
	}{
		"two":                    {2, []string{"10.32.0.0/23"}, 15 * time.Second},
		"two, of both families":  {2, []string{"10.32.0.0/23", "fd00:32::/63"}, 15 * time.Second},
		"20":                     {20, []string{"10.32.0.0/12"}, 15 * time.Second},
		"20, of 20 and 12 more":  {20, []string{"10.32.0.0/19"}, 30 * time.Second},
		"16, and as many blocks": {16, []string{"10.32.0.0/20"}, 45 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newClaimers(t, tt.nodes, tt.ranges...)
				m.start(m.all...)
				t.Logf("after %s", m.distinct(tt.within))
				for _, c := range m.all {
					if cidrs, _ := c.has(); len(cidrs) != len(tt.ranges) {
						t.Errorf("%s has %v of %v", c.self.name, cidrs, tt.ranges)
					}
				}
			})
		})
	}
}

// Nothing is attached before the claim is settled, and a node that none of the others answers has one all the same.
func TestClaimSettlesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 2, "10.32.0.0/12")
		m.start(m.all[0])
		if p, ok := m.all[0].problem(); !ok || !strings.Contains(p.Message, "once it has reached another node") || m.all[0].kernel.open() {
			t.Errorf("while it has reached nobody: %v", p)
		}
		var claims bool
		took := m.within(30*time.Second, "it is ready alone", func() error {
			_, err := m.all[0].has()
			if p, _ := m.all[0].problem(); err != nil && strings.Contains(p.Message, "attaches pods in some seconds") {
				claims = true
			}
			return err
		})
		if took < 20*time.Second || !claims {
			t.Errorf("it was ready after %s; it said that it claims: %t", took, claims)
		}
		m.start(m.all[1])
		if took := m.distinct(15 * time.Second); took < 3*time.Second {
			t.Errorf("the other was ready after %s", took)
		}
	})
}

// A host that has nobody to look for is a mesh of one.
func TestClaimOfAMeshOfOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 1, "10.32.0.0/12")
		m.all[0].config.Hosts = nil
		m.start(m.all[0])
		m.distinct(10 * time.Second)
	})
}

// A node keeps its block over restarts and reboots. While pods are attached a restart closes nothing, and needs no cache.
func TestClaimIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 3, "10.32.0.0/12")
		m.start(m.all...)
		m.distinct(15 * time.Second)
		c := m.all[1]
		had, _ := c.has()
		c.attach()
		same := func(when string) {
			t.Helper()
			if now, err := c.has(); err != nil || !slices.Equal(now, had) {
				t.Errorf("%s it has %v, %v, and had %v", when, now, err, had)
			}
		}
		m.stop(c)
		m.start(c)
		same("at once after a restart")
		m.stop(c)
		c.wiped()
		m.start(c)
		same("at once after a restart without its cache")
		m.stop(c)
		c.reboot()
		m.start(c)
		if c.kernel.open() {
			t.Error("at once after a reboot pods are attached")
		}
		m.distinct(15 * time.Second)
		same("after a reboot")
	})
}

// A node that comes back with a cache, after others got its block, takes another one.
func TestClaimThatWasGivenToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 2, "10.32.5.0/24")
		a, b := m.all[0], m.all[1]
		m.start(a)
		m.within(30*time.Second, "it has the only block", func() error { _, err := a.has(); return err })
		m.stop(a)
		a.reboot()
		m.start(b)
		m.within(30*time.Second, "the other has it", func() error { _, err := b.has(); return err })
		b.attach()
		m.start(a)
		m.within(30*time.Second, "the range is used up", func() error {
			if p, _ := a.problem(); !strings.Contains(p.Message, "10.32.5.0/24 is used up") || !strings.Contains(p.Remedy, "forget") {
				return fmt.Errorf("%v", p)
			}
			return nil
		})
		if _, err := b.has(); err != nil {
			t.Error(err)
		}
	})
}

// halves are two nodes that claimed the same block while they were apart, each with another node beside it.
func halves(t *testing.T) (m *claimers, a, b *claimer) {
	t.Helper()
	m = newClaimers(t, 4, "10.32.0.0/12")
	a, b = m.all[0], m.all[1]
	m.apart(true)
	block := netip.MustParsePrefix("10.32.7.0/24")
	for _, c := range m.all[:2] {
		c.config.Remembered.Self = mesh.RememberedSelf{Node: c.self.name, PodCIDRs: []netip.Prefix{block}}
		remember(t, c)
	}
	m.start(m.all...)
	for i, c := range m.all {
		m.within(40*time.Second, "it has claimed", func() error { _, err := c.has(); return err })
		if i >= 2 {
			continue
		}
		if cidrs, _ := c.has(); cidrs[0] != block {
			t.Fatalf("%s has %v, want its last block", c.self.name, cidrs)
		}
	}
	time.Sleep(time.Minute)
	return m, a, b
}

// remember writes a cache for the next start.
func remember(t *testing.T, c *claimer) {
	t.Helper()
	text := fmt.Sprintf(`{"version":1,"self":{"node":%q,"podCIDRs":[%q],"addresses":null,"age":0},"nodes":{},"podCIDRs":null}`,
		c.self.name, c.config.Remembered.Self.PodCIDRs[0])
	if err := os.WriteFile(c.config.CachePath, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of two that claimed the same while they were apart, one that nothing is attached on takes another block: the one whose name
// comes later, if it can be either.
func TestPartitionHealsWithoutPods(t *testing.T) {
	t.Parallel()
	for name, attach := range map[string]int{"nothing is attached": -1, "something on the first": 0, "something on the second": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, a, b := halves(t)
				stays, goes := a, b
				if attach == 1 {
					stays, goes = b, a
				}
				had, _ := stays.has()
				if attach >= 0 {
					m.all[attach].attach()
				}
				m.apart(false)
				for time.Sleep(time.Second); ; time.Sleep(time.Second) { // meanwhile what is used stays open
					if _, err := stays.has(); err != nil && attach >= 0 {
						t.Fatal(err)
					}
					if cidrs, err := goes.has(); err == nil && !slices.Equal(cidrs, had) {
						break
					}
				}
				m.distinct(5 * time.Second)
				if now, err := stays.has(); err != nil || !slices.Equal(now, had) {
					t.Errorf("the one that was to stay has %v, %v, and had %v", now, err, had)
				}
				if log := goes.log.String(); !strings.Contains(log, "another pod CIDR is claimed") {
					t.Errorf("the log doesn't tell:\n%s", log)
				}
			})
		})
	}
}

// Where pods are attached on both, no address moves: it is reported, and nothing more is attached on one, until its pods are
// gone. A restart of its agent doesn't change that.
func TestPartitionHealsWithPods(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, a, b := halves(t)
		a.attach()
		b.attach()
		had, _ := b.has()
		m.apart(false)
		reported := func() error {
			p, ok := b.problem()
			if !ok || p.Warning || !strings.Contains(p.Message, "node n00 announces the pod CIDR 10.32.7.0/24 of this node too") ||
				!strings.Contains(p.Remedy, "weaveguard detach") || b.kernel.open() {
				return fmt.Errorf("the second says %v, and is open: %t", p, b.kernel.open())
			}
			if p, ok := a.problem(); !ok || !p.Warning || !a.kernel.open() {
				return fmt.Errorf("the first says %v", p)
			}
			return nil
		}
		m.within(45*time.Second, "it is reported", reported)
		unmoved := func(when string) {
			t.Helper()
			if s := b.live.Status(t.Context()); !slices.Equal(s.PodCIDRs, had) || !strings.Contains(b.kernel.text("bridges"), "10.32.7.1/24") {
				t.Errorf("%s it has %v and the bridges %s", when, s.PodCIDRs, b.kernel.text("bridges"))
			}
		}
		time.Sleep(10 * time.Minute)
		unmoved("after a while")
		m.stop(b)
		m.start(b)
		unmoved("after a restart")
		m.within(45*time.Second, "it is reported again", reported)
		unmoved("then")
		if !strings.Contains(b.log.String(), "level=ERROR msg=\"node n00 announces") {
			t.Errorf("the log doesn't tell:\n%s", b.log)
		}
		b.detach()
		m.distinct(15 * time.Second)
		if now, _ := b.has(); slices.Equal(now, had) {
			t.Error("it has kept what the other has")
		}
	})
}

// A newcomer that says that it has what another one has for long moves nobody.
func TestNewcomerYields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 2, "10.32.0.0/12")
		a, b := m.all[0], m.all[1]
		m.start(b)
		m.within(40*time.Second, "it has claimed", func() error { _, err := b.has(); return err })
		had, _ := b.has()
		time.Sleep(time.Minute)
		a.config.Remembered.Self.PodCIDRs = had
		remember(t, a)
		m.mu.Lock() // it doesn't know when it chooses
		m.cut = true
		m.mu.Unlock()
		m.start(a)
		m.within(22*time.Second, "it claims", func() error {
			if s := a.live.Status(t.Context()); !slices.Equal(s.PodCIDRs, had) {
				return errors.New("not yet")
			}
			return nil
		})
		m.apart(false)
		for range 30 {
			time.Sleep(time.Second)
			if now, err := b.has(); err != nil || !slices.Equal(now, had) {
				t.Fatalf("the one that had it has %v, %v", now, err)
			}
		}
		m.distinct(5 * time.Second)
	})
}

// Pod CIDRs that aren't blocks of what this node claims from are reported, and left to those that have them.
func TestClaimsOfOtherSizes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 3, "10.32.0.0/22")
		m.all[1].config.Claims = []claim.Range{{Prefix: netip.MustParsePrefix("10.32.0.0/22"), Bits: 23}}
		m.all[2].config.Claims = []claim.Range{{Prefix: netip.MustParsePrefix("10.99.0.0/16"), Bits: 24}}
		m.start(m.all...)
		m.distinct(30 * time.Second)
		problems := fmt.Sprint(m.all[0].live.Status(t.Context()).Problems)
		for _, want := range []string{"this node claims from 10.32.0.0/22 in blocks of /24", "/23 of node n01", "of node n02", "--node-cidr-mask-size"} {
			if !strings.Contains(problems, want) {
				t.Errorf("%q isn't among %s", want, problems)
			}
		}
	})
}

// What this host's own network, or another node, stands on isn't claimed.
func TestClaimsKeepOffNetworks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 1, "10.32.0.0/22")
		c := m.all[0]
		c.kernel.host = view.Host{
			Addresses: []view.HostAddress{{Device: "eth0", Address: netip.MustParsePrefix("10.32.0.9/26")}},
			Routes:    []view.HostRoute{{Device: "eth1", Destination: netip.MustParsePrefix("10.32.1.0/25")}, {Device: "eth1", Destination: netip.MustParsePrefix("10.0.0.0/8")}},
		}
		other := newSpeaker(t, 9, "z")
		h := other.says(t, func(r *record.Record) {
			r.Endpoint4, r.PodCIDR4 = netip.MustParseAddrPort("10.32.2.9:51820"), netip.MustParsePrefix("10.40.0.0/24")
		})
		c.heard["z"] = h
		m.all = append(m.all, &claimer{world: &world{self: other}, mesh: m, off: true})
		m.start(c)
		m.within(30*time.Second, "it has what is left", func() error {
			cidrs, err := c.has()
			if err == nil && cidrs[0] != netip.MustParsePrefix("10.32.3.0/24") {
				err = fmt.Errorf("it has %v", cidrs)
			}
			return err
		})
	})
}
