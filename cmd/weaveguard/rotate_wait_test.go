package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// reply is what an agent says when it is asked once.
type reply struct {
	status view.Status
	err    error
}

// says is a status with a phase and the numbers of the keys.
func says(phase string, generations ...uint32) reply {
	s := view.Status{Rotation: view.RotationStatus{Phase: phase}}
	for _, number := range generations {
		s.Generations = append(s.Generations, view.GenerationStatus{Number: number})
	}
	return reply{status: s}
}

func (r reply) queued() reply {
	r.status.Rotation.Queued = true
	return r
}

var gone = reply{err: &api.AgentError{Message: "no agent answers on this node", Remedy: "start it"}}

// wait waits for a key by an agent that gives these replies, and the last one for ever; without any it hangs.
func wait(ctx context.Context, wanted uint32, replies ...reply) (took time.Duration, told string, err error) {
	var stderr bytes.Buffer
	w := waiter{wanted: wanted, timeout: time.Minute, stderr: &stderr,
		ask: func(ctx context.Context) (view.Status, error) {
			if len(replies) == 0 {
				<-ctx.Done()
				return view.Status{}, ctx.Err()
			}
			r := replies[0]
			if len(replies) > 1 {
				replies = replies[1:]
			}
			return r.status, r.err
		}}
	began := time.Now()
	err = w.run(ctx)
	return time.Since(began), stderr.String(), err
}

func TestWait(t *testing.T) {
	for name, tt := range map[string]struct {
		wanted  uint32
		replies []reply
		polls   int // that are waited for after the first
		told    []string
	}{
		"until the old key is gone, too": {
			wanted: 1,
			replies: []reply{says("idle", 0), says("preparing", 0), says("draining", 0, 1), says("draining", 0, 1),
				says("idle", 0, 1), says("idle", 1)},
			polls: 5,
			told:  []string{"preparing", "draining", "idle: this node has the new key (generation 1) alone"},
		},
		"for the rotation that follows": {
			wanted: 2,
			replies: []reply{says("switching", 0, 1).queued(), says("idle", 1), says("preparing", 1),
				says("switching", 1, 2), says("idle", 2)},
			polls: 4,
			told:  []string{"switching", "preparing", "switching", "idle: this node has the new key (generation 2) alone"},
		},
		"for what is queued": {
			wanted:  1,
			replies: []reply{says("idle", 1).queued(), says("switching", 1, 2), says("idle", 1, 2), says("idle", 2)},
			polls:   3,
			told:    []string{"switching", "idle: this node has the new key (generation 2) alone"},
		},
		"for an agent that is replaced": {
			wanted:  1,
			replies: []reply{says("switching", 0, 1), gone, gone, says("idle"), says("switching", 0, 1), gone, says("idle", 1)},
			polls:   6,
			told: []string{"switching", "no agent answers on this node; still waiting", "no agent answers on this node; still waiting",
				"idle: this node has the new key (generation 1) alone"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, told, err := wait(t.Context(), tt.wanted, tt.replies...)
				if want := time.Duration(tt.polls) * pollEvery; err != nil || took != want {
					t.Errorf("it took %v, %v; want %v", took, err, want)
				}
				if want := "weaveguard: " + strings.Join(tt.told, "\nweaveguard: ") + "\n"; told != want {
					t.Errorf("it told:\n%s\nwant:\n%s", told, want)
				}
			})
		})
	}
}

func TestWaitEnds(t *testing.T) {
	t.Run("when the time is up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			took, told, err := wait(t.Context(), 1, says("draining", 0, 1))
			if took != time.Minute || !errors.Is(err, errNo) {
				t.Errorf("it took %v, %v; want %v and the answer no", took, err, time.Minute)
			}
			if strings.Count(told, "weaveguard: draining\n") != 1 || !strings.Contains(told, "after 1m0s:\n  draining\n") ||
				!strings.Contains(told, "what to do: see `weaveguard status`") {
				t.Errorf("it told:\n%s\nwant the phase once, and at the end why and what to do", told)
			}
		})
	})
	t.Run("when the agent is gone for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			took, told, err := wait(t.Context(), 1, says("draining", 0, 1), gone)
			if took != time.Minute || !errors.Is(err, gone.err) {
				t.Errorf("it took %v, %v; want %v and %v", took, err, time.Minute, gone.err)
			}
			if strings.Count(told, "still waiting") != 1 {
				t.Errorf("it told:\n%s\nwant once that the agent is gone", told)
			}
		})
	})
	t.Run("when it is interrupted while it asks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			took, told, err := wait(ctx, 1)
			if took != time.Second || err == nil || !strings.Contains(err.Error(), "goes on") || told != "" {
				t.Errorf("it took %v, %v, and told %q; want 1s and that the rotation goes on", took, err, told)
			}
		})
	})
	t.Run("when it is interrupted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			took, told, err := wait(ctx, 1, says("draining", 0, 1))
			if took != 10*time.Second || err == nil || errors.Is(err, errNo) || !strings.Contains(err.Error(), "goes on") {
				t.Errorf("it took %v, %v; want 10s and that the rotation goes on", took, err)
			}
			if told != "weaveguard: draining\n" {
				t.Errorf("it told %q, want nothing more", told)
			}
		})
	})
}

// An agent of a later version may know more.
func TestInWordsOfUnknownState(t *testing.T) {
	got := inWords(view.RotateAnswer{State: "postponed", Generation: 3})
	if want := "the agent took the request (postponed, generation 3): see `weaveguard status`"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
