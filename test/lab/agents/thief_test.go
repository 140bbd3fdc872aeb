package agents_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/internal/stolen"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// saysWithin is how soon the others say that somebody speaks for another.
const saysWithin = 5 * time.Second

// robbed is a mesh of three. The identity of the last one and the gossip key are stolen.
type robbed struct {
	*agents.Mesh
	*stolen.Node
	victim, lair *agents.Node
	up           time.Time // when all had heard of all
	before       string    // the picture before the thief came
}

func rob(t *testing.T) *robbed {
	t.Helper()
	m := agents.Up(t, 3)
	up := time.Now()
	lair := m.Nodes[2]
	store := lair.MustRun(t, "cat", "/var/lib/weaveguard/"+keys.FileName)
	return &robbed{Mesh: m, Node: stolen.Take(t, lair.Name, lair.Addr4, []byte(store)), victim: m.Nodes[1], lair: lair, up: up}
}

// member joins the gossip from the thief's host, and says that it is at another address, if that is valid.
func (r *robbed) member(t *testing.T, claimed netip.Addr, name string, meta []byte) *lab.Process {
	t.Helper()
	return r.join(t, r.Member(r.keyFile(), r.witnesses(), claimed, name, meta))
}

// accomplice joins the gossip from the thief's host, and hands on a record as a node's.
func (r *robbed) accomplice(t *testing.T, node string, record []byte) *lab.Process {
	t.Helper()
	return r.join(t, r.Accomplice(r.keyFile(), r.witnesses(), node, record))
}

func (r *robbed) keyFile() string { return filepath.Join(r.Lab.Dir(), "gossip.key") }

func (r *robbed) join(t *testing.T, args []string) *lab.Process {
	t.Helper()
	p := r.lair.MustStart(t, lab.Command{Path: lab.Build(t, "./test/thief"), Args: args})
	lab.Eventually(t, 20*time.Second, "the thief has joined", func() error {
		if !strings.Contains(p.Log(), "\n") {
			return fmt.Errorf("it prints %q", p.Log())
		}
		return nil
	})
	return p
}

// overhear is what a node announces now, and its member's name.
func (r *robbed) overhear(t *testing.T, node string) (member string, newest []byte) {
	t.Helper()
	p := r.member(t, netip.Addr{}, "spy", nil)
	defer func() { _ = p.Kill() }()
	lab.Eventually(t, 20*time.Second, node+" is overheard", func() (err error) {
		member, newest, err = stolen.Heard(p.Log(), node)
		return err
	})
	return member, newest
}

// picture is what the nodes send where: routes, and the peers with their keys, endpoints and addresses.
func (r *robbed) picture(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, n := range r.Nodes[:2] {
		fmt.Fprintf(&b, "%s\n%s", n.Name, n.MustRun(t, "ip", "route", "show", "table", "all", "proto", "213"))
		b.WriteString(n.MustRun(t, "ip", "-4", "addr", "show", "dev", "weave"))
		devices := strings.Fields(n.MustRun(t, "wg", "show", "interfaces"))
		slices.Sort(devices)
		for _, device := range devices { // "wg show all endpoints" names the device for its first peer only
			for _, what := range []string{"peers", "allowed-ips", "endpoints"} {
				fmt.Fprintf(&b, "%s %s %s\n", device, what, sorted(n.MustRun(t, "wg", "show", device, what))) // they come in no order
			}
		}
	}
	return b.String()
}

// theft is what the thief says for others.
type theft struct {
	what    string
	claimed netip.Addr // where it says that it is; invalid: where it is
	name    string     // of a node, or of a member
	handed  bool       // nobody announces it: it is handed on
	record  []byte
	says    [2][]string   // on the first node, and on the victim; nil: it needn't see it
	after   time.Duration // the victim says nothing about it until its agent is so old: seen in full only
}

