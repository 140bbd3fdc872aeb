package mesh

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// lookInterval is how often the others are asked for their rows at most, in a mesh of up to 40 of them, and lookCost, for
	// each of them, the least time between two questions to all: what is measured changes no faster.
	lookInterval = 2 * time.Second
	lookCost     = 50 * time.Millisecond
	// rowsAtOnce is how many are asked at a time: no more answers than gossip keeps for the agent come at once. rowsPause is
	// between two such times.
	rowsAtOnce = 32
	rowsPause  = 250 * time.Millisecond
	// rowsKept is for how long rows are kept that nobody looks at.
	rowsKept = 10 * time.Minute

	// What others may cost this node by asking for its row: so many a second to one node, and so many bytes to all.
	rowRate       = rate.Limit(1)
	rowBurst      = 4
	rowBytes      = rate.Limit(256 << 10)
	rowBytesBurst = 1 << 20

	// smallMessage is what gossip sends in one packet.
	smallMessage = 1024

	// rowRefused counts answers that aren't a peer's word to this node, rowRequestRefused questions that aren't, and
	// rowRequestLimited those that came too fast.
	rowRefused        = "row"
	rowRequestRefused = "row-request"
	rowRequestLimited = "row-request-rate"
)

var errUnasked = errors.New("it answers no question, or an earlier one")

// rows are what other nodes have measured, as they said when they were asked, and what they ask. They are asked while somebody
// looks, and never else.
type rows struct {
	mu     sync.Mutex // guards what follows, up to the next comment
	looked time.Time  // when somebody looked last
	began  time.Time  // when the others began to be asked last
	heard  map[string]heardRow

	// The loop's own.
	queue  []string          // who is still to be asked, of those that are
	again  time.Time         // when the next of them are
	number uint64            // the sequence number of the question
	asked  map[string]uint64 // node → the question that waits for its answer
	words  lastWords         // of who asked this node
	to     map[string]*rate.Limiter
	room   *rate.Limiter
	wanted map[string]uint64 // node → its question, to be answered in this pass
}

// heardRow is what a node said.
type heardRow struct {
	identity keys.PublicIdentity // of who said it
	at       time.Time           // when it was heard
	cells    []record.RowCell
}

func newRows() rows {
	return rows{
		heard: map[string]heardRow{}, asked: map[string]uint64{}, words: lastWords{}, to: map[string]*rate.Limiter{},
		room: rate.NewLimiter(rowBytes, rowBytesBurst), wanted: map[string]uint64{},
	}
}

// between is the least time between two questions to all of so many others.
func between(others int) time.Duration {
	return max(lookInterval, time.Duration(others)*lookCost)
}

// look notes that somebody looks, and returns what was heard, and whether the others should be asked now.
func (r *rows) look(now time.Time, others int) (heard map[string]heardRow, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked = now
	return maps.Clone(r.heard), now.Sub(r.began) >= between(others)
}

// prune forgets nodes that are gone, or that have another identity, and what nobody has looked at for long.
func (r *rows) prune(entries map[string]entry, now time.Time) {
	r.words.prune(entries)
	gone := func(node string) bool {
		_, known := entries[node]
		return !known
	}
	maps.DeleteFunc(r.to, func(node string, _ *rate.Limiter) bool { return gone(node) })
	maps.DeleteFunc(r.asked, func(node string, _ uint64) bool { return gone(node) })
	r.mu.Lock()
	defer r.mu.Unlock()
	unseen := now.Sub(r.looked) > rowsKept
	maps.DeleteFunc(r.heard, func(node string, h heardRow) bool { return unseen || entries[node].record.Identity != h.identity })
}

// next is when the others are to be asked; zero: not before somebody looks.
func (r *rows) next(others int) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.queue) > 0:
		return r.again
	case r.looked.After(r.began):
		return r.began.Add(between(others))
	}
	return time.Time{}
}

// begin reports whether a round of questions is due, and begins it.
func (r *rows) begin(others int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.looked.After(r.began) || now.Sub(r.began) < between(others) {
		return false
	}
	r.began = now
	return true
}

// gather answers who asked for this node's row, and asks the others for theirs, if somebody looks.
func (a *Agent) gather(p *pass, now time.Time) {
	a.answerRows(p, now)
	if a.rows.begin(len(p.view.Peers), now) {
		a.rows.queue = nil
		for _, n := range p.view.Peers {
			if n.Alive {
				a.rows.queue = append(a.rows.queue, n.Name)
			}
		}
		rand.Shuffle(len(a.rows.queue), func(i, j int) { a.rows.queue[i], a.rows.queue[j] = a.rows.queue[j], a.rows.queue[i] })
		number, err := a.Keys.NextSequence()
		if err != nil {
			a.Log.Debug("the others aren't asked what they have measured", "error", err)
			a.rows.queue = nil
		}
		a.rows.number = number
	}
	if len(a.rows.queue) == 0 || now.Before(a.rows.again) {
		return
	}
	some := a.rows.queue[:min(len(a.rows.queue), rowsAtOnce)]
	a.rows.queue, a.rows.again = a.rows.queue[len(some):], now.Add(rowsPause)
	for _, node := range some {
		a.askRow(node)
	}
}

