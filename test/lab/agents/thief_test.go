package agents_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/internal/stolen"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// saysWithin is how soon the others say that somebody speaks for another.
const saysWithin = 5 * time.Second

// robbed is a mesh of three, the last of which is in a thief's hands: its agent is dead, its identity and the gossip key
// are stolen.
type robbed struct {
	*agents.Mesh
	*stolen.Node
	victim, lair *agents.Node
}

func rob(t *testing.T) *robbed {
	t.Helper()
	m := agents.Up(t, 3)
	time.Sleep(11 * time.Second) // whose pod CIDRs are whose is settled after ten
	lair := m.Nodes[2]
	if err := lair.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	store := lair.MustRun(t, "cat", "/var/lib/weaveguard/"+keys.FileName)
	return &robbed{Mesh: m, Node: stolen.Take(t, lair.Name, lair.Addr4, []byte(store)), victim: m.Nodes[1], lair: lair}
}

// member joins the gossip from the thief's host.
func (r *robbed) member(t *testing.T, node string, meta []byte) *lab.Process {
	t.Helper()
	p := r.lair.MustStart(t, lab.Command{Path: lab.Build(t, "./test/thief"),
		Args: r.Member(filepath.Join(r.Lab.Dir(), "gossip.key"), r.Nodes[0].Addr4, node, meta)})
	lab.Eventually(t, 20*time.Second, "the thief has joined", func() error {
		if !strings.Contains(p.Log(), "\n") {
			return fmt.Errorf("it prints %q", p.Log())
		}
		return nil
	})
	return p
}

// overhear is what a node announces now.
func (r *robbed) overhear(t *testing.T, node string) (newest []byte) {
	t.Helper()
	p := r.member(t, "spy", nil)
	defer func() { _ = p.Kill() }()
	lab.Eventually(t, 20*time.Second, node+" is overheard", func() (err error) {
		newest, err = stolen.Heard(p.Log(), node)
		return err
	})
	return newest
}

// picture is what the nodes send where: routes, and the peers with their keys, endpoints and addresses.
func (r *robbed) picture(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, n := range r.Nodes[:2] {
		fmt.Fprintf(&b, "%s\n%s", n.Name, n.MustRun(t, "ip", "route", "show", "table", "all", "proto", "213"))
		b.WriteString(n.MustRun(t, "ip", "-4", "addr", "show", "dev", "weave"))
		for _, what := range []string{"peers", "allowed-ips", "endpoints"} {
			lines := strings.Split(n.MustRun(t, "wg", "show", view.DevicePrefix+"0", what), "\n")
			slices.Sort(lines) // they come in no order
			fmt.Fprintf(&b, "%s %s\n", what, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// Somebody has the gossip key and one node's identity. Whatever it says for others, nothing changes on any other node,
// and each says who speaks, within five seconds.
func TestThief(t *testing.T) {
	r := rob(t)
	first := r.overhear(t, r.victim.Name)
	f := flow(t, r.Nodes[0].AddPod(t, "pod"), r.victim.AddPod(t, "pod"), "not for thieves")
	if err := r.victim.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	r.victim.StartAgent(t)
	lab.Eventually(t, time.Minute, "the victim's agent is back", func() error {
		return r.victim.Peers(t.Context(), r.Nodes[0], r.lair)
	})
	var now []byte
	lab.Eventually(t, 20*time.Second, "the victim's new start announces a new record", func() error {
		if now = r.overhear(t, r.victim.Name); string(now) == string(first) {
			return errors.New("it is the old one")
		}
		return nil
	})
	before := r.picture(t)
	at, name := r.lair.Addr4.String(), r.victim.Name
	for _, theft := range []struct {
		what   string
		node   string
		record []byte
		says   [2][]string // on the first node, and on the victim
	}{
		{"another's name", name, r.Sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, at, "another identity than before"}, {"node " + name, at, "too"}}},
		{"another's name over its own record", name, r.Sign(t, r.lair.Name, r.lair.CIDR),
			[2][]string{{"node " + name, at, "wrong signature"}, {"node " + name, at, "wrong signature"}}},
		{"another's CIDR", r.lair.Name, r.Sign(t, r.lair.Name, r.victim.CIDR),
			[2][]string{{"node " + r.lair.Name, r.victim.CIDR.String(), "node " + name + " had"}, {"node " + r.lair.Name, "node " + name + " had"}}},
		{"an old record", name, first,
			[2][]string{{"node " + name, at, "an old record"}, {"node " + name, at, "this node made itself"}}},
		{"a replay", name, now,
			[2][]string{{"node " + name, at, "a copy"}, {"node " + name, at, "this node made itself"}}},
	} {
		began := time.Now()
		p := r.member(t, theft.node, theft.record)
		joined := time.Now()
		for i, n := range r.Nodes[:2] {
			lab.Eventually(t, saysWithin-time.Since(joined), fmt.Sprintf("%s: %s says %q", theft.what, n.Name, theft.says[i]), func() error {
				s, err := n.Status(t.Context())
				if err != nil {
					return err
				}
				for _, problem := range s.Problems {
					if containsAll(problem.String(), theft.says[i]) && problem.Remedy != "" {
						return nil
					}
				}
				return fmt.Errorf("its problems are %v", s.Problems)
			})
		}
		t.Logf("%s: both say so %.1f s after the thief began, %.1f s after it had joined", theft.what,
			time.Since(began).Seconds(), time.Since(joined).Seconds())
		if after := r.picture(t); after != before {
			t.Errorf("%s changed something: it was\n%s\nand is\n%s", theft.what, before, after)
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
	lab.Eventually(t, 3*time.Minute, "nothing is said any more once the thief is gone", func() error {
		for _, n := range r.Nodes[:2] {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			if len(s.Problems) != 0 {
				return fmt.Errorf("%s has the problems %v", n.Name, s.Problems)
			}
		}
		return nil
	})
}

func containsAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
