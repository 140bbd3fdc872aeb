package mesh

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

// modelWorld is a mesh in memory: nodes with real agents, a network, and what happens to them. All of it runs in one
// goroutine, as events in the order of their virtual time, so that a seed gives the same history again.
type modelWorld struct {
	rng   *rand.Rand
	epoch time.Time     // when it began, by the clock of the agents
	now   time.Duration // since then
	queue modelQueue
	order uint64 // of events and handshakes

	nodes  []*modelNode
	cut    [maxModelNodes][maxModelNodes]bool // no packet gets from one to the other, in both directions alike
	blocks []modelBlock
	flows  [maxModelNodes][maxModelNodes]modelFlow
	busy   [maxModelNodes][maxModelNodes]bool // pods of the two talk all the time

	keyring  *modelKeyring
	keysUsed int
	owners   map[keys.PublicKey]modelOwner

	loss    float64 // the part of acknowledgements that gets lost
	calm    bool    // nothing bad happens any more
	healed  time.Duration
	changed bool          // since checked: something that packets depend on
	checked time.Duration // when all was checked last

	tracing bool
	trace   []string
	failure string // the first invariant that didn't hold
	seen    modelSeen
}

// modelSeen counts what happened, so that a test can tell whether it tests anything.
type modelSeen struct {
	histories, failures        int
	passes, rotations, crashes int
	moves                      int           // of routes, from one link to another
	probes, owed, excused      int           // of packets: all, those that arrived, and those that were lost for good reason
	settled                    time.Duration // how long the longest took to come to rest in the end
}

// add adds another history.
func (s *modelSeen) add(other modelSeen) {
	s.histories++
	s.passes += other.passes
	s.rotations += other.rotations
	s.crashes += other.crashes
	s.moves += other.moves
	s.probes += other.probes
	s.owed += other.owed
	s.excused += other.excused
	s.settled = max(s.settled, other.settled)
}

// modelOwner is whose WireGuard key it is.
type modelOwner struct {
	node       *modelNode
	generation uint32
}

// modelBlock is a UDP port of a node that another node can't reach.
type modelBlock struct {
	node, from int
	device     int
}

// modelEvent is what happens at a time.
type modelEvent struct {
	at    time.Duration
	order uint64
	do    func()
}

// modelQueue holds what is to happen, what is next first. Events of one moment keep their order.
type modelQueue []modelEvent

func (q modelQueue) Len() int      { return len(q) }
func (q modelQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q modelQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q *modelQueue) Push(e any) { *q = append(*q, e.(modelEvent)) }

func (q *modelQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = modelEvent{}
	*q = (*q)[:last]
	return e
}

func newModelWorld(seed uint64, keyring *modelKeyring, tracing bool) *modelWorld {
	w := &modelWorld{
		epoch: time.Now(), rng: rand.New(rand.NewPCG(seed, 20260101)), keyring: keyring, tracing: tracing,
		owners: map[keys.PublicKey]modelOwner{},
	}
	for i := range w.pick([]int{0, 0, 50, 36, 10, 4}) { // 2 to 5
		w.nodes = append(w.nodes, newModelNode(w, i))
	}
	w.loss = []float64{0, 0, 0.3, 0.7}[w.rng.IntN(4)]
	for a := range w.nodes {
		for b := range a {
			w.busy[a][b] = w.chance(0.3)
			w.busy[b][a] = w.busy[a][b]
		}
	}
	return w
}

// after makes something happen later.
func (w *modelWorld) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, modelEvent{w.now + d, w.order, do})
}

// run lets time pass until a moment, or until all is done.
func (w *modelWorld) run(until time.Duration, done func() bool) {
	for w.failure == "" && len(w.queue) > 0 && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(modelEvent)
		w.now = e.at
		e.do()
		w.check()
		if done != nil && done() {
			return
		}
	}
	if w.failure == "" && w.now < until && done == nil {
		w.now = until
	}
}

// clock sets the clock that agents see, before one goes on.
func (w *modelWorld) clock() {
	if behind := time.Until(w.time(w.now)); behind > 0 {
		time.Sleep(behind) // of the bubble
	}
}

// time is a moment as agents have it.
func (w *modelWorld) time(at time.Duration) time.Time { return w.epoch.Add(at) }

func (w *modelWorld) chance(p float64) bool { return w.rng.Float64() < p }

// between is a random duration.
func (w *modelWorld) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

// soon is a random duration that is short mostly, and long at times.
func (w *modelWorld) soon(short, long time.Duration) time.Duration {
	if w.chance(0.9) {
		return w.between(0, short)
	}
	return w.between(0, long)
}

// pick draws an index by weights.
func (w *modelWorld) pick(weights []int) int {
	sum := 0
	for _, weight := range weights {
		sum += weight
	}
	n := w.rng.IntN(sum)
	for i, weight := range weights {
		if n -= weight; n < 0 {
			return i
		}
	}
	return 0
}

// note tells what happened, where somebody reads it.
func (w *modelWorld) note(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%9.3f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

// fail notes that an invariant doesn't hold. The first one counts: what follows from it says little.
func (w *modelWorld) fail(invariant int, format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("invariant %d: ", invariant) + fmt.Sprintf(format, args...)
		w.note("FAILED %s", w.failure)
	}
}

// history is the trace, as far as it fits.
func (w *modelWorld) history() string {
	const most = 5000
	trace := w.trace
	if left := len(trace) - most; left > 0 {
		trace = slices.Concat([]string{fmt.Sprintf("(%d lines before that)", left)}, trace[left:])
	}
	return strings.Join(trace, "\n")
}

// open reports whether UDP gets through between two ports, in both directions: a port that is blocked can neither be
// sent to nor answered from.
func (w *modelWorld) open(a *modelNode, portA int, b *modelNode, portB int) bool {
	if w.cut[a.number][b.number] {
		return false
	}
	for _, block := range w.blocks {
		port := modelPort(block.device)
		if block.node == a.number && block.from == b.number && port == portA ||
			block.node == b.number && block.from == a.number && port == portB {
			return false
		}
	}
	return true
}

// setCut cuts the network between two nodes, or mends it.
func (w *modelWorld) setCut(a, b int, cut bool) {
	if a == b || w.cut[a][b] == cut {
		return
	}
	w.note("%s and %s: cut %t", w.nodes[a].name, w.nodes[b].name, cut)
	w.cut[a][b], w.cut[b][a], w.changed = cut, cut, true
	if !cut {
		w.exchange(w.nodes[a], w.nodes[b])
	}
	w.feel()
}
