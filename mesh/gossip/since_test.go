package gossip

import (
	"testing"
	"time"
)

// A record is known since it was heard first, whoever says it later, and a new one since it came.
func TestBookKnowsSinceWhen(t *testing.T) {
	t.Parallel()
	b := newBook("self/0")
	b.alive("n/1", "n", address, []byte("one"), dawn)
	b.alive("n/2", "n", moved, []byte("one"), dawn.Add(time.Hour)) // the next start of its agent
	if heard := b.heard(); len(heard) != 1 || !heard[0].Since.Equal(dawn) {
		t.Errorf("heard %+v, want one since %v", heard, dawn)
	}
	b.alive("n/2", "n", moved, []byte("two"), dawn.Add(2*time.Hour))
	if heard := b.heard(); len(heard) != 2 || !heard[1].Since.Equal(dawn.Add(2*time.Hour)) {
		t.Errorf("heard %+v, want the second two hours later", heard)
	}
}
