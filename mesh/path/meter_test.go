package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// line is what lies between a Meter and its peers.
type line struct {
	*Meter

	mu   sync.Mutex // guards what follows
	trip func(number int) time.Duration
	lose func(number int) bool
	down bool
	sent []time.Time
	to   map[netip.Addr]int
	ids  []uint64
}

// newLine starts a Meter whose probes are answered after 2 ms. Call it in a bubble of synctest.
func newLine(t *testing.T) *line {
	l := &line{to: map[netip.Addr]int{}, lose: func(int) bool { return false }, trip: func(int) time.Duration { return 2 * time.Millisecond }}
	l.Meter = NewMeter(l.send)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *line) send(to netip.Addr, size int, id uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := len(l.sent)
	l.sent, l.ids = append(l.sent, time.Now()), append(l.ids, id)
	l.to[to]++
	switch {
	case size != meterSize:
		panic(fmt.Sprintf("a probe of %d bytes", size))
	case l.down:
		return errors.New("network is unreachable")
	case !l.lose(number):
		time.AfterFunc(l.trip(number), func() { l.Answered(id); l.Answered(id) }) // twice, as a network may bring it
	}
	return nil
}

// set changes what the line does.
func (l *line) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// count is how many probes were sent since it was asked last.
func (l *line) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.sent)
	l.sent, l.ids = nil, nil
	return n
}

func (l *line) want(t *testing.T, when string, want view.Measured) {
	t.Helper()
	if got := l.Measured()["near"]; got != want {
		t.Errorf("%s it is %+v, want %+v", when, got, want)
	}
}

func nearWay(alive bool) []view.Way { return []view.Way{{Node: "near", Address: near, Alive: alive}} }

// aWindow is longer than it takes until all that is shown was measured anew.
const aWindow = (window + 2) * meterInterval * 6 / 5

func TestMeterMeasuresTimeAndLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		l.want(t, "before it is followed", view.Measured{})
		l.trip = func(number int) time.Duration { return time.Duration(number%20+1) * time.Millisecond }
		l.Follow(nearWay(true))
		after(aWindow)
		l.want(t, "with trips of 1 to 20 ms", view.Measured{RTT: 10500 * time.Microsecond, Probes: window})
		l.set(func() {
			l.lose = func(number int) bool { return number%10 < 3 }
			l.trip = func(int) time.Duration { return 7 * time.Millisecond }
		})
		after(aWindow)
		l.want(t, "with 30 % loss", view.Measured{RTT: 7 * time.Millisecond, Lost: 6, Probes: window})
		l.set(func() {
			l.lose = func(int) bool { return false }
			l.trip = func(number int) time.Duration { return meterPatience + time.Duration(number%2*2-1)*time.Millisecond }
		})
		after(aWindow)
		l.want(t, "where each other answer is later than it is waited for",
			view.Measured{RTT: meterPatience - time.Millisecond, Lost: window / 2, Probes: window})
		l.set(func() { l.trip = func(int) time.Duration { return meterPatience + time.Millisecond } })
		after(aWindow)
		l.want(t, "where all are", view.Measured{Lost: window, Probes: window})
		l.set(func() { l.down, l.trip = true, func(int) time.Duration { return time.Millisecond } })
		after(time.Minute)
		l.want(t, "when nothing can be sent", view.Measured{Lost: window, Probes: window})
	})
}

