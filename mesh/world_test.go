package mesh_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/output"
)

// world is an agent named "a" with everything around it faked.
type world struct {
	self    *speaker
	kernel  *kernel
	air     *air
	cluster *cluster
	log     *output.Buffer
	config  mesh.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		self: newSpeaker(t, 1, "a"), kernel: newKernel(), air: &air{}, cluster: &cluster{}, log: &output.Buffer{},
	}
	w.kernel.keyOf = func(generation uint32) keys.PublicKey {
		private, _ := w.self.store.Private(generation)
		return private.Public()
	}
	w.config = mesh.Config{
		Node: "a", GossipAddress: w.self.address(), Bridge: contract.BridgeName, BasePort: contract.BasePort, WireGuard: "kernel",
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, PodRangeSource: "--pod-range",
		CachePath: filepath.Join(t.TempDir(), "view.json"),
		Log:       slog.New(slog.NewTextHandler(w.log, nil)), Latch: mesh.NewLatch(),
		Keys: w.self.store, Gossip: w.air, Cluster: w.cluster, Network: network{w.kernel}, Tunnels: tunnels{w.kernel},
		Firewall: rules{w.kernel}, Attach: files{w.kernel},
	}
	return w
}

// withPeer is a world with a running agent, whose peer b has a session.
func withPeer(t *testing.T) (*world, *live) {
	t.Helper()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	w.kernel.sessions[b.key()] = time.Now()
	return w, w.start(t)
}

// live is a running agent.
type live struct {
	*mesh.Agent
	t     *testing.T
	latch mesh.Latch
	stop  context.CancelFunc
}

func (w *world) start(t *testing.T) *live {
	t.Helper()
	remembered, err := mesh.Recall(w.config.CachePath)
	if err != nil {
		t.Fatal(err)
	}
	w.config.Remembered = remembered
	ctx, cancel := context.WithCancel(context.Background())
	a := mesh.New(w.config)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	l := &live{Agent: a, t: t, latch: w.config.Latch, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the loop ended with: %v", err)
		}
	})}
	t.Cleanup(l.stop)
	l.pass()
	return l
}

// pass lets the loop run at least once more, from start to end.
func (l *live) pass() view.Status {
	l.t.Helper()
	before := l.Status(l.t.Context()).Counters.Reconciles
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		l.latch.Set()
		if s := l.Status(l.t.Context()); s.Counters.Reconciles >= before+2 {
			return s
		}
		time.Sleep(time.Millisecond)
	}
	l.t.Fatal("the loop didn't run within 10 s")
	return view.Status{}
}

var errBroken = errors.New("broken on purpose")
