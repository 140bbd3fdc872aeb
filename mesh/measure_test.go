package mesh_test

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// clocks keeps what the loop measured.
type clocks struct {
	mu                             sync.Mutex
	reconciled, converged, rotated []time.Duration
}

func (c *clocks) Reconciled(took time.Duration) { c.note(&c.reconciled, took) }
func (c *clocks) Converged(took time.Duration)  { c.note(&c.converged, took) }
func (c *clocks) Rotated(took time.Duration)    { c.note(&c.rotated, took) }

func (c *clocks) note(at *[]time.Duration, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*at = append(*at, took)
}

func (c *clocks) all() (reconciled, converged, rotated []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reconciled), slices.Clone(c.converged), slices.Clone(c.rotated)
}

// A change of a peer's record counts from when it was heard to the first pass in which all that follows stands, once.
func TestConvergenceIsMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		timings := &clocks{}
		w.config.Timings = timings
		b := newSpeaker(t, 2, "b")
		w.cluster.set(w.self.node(), b.node())
		a := w.start(t)
		a.pass()
		reconciled, converged, rotated := timings.all()
		if len(reconciled) == 0 || len(converged) > 0 || len(rotated) > 0 {
			t.Errorf("before anything was heard: %v, %v, %v", reconciled, converged, rotated)
		}

		setFault(w.kernel, "routes", errBroken)
		heard := b.says(t, nil)
		heard.Since = time.Now().Add(-3 * time.Second)
		w.air.say(heard)
		a.pass()
		if _, converged, _ := timings.all(); len(converged) > 0 {
			t.Errorf("while the routes can't be made: %v", converged)
		}
		time.Sleep(7 * time.Second)
		setFault(w.kernel, "routes", nil)
		a.pass()
		a.pass()
		if _, converged, _ := timings.all(); len(converged) != 1 || converged[0] < 10*time.Second || converged[0] > 13*time.Second {
			t.Errorf("after that: %v, want one of 10 s and a little", converged)
		}

		w.kernel.mu.Lock()
		w.kernel.slow = 300 * time.Millisecond
		w.kernel.mu.Unlock()
		w.air.say(b.says(t, func(r *record.Record) { r.MTU = 1400 })) // nobody knows since when
		a.pass()
		reconciled, converged, _ = timings.all()
		if len(converged) != 2 || converged[1] < 300*time.Millisecond || converged[1] > time.Second {
			t.Errorf("of a record that comes in a slow pass: %v", converged)
		}
		if last := reconciled[len(reconciled)-1]; last < 300*time.Millisecond || last > time.Second {
			t.Errorf("the slow pass took %v", last)
		}
	})
}

func TestRotationsAreMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		timings := &clocks{}
		w.config.Timings = timings
		b := newSpeaker(t, 2, "b")
		w.cluster.set(w.self.node(), b.node())
		w.air.say(b.says(t, nil))
		session(w, b)
		a := w.start(t)
		mustRotate(t, a, view.RotateStarted)
		passes(a)
		time.Sleep(20 * time.Second)
		w.air.tell(b.acks(t, w, newest(w)))
		passes(a)
		time.Sleep(3 * time.Second)
		if s := passes(a); s.Counters.Rotations != 1 {
			t.Fatalf("it is %+v", s.Rotation)
		}
		if _, _, rotated := timings.all(); len(rotated) != 1 || rotated[0] < 22*time.Second || rotated[0] > 30*time.Second {
			t.Errorf("it took %v, want one of some 23 s", rotated)
		}
	})
}

