package mesh_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// claims is a record of a node that announces pod CIDRs, one of a family.
func (s *speaker) claims(t *testing.T, cidrs ...netip.Prefix) mesh.Heard {
	t.Helper()
	return s.says(t, func(r *record.Record) {
		r.PodCIDR4 = netip.Prefix{}
		for _, cidr := range cidrs {
			if cidr.Addr().Is4() {
				r.PodCIDR4 = cidr
			} else {
				r.PodCIDR6 = cidr
			}
		}
	})
}

// hearsFirst has a node hear of what another one says, also before it starts.
func (c *claimer) hearsFirst(h mesh.Heard) {
	c.mesh.mu.Lock()
	defer c.mesh.mu.Unlock()
	c.heard[h.Node] = h
	c.config.Latch.Set()
}

// settledAlone is a node with a claim that stands for long, and another one that doesn't run and has an earlier name.
func settledAlone(t *testing.T, ranges ...string) (m *claimers, other, c *claimer, had []netip.Prefix) {
	t.Helper()
	m = newClaimers(t, 2, ranges...)
	c = m.all[1]
	m.start(c)
	m.within(30*time.Second, "it has claimed", func() error { _, err := c.has(); return err })
	time.Sleep(time.Minute)
	had, _ = c.has()
	return m, m.all[0], c, had
}

// What a host has at a restart is its own from the first moment on, whoever announced the same meanwhile, and whatever an
// earlier agent remembered of that.
func TestRestartBesideARival(t *testing.T) {
	t.Parallel()
	for name, remembered := range map[string]bool{"it is heard": false, "it is remembered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, other, c, had := settledAlone(t, "10.32.0.0/12")
				c.attach()
				m.stop(c)
				h := other.self.claims(t, had...)
				if remembered {
					addToCache(t, c, h)
				}
				c.hearsFirst(h)
				m.start(c)
				for range 2 {
					if got := c.kernel.text("bridges"); !strings.Contains(got, had[0].Addr().Next().String()) || !c.kernel.open() {
						t.Fatalf("it had %v; now it has the bridges %s, and is open: %t", had, got, c.kernel.open())
					}
					if peers := planned(c.kernel); len(peers) != 0 {
						t.Fatalf("whoever announces what this host has is a peer: %v", peers)
					}
					time.Sleep(14 * time.Second)
				}
			})
		})
	}
}

// addToCache has a node remember a record as one that counts.
func addToCache(t *testing.T, c *claimer, h mesh.Heard) {
	t.Helper()
	cache, err := mesh.Recall(c.config.CachePath)
	if err != nil {
		t.Fatal(err)
	}
	cache.Nodes[h.Node] = mesh.RememberedRecord{Raw: h.Raw}
	raw, err := json.Marshal(cache)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.config.CachePath, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A range of the other family more takes nothing from a host that runs.
func TestClaimOfAnotherFamily(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, other, c, had := settledAlone(t, "10.32.0.0/12")
		c.attach()
		m.stop(c)
		c.hearsFirst(other.self.claims(t, had...))
		c.config.Claims = newClaimers(t, 1, "10.32.0.0/12", "fd00:32::/48").all[0].config.Claims
		m.start(c)
		stands := func() {
			t.Helper()
			if got := c.kernel.text("bridges"); !strings.Contains(got, had[0].Addr().Next().String()) {
				t.Fatalf("it had %v; now it has the bridges %s", had, got)
			}
		}
		stands()
		m.within(30*time.Second, "it has both", func() error {
			stands()
			_, err := c.has()
			return err
		})
		if now, _ := c.has(); len(now) != 2 || now[0] != had[0] {
			t.Errorf("it has %v, and had %v", now, had)
		}
		if log := c.log.String(); strings.Contains(log, "another node has the former one") {
			t.Errorf("the log has it that a block was given up:\n%s", log)
		}
	})
}

// While it isn't known what is attached, a block that pods may have addresses of isn't given up.
func TestRestartWithoutTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, other, c, had := settledAlone(t, "10.32.0.0/12")
		c.attach()
		m.stop(c)
		c.kernel.mu.Lock()
		c.kernel.ready, c.kernel.attached, c.kernel.fail["store"] = nil, nil, errBroken
		c.kernel.mu.Unlock()
		c.hearsFirst(other.self.claims(t, had...))
		m.start(c)
		time.Sleep(time.Minute)
		if got := c.live.Status(t.Context()).PodCIDRs; !slices.Equal(got, had) {
			t.Errorf("it had %v, and has %v", had, got)
		}
	})
}

