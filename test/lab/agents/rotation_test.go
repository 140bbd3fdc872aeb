package agents_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// rotationDeadline is how long a rotation may take on a machine that has other things to do.
const rotationDeadline = 2 * time.Minute

// inARow is how many rotations follow each other.
func inARow() int {
	switch {
	case full.Wanted():
		return 10
	case emulated():
		return 2
	}
	return 3
}

// shortened reports whether this is an emulated machine, on which each rotation takes long, and the tests don't run in full.
func shortened() bool { return emulated() && !full.Wanted() }

// Keys change under traffic, and nothing is lost: by one node, by all at once, again and again, with agents that are
// killed at each step, that are away, and that join.
func TestRotation(t *testing.T) {
	m := agents.Up(t, 3)
	r := &rotations{Mesh: m, pods: podsOn(t, m.Nodes, "pod")}
	t.Run("one node rotates again and again", r.testOneAgain)
	t.Run("all nodes rotate again and again", r.testAllAgain)
	t.Run("the agent is killed at each step", func(t *testing.T) { r.testKill(t, m.Nodes[0]) })
	t.Run("a peer's agent is killed at each step", func(t *testing.T) { r.testKill(t, m.Nodes[1]) })
	t.Run("peers hold it up", r.testHeldUp)
	t.Run("a node joins in the middle", r.testJoin)
}

// rotations is a mesh whose keys change, with a pod on each node.
type rotations struct {
	*agents.Mesh
	pods []*agents.Pod
}

// under runs what changes keys under traffic.
func (r *rotations) under(t *testing.T, l load, change func(t *testing.T)) {
	t.Helper()
	traffic := startTraffic(t, r.pods, l)
	change(t)
	traffic.stop(t)
	r.wgAgrees(t)
}

// wgAgrees checks with wg(8) that each node has one key, all peers by theirs, and nothing else.
func (r *rotations) wgAgrees(t *testing.T) {
	t.Helper()
	for _, n := range r.Nodes {
		var want []string
		for _, other := range r.Nodes {
			if other != n {
				want = append(want, r.status(t, other).Generations[0].PublicKey.String())
			}
		}
		var peers []string
		lab.Eventually(t, 10*time.Second, n.Name+" has its peers by their keys, and no others", func() error {
			peers = nil
			for line := range strings.Lines(n.MustRun(t, "wg", "show", "all", "peers")) {
				peers = append(peers, strings.Fields(line)[1])
			}
			slices.Sort(peers)
			slices.Sort(want)
			if !slices.Equal(peers, want) {
				return fmt.Errorf("wg shows %v, want %v", peers, want)
			}
			return nil
		})
	}
}

