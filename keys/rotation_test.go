package keys_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weaveguard/weaveguard/keys"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// holding is a rotation with these generations, announced.
func holding(generations ...uint32) keys.Rotation {
	return keys.Rotation{Generations: generations, Announced: true, MadeAt: noon}
}

func with(r keys.Rotation, change func(*keys.Rotation)) keys.Rotation {
	change(&r)
	return r
}

func TestStep(t *testing.T) {
	t.Parallel()
	unannounced := func(r *keys.Rotation) { r.Announced = false }
	requested := func(r *keys.Rotation) { r.Requested = true }
	quietFor := func(d time.Duration) func(*keys.Rotation) {
		return func(r *keys.Rotation) { r.QuietSince = noon.Add(-d) }
	}
	silent := keys.Report{Node: "silent"}
	apart := keys.Report{Node: "apart", Heard: true}
	behind := keys.Report{Node: "behind", Heard: true, Up: true}
	moved := keys.Report{Node: "moved", Heard: true, Up: true, Linked: true, Followed: true}
	unmoved := keys.Report{Node: "unmoved", Heard: true, Up: true, Followed: true} // this node still sends by the old key
	for name, tc := range map[string]struct {
		from    keys.Rotation
		seen    keys.Observation
		to      keys.Rotation
		phase   keys.Phase
		waiting []string
	}{
		"nothing is wanted": {from: holding(4), to: holding(4), phase: keys.Idle},
		"a request makes the next key": {
			from: with(holding(4), requested), to: with(holding(4, 5), unannounced), phase: keys.Preparing},
		"what is left of the one before goes first": {
			from: with(holding(4), requested), to: with(holding(4), requested), phase: keys.Preparing},
		"so does the schedule": {
			from: holding(4), seen: keys.Observation{Due: true}, to: with(holding(4, 5), unannounced), phase: keys.Preparing},
		"not announced before all stands": {
			from: with(holding(4, 5), unannounced), to: with(holding(4, 5), unannounced), phase: keys.Preparing},
		"announced when all stands": {
			from: with(holding(4, 5), unannounced), seen: keys.Observation{Prepared: true}, to: holding(4, 5), phase: keys.Preparing},
		"a key that nobody knows of can't be forced": {
			from: with(holding(4, 5), unannounced), seen: keys.Observation{Force: true},
			to: with(holding(4, 5), unannounced), phase: keys.Preparing},
		"peers without a session with it": {
			from: holding(4, 5), seen: keys.Observation{Peers: []keys.Report{behind, apart, moved}}, to: holding(4, 5),
			phase: keys.Establishing, waiting: []string{"behind", "apart"}},
		"peers that still send by the old one": {
			from: holding(4, 5), seen: keys.Observation{Peers: []keys.Report{behind, moved}}, to: holding(4, 5),
			phase: keys.Switching, waiting: []string{"behind"}},
		"a peer that this node still sends to by the old one": {
			from: holding(4, 5), seen: keys.Observation{Peers: []keys.Report{unmoved}}, to: holding(4, 5),
			phase: keys.Switching, waiting: []string{"unmoved"}},
		"all have followed": {
			from: holding(4, 5), seen: keys.Observation{Peers: []keys.Report{moved, silent}},
			to: with(holding(4, 5), quietFor(0)), phase: keys.Draining},
		"what is under way still arrives": {
			from: with(holding(4, 5), quietFor(time.Second)), seen: keys.Observation{Peers: []keys.Report{moved}},
			to: with(holding(4, 5), quietFor(time.Second)), phase: keys.Draining},
		"somebody goes back": {
			from: with(holding(4, 5), quietFor(time.Second)), seen: keys.Observation{Peers: []keys.Report{moved, behind}},
			to: holding(4, 5), phase: keys.Switching, waiting: []string{"behind"}},
		"the old key goes": {
			from: with(holding(4, 5), quietFor(3*time.Second)), seen: keys.Observation{Peers: []keys.Report{moved, silent}},
			to: holding(5), phase: keys.Idle},
		"alone": {
			from: with(holding(4, 5), quietFor(3*time.Second)), to: holding(5), phase: keys.Idle},
		"by force": {
			from: holding(4, 5), seen: keys.Observation{Peers: []keys.Report{apart}, Force: true}, to: holding(5), phase: keys.Idle},
		"one that is queued waits for its turn": {
			from: with(with(holding(4, 5), quietFor(3*time.Second)), requested), to: with(holding(5), requested), phase: keys.Idle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.seen.Now, tc.seen.Pruned = noon, name != "what is left of the one before goes first"
			before := with(tc.from, func(r *keys.Rotation) { r.Generations = slices.Clone(r.Generations) })
			got, progress := keys.Step(tc.from, tc.seen)
			if tc.waiting == nil && len(tc.to.Generations) == 2 && tc.phase == keys.Switching {
				t.Fatal("the case is wrong: somebody must be waited for")
			}
			if diff := cmp.Diff(tc.to, got); diff != "" {
				t.Errorf("the rotation (-want +got):\n%s", diff)
			}
			if progress.Phase != tc.phase || !slices.Equal(progress.Waiting, tc.waiting) {
				t.Errorf("progress %+v, want %s, waiting for %v", progress, tc.phase, tc.waiting)
			}
			if diff := cmp.Diff(before, tc.from); diff != "" {
				t.Errorf("the step changed what it was given:\n%s", diff)
			}
		})
	}
}

func TestDue(t *testing.T) {
	t.Parallel()
	const month = 720 * time.Hour
	for name, tc := range map[string]struct {
		r        keys.Rotation
		after    time.Duration
		period   time.Duration
		fraction float64
		want     bool
	}{
		"no schedule":                  {holding(0), 10 * month, 0, 1, false},
		"young":                        {holding(0), month / 2, month, 1, false},
		"old":                          {holding(0), month, month, 0, true},
		"a little early":               {holding(0), month - month/20, month, 1, true},
		"not as early for another":     {holding(0), month - month/20, month, 0.1, false},
		"while it rotates":             {holding(0, 1), 10 * month, month, 1, false},
		"by a clock that went back":    {holding(0), -10 * month, month, 0, true},
		"by a clock that is corrected": {holding(0), -time.Minute, month, 0, false},
	} {
		if got := tc.r.Due(noon.Add(tc.after), tc.period, tc.fraction); got != tc.want {
			t.Errorf("%s: due %t, want %t", name, got, tc.want)
		}
	}
}
