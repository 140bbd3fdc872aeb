package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The agent gives the daemon a moment, and then goes on without it.
func TestAwaitDaemon(t *testing.T) {
	for _, c := range []struct {
		name           string
		answers, waits time.Duration
	}{
		{"it runs", 0, 0},
		{"it starts", time.Second, time.Second},
		{"it is missing", time.Hour, daemonPatience},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				awaitDaemon(t.Context(), func(context.Context) error {
					if time.Since(start) < c.answers {
						return errors.New("nobody answers")
					}
					return nil
				})
				if waited := time.Since(start); waited < c.waits || waited > c.waits+maxDaemonInterval*6/5 || c.answers == 0 && waited > 0 {
					t.Errorf("waited %s, want %s", waited, c.waits)
				}
			})
		})
	}
}