// A host that is gone for good, and announced what this one has, is forgotten like any other; then the claim is this one's alone.
func TestForgetARival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, other, c, had := settledAlone(t, "10.32.0.0/12")
		c.attach()
		h := other.self.claims(t, had...)
		c.hearsFirst(h)
		m.within(time.Minute, "it is reported", func() error {
			if p, ok := c.problem(); !ok || !strings.Contains(p.Message, "node n00 announces") || c.kernel.open() {
				return fmt.Errorf("it says %v", p)
			}
			return nil
		})
		if _, err := c.live.Forget(t.Context(), "n07", false); err == nil || !strings.Contains(err.Error(), "known are n00") {
			t.Errorf("of another one: %v", err)
		}
		answer, err := c.live.Forget(t.Context(), "n00", false)
		if err != nil || answer.State != view.ForgotNode || answer.Identity != other.self.store.Identity().Public() || !slices.Equal(answer.PodCIDRs, had) {
			t.Fatalf("forget says %+v, %v", answer, err)
		}
		alone := func(when string) {
			t.Helper()
			m.within(5*time.Second, "it is open "+when, func() error { _, err := c.has(); return err })
			if s := c.live.pass(); len(s.Problems) != 0 || len(s.Peers) != 0 || !slices.Equal(s.PodCIDRs, had) {
				t.Errorf("%s it has %v, has the peers %v, and says %v", when, s.PodCIDRs, s.Peers, s.Problems)
			}
		}
		alone("then")
		m.stop(c)
		c.hearsFirst(h)
		m.start(c)
		time.Sleep(time.Minute)
		alone("after a restart")
		// What it says later is as good as what it said first.
		c.hearsFirst(other.self.claims(t, had...))
		m.within(time.Minute, "it is reported again", func() error {
			if p, ok := c.problem(); !ok || !strings.Contains(p.Message, "node n00 announces") {
				return fmt.Errorf("it says %v", p)
			}
			return nil
		})
	})
}

// One that says that it has the whole range takes nobody's block, closes nobody, and keeps no host that knows the others from
// claiming one: it is reported.
func TestClaimOfTheWholeRange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newClaimers(t, 3, "10.32.0.0/12")
		hosts := m.all[1:]
		m.start(hosts...)
		had := map[string][]netip.Prefix{}
		for _, c := range hosts {
			m.within(30*time.Second, "it has claimed", func() error { _, err := c.has(); return err })
			had[c.self.name], _ = c.has()
		}
		time.Sleep(time.Minute)
		hosts[0].attach()
		wide := m.all[0].self.claims(t, netip.MustParsePrefix("10.32.0.0/12"))
		for _, c := range hosts {
			c.hearsFirst(wide)
		}
		for range 60 {
			time.Sleep(time.Second)
			for _, c := range hosts {
				if now, err := c.has(); err != nil || !slices.Equal(now, had[c.self.name]) {
					t.Fatalf("%s has %v, %v, and had %v", c.self.name, now, err, had[c.self.name])
				}
			}
		}
		if problems := fmt.Sprint(hosts[0].live.Status(t.Context()).Problems); !strings.Contains(problems, "don't fit: 10.32.0.0/12 of node n00") {
			t.Errorf("it isn't among %s", problems)
		}
		m.stop(hosts[1])
		hosts[1].reboot()
		hosts[1].hearsFirst(wide)
		m.start(hosts[1])
		m.within(15*time.Second, "it has its block again after a reboot", func() error {
			if now, err := hosts[1].has(); err != nil || !slices.Equal(now, had["n02"]) {
				return fmt.Errorf("it has %v, %v, and had %v", now, err, had["n02"])
			}
			return nil
		})
	})
}

// As long as pods can still be attached, since what closes the node fails, its claim isn't given up.
func TestClaimStaysWhileOpen(t *testing.T) {
	t.Parallel()
	for _, fails := range []string{"observe", "attach"} {
		t.Run(fails, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, other, c, had := settledAlone(t, "10.32.0.0/12")
				failing := func(err error) {
					c.kernel.mu.Lock()
					c.kernel.fail[fails] = err
					c.kernel.mu.Unlock()
				}
				failing(errBroken)
				c.hearsFirst(other.self.claims(t, had...))
				for range 60 {
					time.Sleep(time.Second)
					if now := c.live.Status(t.Context()).PodCIDRs; !slices.Equal(now, had) || !c.kernel.open() {
						t.Fatalf("it has %v, and had %v; it is open: %t", now, had, c.kernel.open())
					}
				}
				failing(nil)
				closed := m.within(30*time.Second, "it is closed", func() error {
					if c.kernel.open() {
						return errBroken
					}
					return nil
				})
				for range 15 { // what is under way ends
					time.Sleep(100 * time.Millisecond)
					if now := c.live.Status(t.Context()).PodCIDRs; !slices.Equal(now, had) {
						t.Fatalf("it has %v at once, and had %v", now, had)
					}
				}
				m.within(10*time.Second, "it has another one", func() error {
					now, err := c.has()
					if err == nil && slices.Equal(now, had) {
						err = errors.New("it has the same")
					}
					return err
				})
				t.Logf("it was closed after %s", closed)
			})
		})
	}
}