// try has the thief say it, and shows that nothing changes by it, and that others say so within five seconds.
func (r *robbed) try(t *testing.T, th theft) {
	t.Helper()
	var p *lab.Process
	if th.handed {
		p = r.accomplice(t, th.name, th.record)
	} else {
		p = r.member(t, th.claimed, th.name, th.record)
	}
	joined := time.Now()
	for i, n := range r.Nodes[:2] {
		late := n == r.victim && th.after > 0
		if th.says[i] == nil || late && !full.Wanted() {
			continue
		}
		within := saysWithin - time.Since(joined)
		if late {
			within = max(within, th.after+saysWithin-time.Since(r.started(t, n)))
		}
		lab.Eventually(t, within, fmt.Sprintf("%s: %s says %q", th.what, n.Name, th.says[i]), func() error {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, problem := range s.Problems {
				if containsAll(problem.String(), th.says[i]) && problem.Remedy != "" {
					return nil
				}
			}
			return fmt.Errorf("its problems are %v", s.Problems)
		})
		t.Logf("%s: %s says so %.1f s after the thief had joined", th.what, n.Name, time.Since(joined).Seconds())
		r.blamesNobody(t, n)
	}
	r.same(t, th.what)
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	r.keepsItsPlace(t, th.what)
	r.same(t, th.what+", once the thief is gone")
}

// same fails the test if the picture isn't what it was.
func (r *robbed) same(t *testing.T, what string) {
	t.Helper()
	if after := r.picture(t); after != r.before {
		t.Errorf("%s changed something: it was\n%s\nand is\n%s", what, r.before, after)
		r.before = after
	}
}

// blamesNobody fails the test if a node names a host as more than what a member says of itself.
func (r *robbed) blamesNobody(t *testing.T, n *agents.Node) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Problems {
		for _, host := range r.Nodes {
			for _, text := range []string{p.Message, p.Remedy} {
				before, _, named := strings.Cut(text, host.Addr4.String())
				if named && !strings.Contains(before, "says it is at") && !strings.Contains(before, "say they are at") {
					t.Errorf("%s blames %s: %v", n.Name, host.Name, p)
				}
			}
		}
	}
}

// keepsItsPlace waits until the first node and the victim are members for each other.
func (r *robbed) keepsItsPlace(t *testing.T, what string) {
	t.Helper()
	for i, n := range r.Nodes[:2] {
		other := r.Nodes[1-i].Name
		lab.Eventually(t, 20*time.Second, fmt.Sprintf("%s: %s is a member to %s", what, other, n.Name), func() error {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, p := range s.Peers {
				if p.Node == other && p.Gossip && p.Up {
					return nil
				}
			}
			return fmt.Errorf("its peers are %+v", s.Peers)
		})
	}
}

// started is when a node's agent started.
func (r *robbed) started(t *testing.T, n *agents.Node) time.Time {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Started
}

// rotate gives the victim another key, and waits until the first node has none of the old one.
func (r *robbed) rotate(t *testing.T) {
	t.Helper()
	old := strings.TrimSpace(r.victim.MustRun(t, "wg", "show", contract.DeviceName(0), "public-key"))
	r.victim.Rotate(t)
	r.victim.AwaitKey(t, 1, rotationDeadline)
	lab.Eventually(t, 5*time.Second, "the first node has heard that the old key is gone", func() error {
		if out := r.Nodes[0].MustRun(t, "wg", "show", "all", "peers"); strings.Contains(out, old) {
			return fmt.Errorf("wg shows\n%s", out)
		}
		return nil
	})
}

// Somebody has the gossip key and one node's identity. Whatever it says for others, nothing changes on any other node,
// and each says what is said, within five seconds.
func TestThief(t *testing.T) {
	t.Parallel() // it mostly waits
	r := rob(t)
	_, first := r.overhear(t, r.victim.Name)
	f := flow(t, r.Nodes[0].AddPod(t, "pod"), r.victim.AddPod(t, "pod"), "not for thieves")
	r.rotate(t)
	var member string
	var now []byte
	lab.Eventually(t, 20*time.Second, "the victim announces a record with its new key alone", func() error {
		member, now = r.overhear(t, r.victim.Name)
		said, err := record.Open(r.victim.Name, now)
		if err == nil && (len(said.Generations) != 1 || said.Generations[0].Number == 0) {
			err = fmt.Errorf("it has the keys %v", said.Generations)
		}
		return err
	})
	if err := r.lair.Agent.Kill(); err != nil { // in the thief's hands
		t.Fatal(err)
	}
	r.settled(t)
	r.before = r.picture(t)
	for _, th := range r.thefts(t, first, now, member) {
		r.try(t, th)
	}
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
	lab.Eventually(t, 3*time.Minute, "nothing is said any more once the thief is gone, but for what was handed on", func() error {
		for _, n := range r.Nodes[:2] {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, p := range s.Problems {
				if !strings.Contains(p.Message, handedOn) { // that is said for two minutes
					return fmt.Errorf("%s says: %v", n.Name, p)
				}
			}
		}
		return nil
	})
}

