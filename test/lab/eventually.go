package lab

import (
	"testing"
	"time"
)

// pollInterval is the shortest pause between two looks of Eventually. It pauses for twice as long as a look takes:
// looking must not keep a slow machine from what is waited for.
const pollInterval = 50 * time.Millisecond

// Eventually calls check until it returns nil, and fails the test with its
// last error when that hasn't happened within the deadline. what says what is
// waited for: "h1 sees 2 peers". It returns how long it took.
func Eventually(t testing.TB, deadline time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		begin := time.Now()
		err := check()
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > deadline {
			t.Fatalf("%s: not within %v: %v", what, deadline, err)
		}
		select {
		case <-time.After(max(pollInterval, 2*time.Since(begin))):
		case <-t.Context().Done():
			t.Fatalf("%s: the test ended first: %v", what, err)
		}
	}
}
