package mesh

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

const (
	modelSeedEnv = "WEAVEGUARD_MODEL_SEED"
	modelFullEnv = "WEAVEGUARD_FULL"
	modelRuns    = 2000
	modelFull    = 50000
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
	if text := os.Getenv(modelSeedEnv); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		w := runModel(t, seed, keyring, true)
		t.Logf("seed %d:\n%s", seed, w.history())
		if w.failure != "" {
			t.Error(w.failure)
		}
		return
	}
	runs := uint64(modelRuns)
	if os.Getenv(modelFullEnv) != "" {
		runs = modelFull
	}
	var sum modelSeen
	var longest time.Duration
	begin := time.Now()
	failures := 0
	for seed := range runs {
		w := runModel(t, seed, keyring, false)
		sum.passes += w.seen.passes
		sum.rotations += w.seen.rotations
		sum.crashes += w.seen.crashes
		sum.moves += w.seen.moves
		sum.probes += w.seen.probes
		sum.owed += w.seen.owed
		sum.excused += w.seen.excused
		longest = max(longest, w.seen.settled)
		if w.failure == "" {
			continue
		}
		t.Errorf("%s (%s=%d shows how it came to that)", w.failure, modelSeedEnv, seed)
		if failures++; failures > 10 {
			break
		}
	}
	t.Logf("%s: %+v, settled after %s at most", time.Since(begin), sum, longest)
}
