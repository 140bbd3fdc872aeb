// Package backoff says when to try again what failed: ever later up to a bound, and not at the same moment as others that failed
// at the same moment.
package backoff

import (
	"math/rand/v2"
	"time"
)

// spread is by which part of it a time is made shorter or longer at random: a fifth.
const spread = 5

// Random is a time at random from 0 to under the most, which is above 0.
type Random func(most time.Duration) time.Duration

// Around is a time up to a fifth shorter or longer than d. A nil random is that of math/rand.
func Around(d time.Duration, random Random) time.Duration {
	if random == nil {
		random = rand.N[time.Duration]
	}
	width := 2 * d / spread
	if width <= 0 {
		return d
	}
	return d - width/2 + random(width)
}

// Backoff is the times between tries: the first about Min, each twice the one before, up to about Max. The zero Random is that
// of math/rand. Not for several goroutines.
type Backoff struct {
	Min, Max time.Duration
	Random   Random

	next time.Duration
}

// Next is how long to wait after another failure.
func (b *Backoff) Next() time.Duration {
	now := min(max(b.next, b.Min), b.Max)
	b.next = min(2*now, b.Max)
	return Around(now, b.Random)
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.next = 0 }