// What is known of a way goes with its node, with another address, and when gossip sees the node again.
func TestMeterForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		l.Follow(nearWay(true))
		after(aWindow)
		l.Follow(nearWay(true))
		l.want(t, "when it is followed as before", view.Measured{RTT: 2 * time.Millisecond, Probes: window})
		l.set(func() { l.lose = func(int) bool { return true } })
		l.Follow(nearWay(false))
		after(aWindow)
		l.want(t, "when it is away", view.Measured{Lost: window, Probes: window})
		l.set(func() { l.lose = func(int) bool { return false } })
		l.Follow(nearWay(true))
		l.want(t, "when it has come back", view.Measured{})
		after(3 * meterInterval)
		if got := l.Measured()["near"]; got.Lost > 0 || got.Probes < 1 {
			t.Errorf("then it is %+v, want nothing lost", got)
		}
		l.Follow([]view.Way{{Node: "near", Address: far, Alive: true}})
		l.want(t, "at another address", view.Measured{})
		l.Follow(nil)
		l.count()
		after(time.Minute)
		if _, known := l.Measured()["near"]; known || l.count() > 0 {
			t.Error("a way that isn't followed is measured")
		}
		if l.Meter.mu.Lock(); len(l.Meter.sent) > 0 {
			t.Errorf("%d answers are waited for", len(l.Meter.sent))
		}
		l.Meter.mu.Unlock()
	})
}

// A way that has never answered counts for nothing, and one that doesn't is measured more and more seldom, until it answers.
func TestMeterOfASilentWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		l.set(func() { l.lose = func(int) bool { return true } })
		l.Follow(nearWay(true))
		after(10 * time.Minute)
		l.want(t, "when nobody ever answered", view.Measured{})
		l.count()
		after(10 * time.Minute)
		if sent := l.count(); sent < 8 || sent > 13 {
			t.Errorf("%d probes in ten minutes to a peer that doesn't answer, want one a minute", sent)
		}
		l.set(func() { l.lose = func(int) bool { return false } })
		after(lostInterval*6/5 + aWindow)
		l.want(t, "when it answers", view.Measured{RTT: 2 * time.Millisecond, Probes: window})
	})
}

// In a large mesh the probes stay within their rate, spread out, and each way has its turn.
func TestMeterOfALargeMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		var ways []view.Way
		for i := range 199 {
			ways = append(ways, view.Way{Node: fmt.Sprint(i), Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Alive: true})
		}
		l.Follow(ways)
		after(time.Minute)
		l.count()
		after(5 * time.Minute)
		l.mu.Lock()
		perSecond := map[int64]int{}
		for _, at := range l.sent {
			perSecond[at.Unix()]++
		}
		sent := len(l.sent)
		l.mu.Unlock()
		if sent < 300*meterRate*8/10 || sent > 301*meterRate {
			t.Errorf("%d probes in 5 minutes, want almost %d", sent, 300*meterRate)
		}
		for second, n := range perSecond {
			if n > 2*meterRate {
				t.Errorf("%d probes in second %d", n, second)
			}
		}
		l.Meter.mu.Lock()
		for _, g := range l.Meter.ways { // as when the host was asleep
			g.due = time.Now()
		}
		l.Meter.mu.Unlock()
		l.turns.rouse()
		l.count()
		after(2 * time.Second)
		if n := l.count(); n > 3*meterRate {
			t.Errorf("%d probes within 2 s when all are due at once", n)
		}
		all := l.Measured()
		for _, way := range ways {
			if got := all[way.Node]; got != (view.Measured{RTT: 2 * time.Millisecond, Probes: window}) {
				t.Errorf("%s is %+v after 6 minutes", way.Node, got)
			}
		}
	})
}

// Probes don't come in step with anything, and an answer to no question says nothing.
func TestMeterJitterAndStrangeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		l.Follow(nearWay(true))
		after(aWindow)
		l.mu.Lock()
		sent, ids := l.sent, l.ids
		l.mu.Unlock()
		least, most := time.Hour, time.Duration(0)
		for i := range sent[1:] {
			pause := sent[i+1].Sub(sent[i])
			least, most = min(least, pause), max(most, pause)
		}
		if least < meterInterval*8/10 || most > meterInterval*12/10+turnPause || most-least < meterInterval/10 {
			t.Errorf("pauses of %s to %s, want %s and up to a fifth more or less", least, most, meterInterval)
		}
		before := l.Measured()["near"]
		for _, id := range append(ids[:len(ids)-1], 0) {
			l.Answered(id)
		}
		l.want(t, "after answers to nothing", before)
	})
}