func (a *Agent) askRow(node string) {
	identity, _ := a.identityOf(node)
	r := record.RowRequest{From: a.Node, Sequence: a.rows.number}
	raw, err := record.SignRowRequest(r, node, identity, a.Keys.Identity())
	if err == nil {
		a.rows.asked[node] = r.Sequence
		err = a.Gossip.Send(node, raw)
	}
	if err != nil {
		a.Log.Debug("a node isn't asked what it has measured", "node", node, "error", err)
	}
}

// hearRow takes the answer of a node that was asked.
func (a *Agent) hearRow(raw []byte, now time.Time) error {
	r, err := record.OpenRow(raw, a.Node, a.Keys.Identity().Public(), a.identityOf)
	if err != nil {
		return a.refuse(rowRefused, err)
	}
	if a.rows.asked[r.From] != r.Answers { // one that came twice, or late, is no offence
		return errUnasked
	}
	delete(a.rows.asked, r.From)
	identity, _ := a.identityOf(r.From)
	a.rows.mu.Lock()
	defer a.rows.mu.Unlock()
	a.rows.heard[r.From] = heardRow{identity: identity, at: now, cells: r.Cells}
	return nil
}

// hearRowRequest takes the question of a node, which is answered at the end of the pass.
func (a *Agent) hearRowRequest(raw []byte, now time.Time) error {
	r, err := record.OpenRowRequest(raw, a.Node, a.Keys.Identity().Public(), a.identityOf)
	if err != nil {
		return a.refuse(rowRequestRefused, err)
	}
	identity, _ := a.identityOf(r.From)
	if !a.rows.words.newer(r.From, identity, r.Sequence) {
		return errReplay
	}
	if a.rows.to[r.From] == nil {
		a.rows.to[r.From] = rate.NewLimiter(rowRate, rowBurst)
	}
	if !a.rows.to[r.From].AllowN(now, 1) {
		a.book.refused[rowRequestLimited]++
		return errRate
	}
	a.rows.wanted[r.From] = r.Sequence
	return nil
}

// answerRows sends this node's row to those who asked for it.
func (a *Agent) answerRows(p *pass, now time.Time) {
	defer clear(a.rows.wanted)
	if len(a.rows.wanted) == 0 || p.blind { // blind it doesn't know which links are up; they ask again
		return
	}
	cells := wireCells(peerStatus(p, p.devices, now), a.measured())
	for node, number := range a.rows.wanted {
		if err := a.sendRow(node, record.Row{From: a.Node, Answers: number, Cells: cells}, now); err != nil {
			a.Log.Debug("a node isn't told what was measured here", "node", node, "error", err)
		}
	}
}

func (a *Agent) sendRow(node string, r record.Row, now time.Time) error {
	identity, _ := a.identityOf(node)
	raw, err := record.SignRow(r, node, identity, a.Keys.Identity())
	if err != nil {
		return err
	}
	if !a.rows.room.AllowN(now, len(raw)) {
		a.book.refused[rowRequestLimited]++
		return errRate
	}
	if len(raw) <= smallMessage {
		return a.Gossip.Send(node, raw)
	}
	return a.Gossip.Deliver(node, raw)
}

// wireCells are this node's row as it is sent. Whoever has the gossip key can make up nodes: where there are too many, those that
// are up come first.
func wireCells(peers []view.PeerStatus, measured map[string]view.Measured) []record.RowCell {
	ordered := make([]view.PeerStatus, 0, len(peers))
	for _, up := range []bool{true, false} {
		for _, peer := range peers {
			if peer.Up == up {
				ordered = append(ordered, peer)
			}
		}
	}
	cells := make([]record.RowCell, 0, len(peers))
	for _, peer := range ordered[:min(len(ordered), record.MaxRowCells)] {
		m := measured[peer.Node]
		cells = append(cells, record.RowCell{
			Node: record.TagOf(peer.Node), Up: peer.Up, RTT: m.RTT.Round(time.Microsecond), Lost: uint8(m.Lost), Probes: uint8(m.Probes),
		})
	}
	slices.SortFunc(cells, func(a, b record.RowCell) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	return slices.CompactFunc(cells, func(a, b record.RowCell) bool { return a.Node == b.Node })
}