// Each failure counts under a word of mesh.Kinds, and so do repairs.
func TestFailuresAndRepairsAreCountedByKind(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	a.pass()
	kinds := mesh.Kinds()
	if !slices.IsSorted(kinds) {
		t.Errorf("not sorted: %q", kinds)
	}
	steps := []string{"observe", "firewall", "bridges", "sysctls", "made", "devices", "tunnels", "paths", "routes", "pruned", "attach"}
	for _, step := range steps {
		setFault(w.kernel, step, errBroken)
		a.pass()
		setFault(w.kernel, step, nil)
	}
	s := a.pass()
	if got := len(s.Counters.ErrorsByKind); got != len(steps) {
		t.Errorf("%d faults are %d kinds: %v", len(steps), got, s.Counters.ErrorsByKind)
	}
	for kind, n := range s.Counters.ErrorsByKind {
		if !slices.Contains(kinds, kind) || n < 1 {
			t.Errorf("%q failed %d times, and isn't one of %q", kind, n, kinds)
		}
	}
	a.pass()
	before := a.pass().Counters
	w.kernel.forget("routes", "firewall")
	a.pass()
	got := a.pass().Counters
	added := map[string]uint64{}
	for kind, n := range got.RepairsByKind {
		if more := n - before.RepairsByKind[kind]; more > 0 {
			added[kind] = more
		}
	}
	if want := map[string]uint64{"routes": 1, "firewall": 1}; !maps.Equal(added, want) || got.Repairs != before.Repairs+2 {
		t.Errorf("repaired %v, %d in all; want %v", added, got.Repairs-before.Repairs, want)
	}
}

// Refused records count under words of mesh.Refusals.
func TestRefusalsHaveKnownWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node())
	bad := b.says(t, nil)
	bad.Raw = slices.Clone(bad.Raw)
	bad.Raw[len(bad.Raw)-1] ^= 1
	w.air.say(bad, c.says(t, nil))
	s := w.start(t).pass()
	if len(s.Counters.Refused) < 2 {
		t.Errorf("refused %v, want two", s.Counters.Refused)
	}
	for word := range s.Counters.Refused {
		if !slices.Contains(mesh.Refusals(), word) {
			t.Errorf("%q isn't one of %q", word, mesh.Refusals())
		}
	}
}

type fakeUsage map[netip.Prefix]int

func (u fakeUsage) InUse(_ context.Context, subnets []netip.Prefix) ([]int, error) {
	used := make([]int, len(subnets))
	for i, s := range subnets {
		used[i] = u[s]
	}
	return used, nil
}

type fakeTraffic map[string]view.LinkTraffic

func (f fakeTraffic) Traffic(_ context.Context, interfaces []string) (map[string]view.LinkTraffic, error) {
	all := map[string]view.LinkTraffic{}
	for _, name := range interfaces {
		if t, known := f[name]; known {
			all[name] = t
		}
	}
	return all, nil
}

func TestStatusHasAddressesAndTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	w.config.Usage = fakeUsage{w.self.cidr(): 3}
	w.config.Traffic = fakeTraffic{"weave-wg0": {ReceivedPackets: 7, SentPackets: 8}, "eth0": {}}
	a := w.start(t)
	a.pass()
	s := a.pass()
	want := []view.AddressStatus{{Network: "default", CIDR: w.self.cidr(), Used: 3, Free: contract.PodAddresses(w.self.cidr()) - 3}}
	if diff := cmp.Diff(want, s.Addresses, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if len(s.Devices) == 0 || s.Devices[0].Traffic == nil || s.Devices[0].Traffic.SentPackets != 8 {
		t.Errorf("devices are %+v, want the packets of weave-wg0", s.Devices)
	}
}

// Each word that the source counts by is one that metrics have from the beginning.
func TestWordsAreComplete(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	refusal := regexp.MustCompile(`(?m)^\s*(?:const )?(\w+(?:Word|Refused|Limited))\s*= "([^"]+)"`)
	failure := regexp.MustCompile(`p\.fail\("([^"]+)"|(?m)^\t\t\{"([^"]+)", (?:true|false), `)
	words, kinds := 0, 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range refusal.FindAllSubmatch(source, -1) {
			words++
			if word := string(match[2]); word != "waiting" && !slices.Contains(mesh.Refusals(), word) {
				t.Errorf("%s has the word %q, and Refusals hasn't", file, word)
			}
		}
		for _, match := range failure.FindAllSubmatch(source, -1) {
			kinds++
			if kind := string(match[1]) + string(match[2]); !slices.Contains(mesh.Kinds(), kind) {
				t.Errorf("%s has the kind %q, and Kinds hasn't", file, kind)
			}
		}
	}
	if words < 10 || kinds < 12 {
		t.Errorf("found %d words and %d kinds: this test looks in the wrong place", words, kinds)
	}
}