func (r *rotations) status(t *testing.T, n *agents.Node) view.Status {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rotate asks a node for a new key, and waits until it has it alone.
func (r *rotations) rotate(t *testing.T, n *agents.Node) {
	t.Helper()
	before := n.Newest(t)
	answer := n.Rotate(t)
	if answer != (view.RotateAnswer{State: view.RotateStarted, Generation: before + 1}) {
		t.Errorf("asked for a new key, %s says %+v", n.Name, answer)
	}
	took := n.AwaitKey(t, before+1, rotationDeadline)
	t.Logf("%s has generation %d after %.1f s", n.Name, before+1, took.Seconds())
}

// rotateAll asks all nodes at once.
func (r *rotations) rotateAll(t *testing.T) {
	t.Helper()
	begin := time.Now()
	newKeys(t, r.Nodes...)()
	t.Logf("all nodes have a new key after %.1f s", time.Since(begin).Seconds())
}

// newKeys asks nodes at once for a new key. What it returns waits until each has its new key alone.
func newKeys(t *testing.T, nodes ...*agents.Node) (await func()) {
	t.Helper()
	want := map[*agents.Node]uint32{}
	for _, n := range nodes {
		want[n] = n.Newest(t) + 1
	}
	for _, n := range nodes {
		n.Rotate(t)
	}
	return func() {
		t.Helper()
		for n, generation := range want {
			n.AwaitKey(t, generation, rotationDeadline)
		}
	}
}

func (r *rotations) testOneAgain(t *testing.T) {
	r.under(t, heavy(), func(t *testing.T) {
		for range inARow() {
			r.rotate(t, r.Nodes[1])
		}
	})
}

func (r *rotations) testAllAgain(t *testing.T) {
	r.under(t, heavy(), func(t *testing.T) {
		for range inARow() {
			r.rotateAll(t)
		}
	})
}

// steps are the phases of a rotation at which agents are killed.
func steps() []string {
	if shortened() {
		return []string{"establishing", "draining"}
	}
	return []string{"preparing", "establishing", "switching", "draining", "idle"}
}

// testKill kills the agent of a node at each step of the first node's rotations, and starts it again.
func (r *rotations) testKill(t *testing.T, victim *agents.Node) {
	r.under(t, light(), func(t *testing.T) {
		for _, step := range steps() {
			for attempt := 1; !r.killAt(t, victim, step); attempt++ {
				if attempt == 20 {
					t.Fatalf("the rotation was never seen at %s for long enough to kill an agent then", step)
				}
			}
		}
	})
}

// killAt rotates the first node's key, kills the victim's agent when that is at a step, starts it again, and waits for
// the end. It reports whether the step was hit: it may be over too soon.
func (r *rotations) killAt(t *testing.T, victim *agents.Node, step string) (hit bool) {
	t.Helper()
	n := r.Nodes[0]
	before := n.Newest(t)
	n.Rotate(t)
	for deadline := time.Now().Add(rotationDeadline); ; {
		if time.Now().After(deadline) {
			t.Fatalf("the rotation isn't over within %s", rotationDeadline)
		}
		s := r.status(t, n)
		rotated := len(s.Generations) == 1 && s.Generations[0].Number == before+1
		if s.Rotation.Phase == step && (step != "idle" || rotated) {
			hit = true
			break
		}
		if rotated {
			break
		}
	}
	if hit {
		if err := victim.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		f := n.Keys(t)
		t.Logf("%s was killed at %s, when %s had %d keys, announced: %t", victim.Name, step, n.Name, len(f.Generations), f.Announced)
		hit = (len(f.Generations) == 1) == (step == "idle") && f.Announced != (step == "preparing") // else it was too late
		victim.StartAgent(t)
	}
	n.AwaitKey(t, before+1, rotationDeadline)
	r.WaitUp(t, time.Minute)
	return hit
}

// As long as the tunnels of a peer carry traffic, the old key stays: whether its agent is away, or a firewall lets the
// first port through only. The status says who it is, and whose port.
func (r *rotations) testHeldUp(t *testing.T) {
	n, behind, away := r.Nodes[0], r.Nodes[1], r.Nodes[2]
	before := n.Newest(t)
	r.under(t, light(), func(t *testing.T) {
		if err := away.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		// The ports of the link between the next key and the peer's.
		near := contract.BasePort + 2*((before+1)%2) + behind.Newest(t)%2
		far := contract.BasePort + 2*(behind.Newest(t)%2) + (before+1)%2
		heal, err := r.Lab.BlockUDPBetween(n.Host, behind.Host, uint16(far))
		if err != nil {
			t.Fatal(err)
		}
		n.Rotate(t)
		says(t, n, "rotation", behind.Name, fmt.Sprintf("UDP port %d", far), fmt.Sprintf("port %d this node", near), "--force")
		says(t, n, "rotation", away.Name, "its agent", "--force")
		s := r.status(t, n)
		w := s.Rotation.Waiting
		if len(s.Generations) != 2 || len(w) != 2 || w[0].Node != behind.Name || w[0].Port != uint16(far) || w[1].Node != away.Name {
			t.Errorf("held up by two peers: keys %v, waiting for %+v", s.Generations, w)
		}
		away.StartAgent(t)
		if err := heal(); err != nil {
			t.Fatal(err)
		}
		n.AwaitKey(t, before+1, rotationDeadline)
	})
}

// A node joins while another rotates, which is asked for more meanwhile: that is queued once.
func (r *rotations) testJoin(t *testing.T) {
	n := r.Nodes[0]
	before := n.Newest(t)
	r.under(t, light(), func(t *testing.T) {
		n.Rotate(t)
		lab.Eventually(t, rotationDeadline, "the rotation is under way", func() error {
			if phase := r.status(t, n).Rotation.Phase; phase == "idle" {
				return errors.New("it is idle")
			}
			return nil
		})
		for i, want := range []string{view.RotateQueued, view.RotateAlreadyQueued, view.RotateAlreadyQueued} {
			if got := n.Rotate(t); got != (view.RotateAnswer{State: want, Generation: before + 2}) {
				t.Errorf("request %d while one is under way: %+v, want %s", i+1, got, want)
			}
		}
		r.Join(t)
		n.AwaitKey(t, before+2, rotationDeadline)
		r.WaitUp(t, time.Minute)
	})
	if newest := n.Newest(t); newest != before+2 {
		t.Errorf("three more requests made %d rotations more, want 1", newest-before-1)
	}
}
