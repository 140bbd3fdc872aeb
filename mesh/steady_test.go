package mesh_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// While the kernel can't be read nothing is changed, and nothing is told that isn't so.
func TestBlindPassKeepsWhatIs(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	a.pass()
	setFault(w.kernel, "observe", errBroken)
	s := a.pass()
	if p := peer(s, "b"); !s.Ready || p == nil || !p.Up || len(s.Problems) != 1 {
		t.Errorf("while the kernel can't be read: %+v", s)
	}
	a.stop()
	if log := w.log.String(); strings.Contains(log, "peer is gone") || strings.Contains(log, "not ready") {
		t.Errorf("the log says what isn't so:\n%s", log)
	}
}

// A peer that gets no session is in the log, once, and again when it is up.
func TestPeerWithoutSessionIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newSpeaker(t, 2, "b")
		w.cluster.set(w.self.node(), b.node())
		w.air.say(b.says(t, nil))
		a := w.start(t)
		time.Sleep(5 * time.Second) // of the bubble's clock
		a.pass()
		synctest.Wait()
		early := strings.Count(w.log.String(), "peer isn't up")
		time.Sleep(time.Minute)
		w.kernel.mu.Lock()
		w.kernel.sessions[b.key()] = time.Now()
		w.kernel.mu.Unlock()
		a.pass()
		a.stop()
		log := w.log.String()
		if late := strings.Count(log, "peer isn't up"); early != 0 || late != 1 || strings.Count(log, "peer is up") != 1 {
			t.Errorf("logged %d times after 5 s and %d times after a minute, want 0 and 1:\n%s", early, late, log)
		}
	})
}

// A new Node gets its pod CIDR after it was made: the log says nothing unless that takes long; the status does at once.
func TestNodeWithoutPodCIDR(t *testing.T) {
	t.Parallel()
	const fault = "level=ERROR msg=\"it has no pod CIDR"
	for _, c := range []struct {
		name  string
		after time.Duration // until it gets its pod CIDR
		want  int           // errors in the log
	}{{"for a moment", time.Second, 0}, {"for long", time.Minute, 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				node := w.self.node()
				node.PodCIDRs = nil
				w.cluster.set(node)
				a := w.start(t)
				if s := a.pass(); len(s.Problems) == 0 || s.Ready {
					t.Errorf("the status doesn't say what is missing: %+v", s)
				}
				time.Sleep(c.after) // of the bubble's clock
				w.cluster.set(w.self.node())
				if s := a.pass(); !s.Ready {
					t.Errorf("it isn't ready with a pod CIDR: %+v", s)
				}
				a.stop()
				log := w.log.String()
				if strings.Count(log, fault) != c.want || strings.Count(log, "no longer: ") != c.want {
					t.Errorf("want the error, and its end, %d times:\n%s", c.want, log)
				}
			})
		})
	}
}

// What Kubernetes says of this node counts in the first pass after it, which may be the last one for long.
func TestOwnNodeChangesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.set(w.self.node())
		a := w.start(t)
		passes(a)
		synctest.Wait()
		before := a.Status(t.Context()).Counters.Reconciles
		node := w.self.node()
		node.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.77.0/24")}
		w.cluster.set(node)
		a.latch.Set()
		synctest.Wait()
		s := a.Status(t.Context())
		if s.Counters.Reconciles != before+1 || !slices.Equal(s.PodCIDRs, node.PodCIDRs) {
			t.Errorf("after %d passes its pod CIDRs are %v, want %v after one", s.Counters.Reconciles-before, s.PodCIDRs, node.PodCIDRs)
		}
	})
}

// The end of the agent is no fault of anything.
func TestEndIsNoProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	over, end := context.WithCancel(t.Context())
	end()
	for range 20 { // the loop may see the latch first, or the end
		w.config.Latch.Set()
		if err := mesh.New(w.config).Run(over); err != nil {
			t.Error(err)
		}
	}
	if len(w.log.String()) > 0 {
		t.Errorf("logged at the end:\n%s", w.log)
	}
}

// The cache is tried again until it is on disk, and so long it is a problem.
func TestCacheIsSavedInTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	dir := filepath.Join(t.TempDir(), "later")
	w.config.CachePath = filepath.Join(dir, "view.json")
	a := w.start(t)
	a.pass()
	if s := a.pass(); len(s.Problems) != 1 || s.Problems[0].Subject != "view cache" {
		t.Errorf("problems are %+v, want the cache's, which isn't on disk", s.Problems)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if s := a.pass(); len(s.Problems) != 0 {
		t.Errorf("problems are %+v, want none any more", s.Problems)
	}
	if r, err := mesh.Recall(w.config.CachePath); err != nil || r.Self.Node != "a" {
		t.Errorf("remembered %+v, %v", r, err)
	}
}

// How many pod CIDRs are known is no news: a mesh that grows would fill the log with it.
func TestGrowingMeshIsNoProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.PodRanges = nil
	nodes := []mesh.ClusterNode{w.self.node()}
	w.cluster.set(nodes...)
	a := w.start(t)
	for i := 2; i < 6; i++ {
		nodes = append(nodes, newSpeaker(t, i, fmt.Sprintf("n%d", i)).node())
		w.cluster.set(nodes...)
		a.pass()
	}
	a.stop()
	if log := w.log.String(); strings.Count(log, "pod ranges") != 1 {
		t.Errorf("the pod ranges are in the log more than once:\n%s", log)
	}
}

func TestStatusHasGenerations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, func(r *record.Record) { r.Generations[0].Number = 7 }))
	if p := peer(w.start(t).pass(), "b"); p == nil || p.Generation != 7 {
		t.Errorf("b in the status is %+v, want its generation 7", p)
	}
}

// A host with a copy of this one's keys answers each of its records with a later one: that mustn't go on for ever.
func TestCopiedKeyStoreMakesNoStorm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	a := w.start(t)
	for range 30 {
		w.air.say(w.self.says(t, nil))
		a.pass()
	}
	if n := w.air.count(); n < 2 || n > 5 {
		t.Errorf("announced %d times, want a few: what others know is above it, again and again", n)
	}
}

// A world that never rests doesn't take a whole processor.
func TestLoopRests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.kernel.slow = 20 * time.Millisecond
	a := w.start(t)
	before, begin := a.pass().Counters.Reconciles, time.Now()
	for time.Since(begin) < 500*time.Millisecond {
		a.latch.Set()
		time.Sleep(time.Millisecond)
	}
	took := time.Since(begin)
	passes := a.Status(t.Context()).Counters.Reconciles - before
	if most := uint64(took/(2*w.kernel.slow)) + 2; passes == 0 || passes > most {
		t.Errorf("%d passes of %s in %s, want at most %d", passes, w.kernel.slow, took, most)
	}
}