// witnesses are the addresses of the two nodes that aren't stolen.
func (r *robbed) witnesses() []netip.Addr { return []netip.Addr{r.Nodes[0].Addr4, r.Nodes[1].Addr4} }

// settled waits until the pod CIDRs have counted for so long that nobody takes them over. Nothing but the clock tells that;
// of the ten seconds most have gone by with other things.
func (r *robbed) settled(t *testing.T) {
	t.Helper()
	const settle = 10*time.Second + time.Second
	lab.Eventually(t, settle, "the pod CIDRs are settled", func() error {
		if age := time.Since(r.up); age < settle {
			return fmt.Errorf("they have counted for %s", age)
		}
		return nil
	})
}

// handedOn is how agents say that nobody announces what they tell of.
const handedOn = "handed on by other nodes"

// thefts are all that is tried: with an old record of the victim, its newest, and its member's name. What takes most time
// comes last, when it has gone by: in an agent's first minute its own name at its own address may be left from an earlier
// start.
func (r *robbed) thefts(t *testing.T, first, now []byte, member string) []theft {
	t.Helper()
	const lingering = time.Minute
	name, there, here := r.victim.Name, r.victim.Addr4, netip.Addr{}
	at, claimed := r.lair.Addr4.String(), there.String()
	had := "node " + name + " had"
	return []theft{
		{"another's name, handed on", here, name, true, r.Sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, handedOn, "another identity than before"}, {"node " + name, handedOn, "too"}}, 0},
		{"another's name over its own record, handed on", here, name, true, r.Sign(t, r.lair.Name, r.lair.CIDR),
			[2][]string{{"node " + name, handedOn, "wrong signature"}, {"node " + name, handedOn, "wrong signature"}}, 0},
		{"another's CIDR, handed on", here, r.lair.Name, true, r.Sign(t, r.lair.Name, r.victim.CIDR),
			[2][]string{{"node " + r.lair.Name, handedOn, had}, {"node " + r.lair.Name, handedOn, had}}, 0},
		{"another's name", here, name, false, r.Sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, at, "another identity than before"}, {"node " + name, at, "too"}}, 0},
		{"another's name over its own record", here, name, false, r.Sign(t, r.lair.Name, r.lair.CIDR),
			[2][]string{{"node " + name, at, "wrong signature"}, {"node " + name, at, "wrong signature"}}, 0},
		{"another's CIDR", here, r.lair.Name, false, r.Sign(t, r.lair.Name, r.victim.CIDR),
			[2][]string{{"node " + r.lair.Name, r.victim.CIDR.String(), had}, {"node " + r.lair.Name, had}}, 0},
		{"an old record", here, name, false, first,
			[2][]string{{"node " + name, at, "an old record"}, {"node " + name, at, "this node made itself"}}, 0},
		{"a replay", here, name, false, now,
			[2][]string{{"node " + name, at, "a copy"}, {"node " + name, at, "this node made itself"}}, 0},
		{"another's CIDR, at the victim's address", there, r.lair.Name, false, r.Sign(t, r.lair.Name, r.victim.CIDR),
			[2][]string{{"node " + r.lair.Name, claimed, had}, {"node " + r.lair.Name, claimed, had}}, 0},
		{"the victim's name over its own record, at the victim's address", there, name, false, r.Sign(t, r.lair.Name, r.lair.CIDR),
			[2][]string{{"node " + name, claimed, "wrong signature"}, {"node " + name, claimed, "wrong signature"}}, 0},
		{"the victim's member, at the victim's address", there, member, false, r.Sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, claimed, "another identity than before"}, nil}, 0},
		{"the victim's name, at the victim's address", there, name, false, r.Sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, claimed, "another identity than before"}, {"node " + name, claimed, "too"}}, lingering},
	}
}

func containsAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
