package backoff_test

import (
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/backoff"
)

// The times double up to the bound, each within a fifth, and begin anew after a success.
func TestBackoff(t *testing.T) {
	t.Parallel()
	b := backoff.Backoff{Min: time.Second, Max: 30 * time.Second}
	different := map[time.Duration]bool{}
	for range 20 {
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
			want *= time.Second
			got := b.Next()
			if got < want*4/5 || got > want*6/5 {
				t.Fatalf("%s, want %s and a fifth less or more", got, want)
			}
			different[got] = true
		}
		b.Reset()
	}
	if len(different) < 100 {
		t.Errorf("160 times are %d different ones", len(different))
	}
}

func TestAround(t *testing.T) {
	t.Parallel()
	least := func(time.Duration) time.Duration { return 0 }
	most := func(most time.Duration) time.Duration { return most - 1 }
	for _, d := range []time.Duration{0, 1, 4, time.Second} {
		if low, high := backoff.Around(d, least), backoff.Around(d, most); low > d || low < d*4/5 || high < d || high > d+d/5+1 {
			t.Errorf("around %s are %s to %s", d, low, high)
		}
	}
}
