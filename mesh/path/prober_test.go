package path

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// world is what lies between a prober and its peers.
type world struct {
	*Prober
	trip    time.Duration // there and back
	changes int

	mu      sync.Mutex         // guards what follows
	carries map[netip.Addr]int // absent: nobody answers
	probes  int
}

// set makes paths carry packets of so many bytes.
func (w *world) set(carries mtus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.carries, carries)
}

// count is how many probes were sent since it was asked last.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.probes
	w.probes = 0
	return n
}

// newWorld starts a prober. Call it in a bubble of synctest.
func newWorld(t *testing.T) *world {
	w := &world{carries: map[netip.Addr]int{}, trip: 2 * time.Millisecond}
	w.Prober = New(Config{Send: w.send, Changed: func() { w.changes++ }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) send(to netip.Addr, size int, id uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes++
	if size > 1500 {
		return errors.New("message too long")
	}
	if size <= w.carries[to] {
		time.AfterFunc(w.trip, func() { w.Answered(id) })
	}
	return nil
}

// waited is how many answers are waited for.
func (w *world) waited() int {
	w.Prober.mu.Lock()
	defer w.Prober.mu.Unlock()
	return len(w.sent)
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

// narrow are the paths that carry less than 1488 bytes, which none of these tests limits one to.
func (w *world) narrow() map[netip.Addr]int {
	found := w.MTUs()
	maps.DeleteFunc(found, func(_ netip.Addr, mtu int) bool { return mtu >= 1488 })
	return found
}

func (w *world) want(t *testing.T, when string, want map[netip.Addr]int) {
	t.Helper()
	if got := w.narrow(); !maps.Equal(got, want) {
		t.Errorf("%s the paths carry %v, want %v", when, got, want)
	}
}

var (
	near = netip.MustParseAddr("192.0.2.2")
	far  = netip.MustParseAddr("192.0.2.3")
	six  = netip.MustParseAddr("2001:db8::2")
)

type mtus = map[netip.Addr]int

func TestProberFollowsPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(mtus{near: 1500, far: 1400, six: 1400})
		w.Follow([]view.Path{{Address: near, Limit: 1500}, {Address: far, Limit: 1500}, {Address: six, Limit: 1488}})
		after(5 * time.Second)
		w.want(t, "5 s after the start", mtus{far: 1388, six: 1392})
		w.set(mtus{near: 1300, far: 1300, six: 1200})
		after(10 * time.Second)
		w.want(t, "10 s after they narrowed", mtus{near: 1292, far: 1292, six: 1392}) // IPv6 carries at least 1280
		w.set(mtus{near: 1400, far: 1500, six: 1500})
		after(10 * time.Second)
		w.want(t, "10 s after they widened", mtus{near: 1388})
		if got := w.MTUs()[far]; got != 1500 {
			t.Errorf("a path that carries all has the MTU %d, want 1500", got)
		}
		if w.changes == 0 || w.changes > 8 {
			t.Errorf("changes were told %d times", w.changes)
		}
		w.Follow([]view.Path{{Address: far, Limit: 1500}})
		w.want(t, "when one isn't followed any more", mtus{})
	})
}

// What a route promises changes: what was found counts within that, until it is found anew.
func TestProberFollowsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(mtus{near: 1500})
		for _, step := range []struct{ limit, atOnce, later int }{{1500, 0, 1500}, {1404, 1404, 1404}, {1500, 1404, 1500}} {
			w.Follow([]view.Path{{Address: near, Limit: step.limit}})
			if got := w.MTUs()[near]; got != step.atOnce {
				t.Errorf("with a limit of %d it is %d at once, want %d", step.limit, got, step.atOnce)
			}
			after(5 * time.Second)
			if got := w.MTUs()[near]; got != step.later {
				t.Errorf("with a limit of %d it is %d, want %d", step.limit, got, step.later)
			}
		}
	})
}

func TestProberWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Follow([]view.Path{{Address: near, Limit: 1500, Found: 1388}, {Address: far, Limit: 1500}})
		after(10 * time.Minute)
		w.want(t, "without answers", mtus{near: 1388})
		w.count()
		after(10 * time.Minute)
		if sent, most := w.count(), 2*10*(fan+4)*5/4; sent > most {
			t.Errorf("%d probes in ten minutes to peers that don't answer, want at most %d", sent, most)
		}
		w.set(mtus{near: 1500, far: 1400})
		after(lostInterval*6/5 + 3*time.Second)
		w.want(t, "when they answer", mtus{far: 1388})
		if waited := w.waited(); waited > 4 {
			t.Errorf("%d probes are waited for", waited)
		}
	})
}

// Answers that are slower than a round of a search are enough for a path that carries all.
func TestProberOverASlowPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.trip = longPatience - 100*time.Millisecond
		w.set(mtus{near: 1500})
		w.Follow([]view.Path{{Address: near, Limit: 1500, Found: 1388}})
		after(20 * time.Second)
		w.want(t, "after 20 s", mtus{})
	})
}

// In the largest mesh the probes stay within their rate, also when all paths narrow at once, and all are followed.
func TestProberOfALargeMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var paths []view.Path
		for i := range 1000 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)})
			paths = append(paths, view.Path{Address: a, Limit: 1500})
			w.set(mtus{a: 1500})
		}
		w.Follow(paths)
		after(3 * time.Minute)
		w.want(t, "after 3 minutes", mtus{})
		w.count()
		after(time.Minute)
		if sent := w.count(); sent > 60*130 || sent < 60*80 {
			t.Errorf("%d probes a second when nothing changes", sent/60)
		}
		for _, path := range paths {
			w.set(mtus{path.Address: 1400})
		}
		took := time.Duration(0)
		for ; len(w.narrow()) < len(paths) && took < time.Hour; took += time.Second {
			after(time.Second)
		}
		sent := w.count()
		t.Logf("all 1000 paths were followed after %s, with %d probes", took, sent)
		if took > 5*time.Minute {
			t.Errorf("it took %s until all paths were followed", took)
		}
		if most := int(took.Seconds()+1)*maxRate + maxRate; sent > most {
			t.Errorf("%d probes were sent in %s, want at most %d", sent, took, most)
		}
	})
}

// Answers that nobody waits for, or that come twice, say nothing.
func TestProberIgnoresStrangeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var ids []uint64 // guarded by mu
		w.config.Send = func(_ netip.Addr, size int, id uint64) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if ids = append(ids, id); size <= 1400 {
				time.AfterFunc(w.trip, func() { w.Answered(id); w.Answered(id) })
			}
			return nil
		}
		w.Follow([]view.Path{{Address: near, Limit: 1500}})
		after(time.Minute)
		w.mu.Lock()
		old := slices.Clone(ids)
		w.mu.Unlock()
		for _, id := range append(old, 0, 1) { // none of them is waited for
			w.Answered(id)
		}
		after(time.Minute)
		w.want(t, "after answers to no question", mtus{near: 1388})
	})
}
