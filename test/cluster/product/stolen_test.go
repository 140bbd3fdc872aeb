package product_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/internal/stolen"
	"github.com/weaveguard/weaveguard/test/output"
)

// saysWithin is how soon the others say that somebody speaks for another.
const saysWithin = 5 * time.Second

// silentWithin is how long gossip may take to see that members that were killed are dead.
const silentWithin = 3 * time.Minute

// burglary is a node in a thief's hands: its agent is dead, its identity and the gossip key are stolen.
type burglary struct {
	*world
	*stolen.Node
	program, keyFile string
}

// testStolenGossip says with a stolen node's credentials what only other nodes may say. Nothing changes on any of them, and
// each says who speaks.
func (w *world) testStolenGossip(t *testing.T) {
	first, victim, lair := w.nodes[0], w.nodes[1], w.nodes[2]
	b := w.breakIn(t, lair)
	old := b.overhear(t, victim)
	generation := w.mustNodeKey(t, victim).generation
	w.annotate(t, victim, "now")
	w.awaitKey(t, victim, generation+1)
	var now []byte
	w.eventually(t, victim+" announces a new record", func(context.Context) error {
		if now = b.overhear(t, victim); bytes.Equal(now, old) {
			return errors.New("it is the old one")
		}
		return nil
	})
	w.awaitWG(t)
	key, err := keys.ParsePublicKey(w.mustNodeKey(t, victim).publicKey)
	if err != nil {
		t.Fatal(err)
	}
	resume := w.endAgent(t, lair)
	w.awaitSilent(t, []string{first, victim}, lair)
	running := w.startTraffic(t, pod1, pod2)
	before := w.picture(t, first, victim)
	at := w.address[lair].String()
	for _, theft := range []struct {
		what   string
		node   string
		handed bool // nobody announces it: it is handed on
		record []byte
		says   [2]string // on the first node, and on the victim
	}{
		{"another's name, handed on", victim, true, b.Sign(t, victim, w.pods[victim]), [2]string{"another identity than its Node's annotation", "too"}},
		{"another's name", victim, false, b.Sign(t, victim, w.pods[victim]), [2]string{"another identity than its Node's annotation", "too"}},
		{"another's CIDR", lair, false, b.Sign(t, lair, w.pods[victim]), [2]string{"and its Node has", "and its Node has"}},
		{"another's key", lair, false, b.SignKey(t, lair, w.pods[lair], key), [2]string{"key of node " + victim, "key of node " + victim}},
		{"an old record", victim, false, old, [2]string{"an old record", "this node made itself"}},
		{"a replay", victim, false, now, [2]string{"a copy", "this node made itself"}},
	} {
		t.Run(theft.what, func(t *testing.T) {
			say, by := b.announce, at
			if theft.handed {
				say, by = b.handOn, "handed on by other nodes"
			}
			end := say(t, theft.node, theft.record)
			joined := time.Now()
			for i, node := range []string{first, victim} {
				words := []string{"node " + theft.node, by, theft.says[i]}
				if err := cluster.Poll(t.Context(), saysWithin-time.Since(joined), fmt.Sprintf("%s says %q", node, words), func(ctx context.Context) error {
					return w.saysProblem(ctx, node, words)
				}); err != nil {
					t.Error(err)
				}
			}
			t.Logf("both say so %.1f s after the thief had joined", time.Since(joined).Seconds())
			if after := w.picture(t, first, victim); after != before {
				t.Errorf("something changed: it was\n%s\nand is\n%s", before, after)
			}
			end()
			if after := w.picture(t, first, victim); after != before {
				t.Errorf("something changed once the thief was gone: it was\n%s\nand is\n%s", before, after)
			}
		})
	}
	w.describes(t, victim, "Warning", kube.ReasonRecordRefused, at)
	w.describes(t, lair, "Warning", kube.ReasonRecordRefused, at)
	running.goOn(t, w, 1)
	running.stop(t)
	// As the operator is told to do: what the thief said as this node counts for nobody under another identity.
	w.on(t, lair, "sh", "-c", "rm -rf "+contract.StateDir+"/*")
	if err := resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitMesh(t)
	if err := w.WaitNodesReady(t.Context(), lair); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Poll(t.Context(), silentWithin, "nothing is said any more once the thief is gone", func(ctx context.Context) error {
		for _, node := range w.nodes {
			s, err := w.status(ctx, node)
			if err != nil {
				return err
			}
			for _, p := range s.Problems {
				if strings.Contains(p.Message, at) {
					return fmt.Errorf("%s says: %v", node, p)
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// breakIn steals a node's identity, and the gossip key.
func (w *world) breakIn(t *testing.T, node string) *burglary {
	t.Helper()
	secret, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), kube.SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &burglary{world: w, program: buildProgram(t, "./test/thief"), keyFile: filepath.Join(t.TempDir(), "gossip.key")}
	if err := os.WriteFile(b.keyFile, secret.Data[kube.SecretKey], 0o600); err != nil {
		t.Fatal(err)
	}
	b.Node = stolen.Take(t, node, w.address[node], []byte(w.on(t, node, "cat", contract.StateDir+"/"+keys.FileName)))
	return b
}

// join has the thief be a member of the gossip, from the stolen node, by arguments of its command.
func (b *burglary) join(t *testing.T, args []string) (said *output.Buffer, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd, err := b.Command(ctx, b.Name, append([]string{b.program}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	said = &output.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(end)
	b.eventually(t, "the thief has joined", func(context.Context) error {
		if !strings.Contains(said.String(), "\n") {
			return fmt.Errorf("it prints %q", said)
		}
		return nil
	})
	return said, end
}

// overhear is what a node announces now.
func (b *burglary) overhear(t *testing.T, node string) (newest []byte) {
	t.Helper()
	said, end := b.join(t, b.member("spy", nil))
	defer end()
	b.eventually(t, node+" is overheard", func(context.Context) (err error) {
		_, newest, err = stolen.Heard(said.String(), node)
		return err
	})
	return newest
}

// announce has the thief announce a record in a node's name.
func (b *burglary) announce(t *testing.T, node string, record []byte) (end func()) {
	t.Helper()
	_, end = b.join(t, b.member(node, record))
	return end
}

// handOn has the thief hand on a record in a node's name, which nobody announces.
func (b *burglary) handOn(t *testing.T, node string, record []byte) (end func()) {
	t.Helper()
	_, end = b.join(t, b.Accomplice(b.keyFile, b.witnesses(), node, record))
	return end
}

// witnesses are the addresses of two nodes that aren't stolen.
func (b *burglary) witnesses() []netip.Addr {
	return []netip.Addr{b.address[b.nodes[0]], b.address[b.nodes[1]]}
}

func (b *burglary) member(name string, meta []byte) []string {
	return b.Member(b.keyFile, b.witnesses(), netip.Addr{}, name, meta)
}

// picture is what nodes send where: their routes, and their peers with keys, endpoints and addresses.
func (w *world) picture(t *testing.T, nodes ...string) string {
	t.Helper()
	var all strings.Builder
	for _, node := range nodes {
		fmt.Fprintf(&all, "%s\n%s%s", node, w.on(t, node, "ip", "route", "show", "table", "all", "proto", "213"),
			w.on(t, node, "ip", "address", "show", "dev", contract.BridgeName))
		for _, p := range w.mustWG(t, node).peers {
			fmt.Fprintf(&all, "%s: peer %s at %s for %s\n", p.device, p.publicKey, p.endpoint, p.allowedIPs)
		}
	}
	return all.String()
}
