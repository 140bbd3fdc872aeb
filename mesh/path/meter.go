package path

import (
	"context"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// meterSize is how large the probes of a Meter are, in bytes with the IP header: any path carries that.
	meterSize = 128
	// window is how many of the latest probes of a way a measurement is about.
	window = 20
	// meterInterval is how often a way is measured, in a mesh of up to 40 other nodes.
	meterInterval = 2 * time.Second
	// meterRate is how many probes a second a Meter sends at most, to all ways together; with more than 40 each has its
	// turn more seldom.
	meterRate = 20
	// meterPatience is how long an answer may take. One that comes later is as good as lost.
	meterPatience = 1500 * time.Millisecond
)

// Meter measures how long the ways to other nodes take, and how much they lose: it sends each a small probe now and then. Safe
// for concurrent use.
type Meter struct {
	send  func(to netip.Addr, size int, id uint64) error
	turns turns

	mu   sync.Mutex
	ways map[string]*gauge // by node
	sent map[uint64]*gauge // whose probe waits for its answer
	room float64           // how many probes may be sent now
	asOf time.Time         // of room
}

// gauge is a way that is measured.
type gauge struct {
	view.Way
	due      time.Time // when the next probe is sent
	id       uint64    // of the one that waits for its answer
	at       time.Time // when that was sent; zero: none waits
	outcomes []outcome // of the latest, oldest first
	silent   int       // how many in a row weren't answered
	answered bool      // since the way is followed one was
}

// outcome is what became of a probe.
type outcome struct {
	trip time.Duration // there and back
	lost bool
}

// NewMeter returns a Meter that measures nothing yet. Run it once. It sends by the function that Config.Send is, too.
func NewMeter(send func(to netip.Addr, size int, id uint64) error) *Meter {
	return &Meter{send: send, turns: newTurns(), ways: map[string]*gauge{}, sent: map[uint64]*gauge{}}
}

// Follow replaces the ways that are measured, one a node. What was measured of a way is forgotten when its node isn't among them
// any more, or has another address; and when gossip sees the node again: what was lost while its agent was away says nothing of
// the way.
func (m *Meter) Follow(ways []view.Way) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[string]bool, len(ways))
	pause, now := interval(len(ways)), time.Now()
	for _, way := range ways {
		wanted[way.Node] = true
		known := m.ways[way.Node]
		if known != nil && known.Address == way.Address && (known.Alive || !way.Alive) {
			known.Alive = way.Alive
			continue
		}
		if known != nil {
			delete(m.sent, known.id)
		}
		m.ways[way.Node] = &gauge{Way: way, due: now.Add(mathrand.N(pause))} // not all at the same moment
		m.turns.rouse()
	}
	for node, g := range m.ways {
		if !wanted[node] {
			delete(m.sent, g.id)
			delete(m.ways, node)
		}
	}
}

// interval is how often each of so many ways is measured.
func interval(ways int) time.Duration {
	return max(meterInterval, time.Duration(ways)*time.Second/meterRate)
}

// Measured returns by node what was measured of the ways. A way that has never answered has no probes: it may be that only
// gossip's packets don't come through there, or that whoever is there doesn't know them.
func (m *Meter) Measured() map[string]view.Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]view.Measured, len(m.ways))
	for node, g := range m.ways {
		all[node] = g.measured()
	}
	return all
}

func (g *gauge) measured() view.Measured {
	if !g.answered {
		return view.Measured{}
	}
	measured := view.Measured{Probes: len(g.outcomes)}
	var trips []time.Duration
	for _, o := range g.outcomes {
		if o.lost {
			measured.Lost++
		} else {
			trips = append(trips, o.trip)
		}
	}
	if len(trips) > 0 {
		slices.Sort(trips)
		measured.RTT = (trips[(len(trips)-1)/2] + trips[len(trips)/2]) / 2
	}
	return measured
}

// Answered takes the answer to a probe. An id that no probe has that is waited for is ignored: it may be anybody's.
func (m *Meter) Answered(id uint64) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	g, waiting := m.sent[id]
	if !waiting || now.Sub(g.at) > meterPatience {
		return
	}
	delete(m.sent, id)
	// A clock that is too coarse makes no trip one that there wasn't.
	g.note(outcome{trip: max(now.Sub(g.at), time.Microsecond)})
	if g.silent >= window { // there was no hurry
		g.due = now.Add(jittered(interval(len(m.ways))))
		m.turns.rouse()
	}
	g.at, g.silent, g.answered = time.Time{}, 0, true
}

// note adds an outcome.
func (g *gauge) note(o outcome) {
	if len(g.outcomes) == window {
		g.outcomes = slices.Delete(g.outcomes, 0, 1)
	}
	g.outcomes = append(g.outcomes, o)
}

// Run measures until the context ends.
func (m *Meter) Run(ctx context.Context) error {
	m.turns.run(ctx, m.turn)
	return nil
}

// turn sends the probes that are due, and returns when the next one is.
func (m *Meter) turn(now time.Time) (next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.room = min(m.room+meterRate*now.Sub(m.asOf).Seconds(), meterRate)
	m.asOf = now
	next = now.Add(lostInterval)
	var ready []*gauge
	for _, g := range m.ways {
		if !g.due.After(now) {
			ready = append(ready, g)
		} else {
			next = earlier(next, g.due)
		}
	}
	// Who has waited longest is the first, and the others wait for room behind it.
	slices.SortFunc(ready, func(a, b *gauge) int { return a.due.Compare(b.due) })
	for _, g := range ready {
		if m.room < 1 {
			return earlier(next, now.Add(time.Duration((1-m.room)/meterRate*float64(time.Second))))
		}
		m.room--
		m.probe(g, now)
		next = earlier(next, g.due)
	}
	return next
}

// probe sends the next probe of a way. The one before is lost if it wasn't answered by now.
func (m *Meter) probe(g *gauge, now time.Time) {
	if !g.at.IsZero() {
		delete(m.sent, g.id)
		g.silent++
		g.note(outcome{lost: true})
	}
	g.id, g.at = newID(), now
	m.sent[g.id] = g
	_ = m.send(g.Address, meterSize, g.id) // what isn't sent isn't answered
	pause := interval(len(m.ways))
	if more := g.silent - window; more >= 0 { // all of what is shown is lost: there is no hurry
		pause = max(pause, min(pause<<min(more, 8), lostInterval))
	}
	g.due = now.Add(jittered(pause))
}
