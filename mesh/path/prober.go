package path

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// floor4 and floor6 are what any path carries, in bytes (RFC 791, section 3.1; RFC 8200, section 5).
	floor4 = 576
	floor6 = 1280
	// confirmInterval is how often a path is confirmed, in a mesh of up to 500 nodes: so soon a path that got narrower,
	// or wider, is noticed.
	confirmInterval = 5 * time.Second
	// confirmCost, for each path, is the least time between two confirmations of one: together all paths get 100
	// confirmations a second at most.
	confirmCost = 10 * time.Millisecond
	// jitter is by which part of it an interval is shorter or longer, at random.
	jitter = 0.2
	// patience is how long answers are waited for in a round of a search, and longPatience in one that confirms, or
	// that follows one without an answer.
	patience     = 400 * time.Millisecond
	longPatience = time.Second
	// lostInterval is the longest pause between rounds where nobody answers.
	lostInterval = time.Minute
	// maxRate is how many probes a second are sent to all paths together. A full-sized probe every 5 ms is 2.4 Mbit/s
	// of 1500 bytes each.
	maxRate = 200
)

// Config is what a Prober needs. All of it must be set.
type Config struct {
	// Send sends a probe of a size in bytes, IP header included, which nobody may fragment on its way. It waits for
	// nobody. An error is as good as a probe that was lost.
	Send func(to netip.Addr, size int, id uint64) error
	// Changed is called, with no lock held, after a path was found to carry less than its limit, or not to any more.
	Changed func()
	Log     *slog.Logger
}

// Prober probes the paths that it is told to follow. Safe for concurrent use.
type Prober struct {
	config Config
	turns  turns

	mu    sync.Mutex
	paths map[netip.Addr]*track
	sent  map[uint64]probe // of the rounds under way
	room  float64          // how many probes may be sent now
	asOf  time.Time        // of room
}

// track is a path that is followed.
type track struct {
	*search
	address  netip.Addr
	due      time.Time // when the round under way ends, or the next one begins
	under    bool      // a round is under way
	ids      []uint64  // of its probes
	sizes    []int     // likewise
	answered []int
}

// probe is one that was sent.
type probe struct {
	to   netip.Addr
	size int
}

// New returns a Prober that follows no path yet. Run it once.
func New(config Config) *Prober {
	return &Prober{config: config, turns: newTurns(), paths: map[netip.Addr]*track{}, sent: map[uint64]probe{}}
}

// Follow replaces the paths that are probed. What is known of a path stays known while it is followed, and when its
// limit changes, as far as it is within that.
func (p *Prober) Follow(paths []view.Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	wanted := make(map[netip.Addr]bool, len(paths))
	for _, path := range paths {
		floor := floor6
		if path.Address.Is4() {
			floor = floor4
		}
		known := p.paths[path.Address]
		if path.Limit-floor < step || wanted[path.Address] {
			continue
		}
		wanted[path.Address] = true
		if known != nil && known.limit == path.Limit {
			continue
		}
		before := path.Found
		if known != nil {
			p.drop(known)
			before = known.found
		}
		// Not all at the same moment.
		p.paths[path.Address] = &track{
			search: newSearch(floor, path.Limit, before), address: path.Address, due: now.Add(mathrand.N(patience)),
		}
		p.turns.rouse()
	}
	for address, t := range p.paths {
		if !wanted[address] {
			p.drop(t)
			delete(p.paths, address)
		}
	}
}

// MTUs returns, in bytes and by address, what was found that paths carry: their limit, or less.
func (p *Prober) MTUs() map[netip.Addr]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := map[netip.Addr]int{}
	for address, t := range p.paths {
		if t.found != 0 {
			found[address] = t.found
		}
	}
	return found
}

// Answered takes the answer to a probe. An id that no probe has that is waited for is ignored: it may be anybody's.
func (p *Prober) Answered(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	probe, waiting := p.sent[id]
	if !waiting {
		return
	}
	delete(p.sent, id)
	t := p.paths[probe.to]
	t.answered = append(t.answered, probe.size)
	if len(t.answered) == len(t.sizes) {
		t.due = time.Now()
		p.turns.rouse()
	}
}

// Run probes until the context ends.
func (p *Prober) Run(ctx context.Context) error {
	p.turns.run(ctx, func(now time.Time) time.Time {
		next, changed := p.turn(now)
		if changed {
			p.config.Changed()
		}
		return next
	})
	return nil
}

// turn ends and begins the rounds that are due, and returns when the next one is, and whether an MTU has changed.
func (p *Prober) turn(now time.Time) (next time.Time, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room = min(p.room+maxRate*now.Sub(p.asOf).Seconds(), maxRate)
	p.asOf = now
	next = now.Add(lostInterval)
	var ready []*track
	for _, t := range p.paths {
		if t.under && !t.due.After(now) {
			changed = p.end(t, now) || changed
		}
		if !t.due.After(now) {
			ready = append(ready, t)
		} else if t.due.Before(next) {
			next = t.due
		}
	}
	// Who has waited longest is the first, and the others wait for room behind it.
	slices.SortFunc(ready, func(a, b *track) int { return a.due.Compare(b.due) })
	for _, t := range ready {
		sizes := t.search.sizes()
		if lacks := float64(len(sizes)) - p.room; lacks > 0 {
			return earlier(next, now.Add(time.Duration(lacks/maxRate*float64(time.Second)))), changed
		}
		p.begin(t, sizes, now)
		next = earlier(next, t.due)
	}
	return next, changed
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// begin sends a round.
func (p *Prober) begin(t *track, sizes []int, now time.Time) {
	p.room -= float64(len(sizes))
	t.under, t.sizes, t.answered, t.ids = true, sizes, nil, nil
	t.due = now.Add(patience)
	if t.settled || t.silent > 0 {
		t.due = now.Add(longPatience)
	}
	for _, size := range sizes {
		id := newID()
		t.ids = append(t.ids, id)
		p.sent[id] = probe{to: t.address, size: size}
		_ = p.config.Send(t.address, size, id) // what isn't sent isn't answered
	}
}

// end takes what was answered in a round, and says when the next one begins: at once, while something is sought. It
// reports whether the path's MTU is another one now.
func (p *Prober) end(t *track, now time.Time) (changed bool) {
	before := t.mtu()
	p.drop(t)
	t.under = false
	t.heard(t.sizes, t.answered)
	if changed = t.mtu() != before; changed {
		p.config.Log.Info("the path to a node carries another size of packets", "address", t.address, "mtu", t.found,
			"before", before, "route", t.limit)
	}
	pause := max(confirmInterval, time.Duration(len(p.paths))*confirmCost)
	switch {
	case t.lost():
		pause = min(pause<<min(t.lostFor(), 8), max(lostInterval, pause))
	case !t.settled:
		return changed
	}
	t.due = now.Add(jittered(pause))
	return changed
}

// jittered is a pause that is longer or shorter at random, so that not all nodes do the same at once.
func jittered(pause time.Duration) time.Duration {
	return time.Duration(float64(pause) * (1 - jitter + 2*jitter*mathrand.Float64()))
}

// drop stops waiting for answers.
func (p *Prober) drop(t *track) {
	for _, id := range t.ids {
		delete(p.sent, id)
	}
	t.ids = nil
}

// newID makes an id that nobody guesses: an answer that has it comes from who got the probe.
func newID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}
