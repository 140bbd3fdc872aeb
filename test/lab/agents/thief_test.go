package agents_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// saysWithin is how soon the others say that somebody speaks for another.
const saysWithin = 5 * time.Second

// mouthpiece is a member of the gossip that says what it likes, and writes down what others say.
type mouthpiece struct{ meta []byte }

func (r *mouthpiece) NodeMeta(int) []byte             { return r.meta }
func (r *mouthpiece) NotifyMsg([]byte)                {}
func (r *mouthpiece) GetBroadcasts(int, int) [][]byte { return nil }
func (r *mouthpiece) LocalState(bool) []byte          { return nil }
func (r *mouthpiece) MergeRemoteState([]byte, bool)   {}

// thiefMain is a thief until it is killed: file with the gossip key, address and port of its own, somebody's address,
// member name, and in base64 what it announces. It prints the members that it sees, again and again.
func thiefMain(args []string) int {
	if err := beThief(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func beThief(args []string) error {
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	ring, err := keys.ParseKeyring(text)
	if err != nil {
		return err
	}
	own, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	meta, err := base64.StdEncoding.DecodeString(args[4])
	if err != nil {
		return err
	}
	c := memberlist.DefaultLANConfig()
	c.Name, c.SecretKey, c.Delegate = args[3], ring[0], &mouthpiece{meta}
	c.BindAddr, c.BindPort = own.Addr().String(), int(own.Port())
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.Logger = log.New(io.Discard, "", 0)
	list, err := memberlist.Create(c)
	if err != nil {
		return err
	}
	if _, err := list.Join([]string{args[2]}); err != nil {
		return err
	}
	for {
		if err := json.NewEncoder(os.Stdout).Encode(list.Members()); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// robbed is a mesh of three, the last of which is in a thief's hands: its agent is dead, its identity and the gossip key
// are stolen.
type robbed struct {
	*agents.Mesh
	victim, lair *agents.Node
	identity     keys.Identity // the lair's
	sequence     uint64
	members      int
}

func rob(t *testing.T) *robbed {
	t.Helper()
	m := agents.Up(t, 3)
	time.Sleep(11 * time.Second) // whose pod CIDRs are whose is settled after ten
	r := &robbed{Mesh: m, victim: m.Nodes[1], lair: m.Nodes[2], sequence: 1 << 50}
	if err := r.lair.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := r.lair.MustRun(t, "cat", "/var/lib/weaveguard/"+keys.FileName)
	if err := os.WriteFile(filepath.Join(dir, keys.FileName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	r.identity = store.Identity()
	return r
}

// member joins the gossip from the thief's host.
func (r *robbed) member(t *testing.T, node string, meta []byte) *lab.Process {
	t.Helper()
	r.members++
	own := netip.AddrPortFrom(r.lair.Addr4, uint16(view.GossipPort+10+r.members))
	p := r.lair.MustStart(t, lab.Command{Helper: "thief", Args: []string{
		filepath.Join(r.Lab.Dir(), "gossip.key"), own.String(), netip.AddrPortFrom(r.Nodes[0].Addr4, view.GossipPort).String(),
		fmt.Sprintf("%s/%016x", node, r.members), base64.StdEncoding.EncodeToString(meta),
	}})
	lab.Eventually(t, 20*time.Second, "the thief has joined", func() error {
		if !strings.Contains(p.Log(), "\n") {
			return fmt.Errorf("it prints %q", p.Log())
		}
		return nil
	})
	return p
}

// overhear is what a node announces now.
func (r *robbed) overhear(t *testing.T, node string) []byte {
	t.Helper()
	p := r.member(t, "spy", nil)
	defer func() { _ = p.Kill() }()
	var newest []byte
	lab.Eventually(t, 20*time.Second, node+" is overheard", func() error {
		lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
		var members []struct {
			Name string
			Meta []byte
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &members); err != nil {
			return err // it is being written
		}
		var sequence uint64
		for _, m := range members {
			if name, _, _ := strings.Cut(m.Name, "/"); name != node {
				continue
			}
			if record, err := record.Open(node, m.Meta); err == nil && record.Sequence >= sequence {
				newest, sequence = m.Meta, record.Sequence
			}
		}
		if newest == nil {
			return fmt.Errorf("nobody says a word as %s: %v", node, members)
		}
		return nil
	})
	return newest
}

// sign is a record under a name, by the identity that the thief has, with a pod CIDR.
func (r *robbed) sign(t *testing.T, node string, cidr netip.Prefix) []byte {
	t.Helper()
	r.sequence++
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := record.Sign(node, record.Record{
		Identity: r.identity.Public(), Sequence: r.sequence, Generations: []record.Generation{{Number: 7, Key: keys.PublicKey(private.PublicKey())}},
		Endpoint4: netip.AddrPortFrom(r.lair.Addr4, view.BasePort), PodCIDR4: cidr,
	}, r.identity)
	if err != nil {
		t.Fatal(err)
	}
	return raw
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
		{"another's name", name, r.sign(t, name, r.victim.CIDR),
			[2][]string{{"node " + name, at, "another identity than before"}, {"node " + name, at, "too"}}},
		{"another's name over its own record", name, r.sign(t, r.lair.Name, r.lair.CIDR),
			[2][]string{{"node " + name, at, "wrong signature"}, {"node " + name, at, "wrong signature"}}},
		{"another's CIDR", r.lair.Name, r.sign(t, r.lair.Name, r.victim.CIDR),
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
