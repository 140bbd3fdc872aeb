package mesh

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/test/full"
)

const (
	// modelSeedEnv names one history, to be told in full, as in 17, or a range of them to be played, as in 2000-9999.
	modelSeedEnv = "WEAVEGUARD_MODEL_SEED"
	// modelRuns is how many histories are played, some 17 ms of a processor each; in full modelFullRuns, or
	// as many as fit into modelFullTime: the race detector, which has nothing to find here, makes each ten times as long.
	modelRuns     = 2000
	modelFullRuns = 50000
	modelFullTime = 10 * time.Minute
	// modelFailures is how many histories may go wrong before no more is played.
	modelFailures = 10
	// modelFew is how many histories may pass without everything in them.
	modelFew = 500
)

// runModel plays the history of a seed, and returns the world at its end.
func runModel(t *testing.T, seed uint64, keyring *modelKeyring, tracing bool) *modelWorld {
	t.Helper()
	var w *modelWorld
	synctest.Test(t, func(*testing.T) {
		w = newModelWorld(seed, keyring, tracing)
		w.begin()
		w.play()
		w.settle()
		for _, n := range w.nodes {
			if n.stop != nil {
				n.stop()
			}
		}
	})
	return w
}

// The whole loop of some nodes, over a kernel, a network and a disk in memory: thousands of random histories of
// rotations, crashes, faults, delays, joins and partitions, in which the invariants of model_check_test.go hold after
// each step, and which all come to rest.
func TestModelOfRotation(t *testing.T) {
	t.Parallel()
	keyring := newModelKeyring(t)
	first, last, one := modelSeeds(t)
	if one {
		w := runModel(t, first, keyring, true)
		t.Logf("seed %d:\n%s", first, w.history())
		if w.failure != "" {
			t.Error(w.failure)
		}
		return
	}
	var sum modelSeen
	begin := time.Now()
	for seed := first; seed <= last && time.Since(begin) < modelFullTime; seed++ {
		w := runModel(t, seed, keyring, false)
		sum.add(w.seen)
		if w.failure == "" {
			continue
		}
		sum.failures++
		t.Errorf("%s (%s=%d tells how it came to that)", w.failure, modelSeedEnv, seed)
		if sum.failures == modelFailures {
			break
		}
	}
	t.Logf("in %s: %+v", time.Since(begin).Round(time.Second), sum)
	if last-first > modelFew && (sum.rotations == 0 || sum.crashes == 0 || sum.moves == 0 || sum.excused == 0) {
		t.Error("too little happened to test anything")
	}
}

// modelSeeds are the histories to play: those from first to last, or the one that is to be told.
func modelSeeds(t *testing.T) (first, last uint64, one bool) {
	t.Helper()
	text := os.Getenv(modelSeedEnv)
	switch n, _ := fmt.Sscanf(text, "%d-%d", &first, &last); {
	case n == 2:
		return first, last, false
	case n == 1:
		return first, first, true
	case text != "":
		t.Fatalf("%s is %q, want a number or a range", modelSeedEnv, text)
	case full.Wanted():
		return 0, modelFullRuns - 1, false
	}
	return 0, modelRuns - 1, false
}
