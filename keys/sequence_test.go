package keys_test

import (
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

func next(t *testing.T, s *keys.Store) uint64 {
	t.Helper()
	n, err := s.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Closing writes nothing, so reopening after it is reopening after a crash.
func TestSequenceGrowsAcrossCrashes(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for range 20 {
		s := open(t, dir)
		for range 1000 {
			n := next(t, s)
			if n <= last {
				t.Fatalf("%d after %d", n, last)
			}
			last = n
		}
		closeStore(t, s)
	}
}

// One life may use more than what one write reserves.
func TestSequenceGrowsAcrossReservations(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	first := next(t, s)
	last := first
	for range 1<<16 + 10 {
		n := next(t, s)
		if n != last+1 {
			t.Fatalf("%d after %d", n, last)
		}
		last = n
	}
	closeStore(t, s)
	if n := next(t, open(t, dir)); n <= last {
		t.Errorf("%d after a crash, %d before", n, last)
	}
}

func TestSequenceIsRaised(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	seen := next(t, s) + 1<<40
	if err := s.RaiseSequence(seen); err != nil {
		t.Fatal(err)
	}
	if n := next(t, s); n != seen+1 {
		t.Errorf("%d, want %d", n, seen+1)
	}
	if err := s.RaiseSequence(1); err != nil {
		t.Fatal(err)
	}
	if n := next(t, s); n != seen+2 {
		t.Errorf("raising to less gives %d, want %d", n, seen+2)
	}
	closeStore(t, s)
	if n := next(t, open(t, dir)); n <= seen+2 {
		t.Errorf("%d after a crash, %d before", n, seen+2)
	}
}

// Without a usable file the clock helps: it is above what the identity has used so far.
func TestSequenceWithoutUsableFile(t *testing.T) {
	for _, content := range []string{"", "\n", "x\n", "-5\n", "123", "1.5\n", "18446744073709551615\n", strings.Repeat("9", 400)} {
		t.Run(content, func(t *testing.T) {
			dir := t.TempDir()
			closeStore(t, open(t, dir))
			write(t, filepath.Join(dir, "sequence"), []byte(content), 0o600)
			began := uint64(time.Now().UnixMilli())
			if n := next(t, open(t, dir)); n < began || n > began+1<<20 {
				t.Errorf("%d, want the clock's milliseconds, about %d", n, began)
			}
		})
	}
}

// At the very end it stops, and doesn't begin anew.
func TestSequenceEnds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.RaiseSequence(math.MaxUint64); err == nil {
		t.Error("raised to the last number of all")
	}
	const near = math.MaxUint64 - 1<<16
	if err := s.RaiseSequence(near); err != nil {
		t.Fatal(err)
	}
	before := next(t, s)
	closeStore(t, s)
	if raw := strings.TrimSpace(string(read(t, filepath.Join(dir, "sequence")))); raw != strconv.FormatUint(math.MaxUint64, 10) {
		t.Errorf("reserved up to %s", raw)
	}
	if before != near+1 {
		t.Errorf("%d, want %d", before, uint64(near+1))
	}
}

func TestSequenceIsSafeForConcurrentUse(t *testing.T) {
	s := open(t, t.TempDir())
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				n, err := s.NextSequence()
				mu.Lock()
				if err != nil || seen[n] {
					t.Errorf("%d twice, or %v", n, err)
				}
				seen[n] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}
