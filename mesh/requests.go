package mesh

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// What others may cost this node by asking for documents. Who gets no answer asks again later, or somebody else.
const (
	// A node that has just started asks others for the documents of many that aren't there.
	answerRate  = rate.Limit(8) // a second, to one node
	answerBurst = 32
	// All answers together, in bytes a second.
	answerBytes      = rate.Limit(1 << 20)
	answerBytesBurst = 4 << 20
	// requestRefused counts requests that aren't rightly signed by who they say.
	requestRefused = "document-request"
	// requestLimited counts those that came too fast.
	requestLimited = "document-request-rate"
)

var (
	errReplay = errors.New("it isn't newer than the last one of its sender")
	errRate   = errors.New("there are too many")
)

// answers is what other nodes have asked for. The loop owns it.
type answers struct {
	room *rate.Limiter
	to   map[string]*rate.Limiter
	last lastWords
}

func newAnswers() answers {
	return answers{room: rate.NewLimiter(answerBytes, answerBytesBurst), to: map[string]*rate.Limiter{}, last: lastWords{}}
}

// admit says why a request that is rightly signed isn't answered now, and notes that it was made.
func (k *answers) admit(r record.Request, identity keys.PublicIdentity, now time.Time) error {
	if !k.last.newer(r.From, identity, r.Sequence) {
		return errReplay
	}
	if k.to[r.From] == nil {
		k.to[r.From] = rate.NewLimiter(answerRate, answerBurst)
	}
	if !k.to[r.From].AllowN(now, 1) {
		return errRate
	}
	return nil
}

// prune forgets nodes that are gone.
func (k *answers) prune(entries map[string]entry) {
	k.last.prune(entries)
	maps.DeleteFunc(k.to, func(node string, _ *rate.Limiter) bool {
		_, known := entries[node]
		return !known
	})
}

// listen takes what came from other agents: acknowledgements, losses, documents, rows, and requests for the latter two. It returns what
// changes by documents that came into force.
func (a *Agent) listen(now time.Time) change {
	changed := nothing
	var acks [][]byte
	a.answers.prune(a.book.entries)
	a.losses.heard.prune(a.book.entries)
	a.rows.prune(a.book.entries, now)
	for _, raw := range a.Gossip.Messages() {
		switch {
		case len(raw) > 0 && raw[0] == record.DocumentKind:
			took, err := a.documents.take(raw[1:])
			if err != nil {
				a.book.refused[documentRefused]++
				a.Log.Debug("a document isn't taken", "error", err)
			}
			changed = max(changed, took)
		case len(raw) > 0 && raw[0] == record.RequestKind:
			if err := a.answer(raw, now); err != nil {
				a.Log.Debug("a request for a document isn't answered", "error", err)
			}
		case len(raw) > 0 && raw[0] == record.LossKind:
			if err := a.hearLoss(raw, now); err != nil {
				a.Log.Debug("a peer's word that it has lost a session isn't taken", "error", err)
			}
		case len(raw) > 0 && raw[0] == record.RowRequestKind:
			if err := a.hearRowRequest(raw, now); err != nil {
				a.Log.Debug("a question what was measured here isn't answered", "error", err)
			}
		case len(raw) > 0 && raw[0] == record.RowKind:
			if err := a.hearRow(raw, now); err != nil {
				a.Log.Debug("what a node has measured isn't taken", "error", err)
			}
		default:
			acks = append(acks, raw)
		}
	}
	a.rotation.acks.take(a.hear(acks))
	return changed
}

// identityOf is the identity of a node whose record counts.
func (a *Agent) identityOf(node string) (keys.PublicIdentity, bool) {
	e, known := a.book.entries[node]
	return e.record.Identity, known
}

// refuse counts a message that can't be opened, and returns its error. One of a sender that isn't known is no offence: its record may be
// on its way here, or it has left since it was asked; who asks does so again.
func (a *Agent) refuse(reason string, err error) error {
	if !errors.Is(err, record.ErrSender) {
		a.book.refused[reason]++
	}
	return err
}

// answer sends a document to who asks for it, if it is here.
func (a *Agent) answer(raw []byte, now time.Time) error {
	r, err := record.OpenRequest(raw, a.Node, a.Keys.Identity().Public(), a.identityOf)
	if err != nil {
		return a.refuse(requestRefused, err)
	}
	identity, _ := a.identityOf(r.From)
	if err := a.answers.admit(r, identity, now); err != nil {
		// A datagram that came twice is no offence, so replays aren't counted.
		if errors.Is(err, errRate) {
			a.book.refused[requestLimited]++
		}
		return err
	}
	document := a.documents.held[r.Node].raw
	if r.Node == a.Node {
		document = a.document.raw
	}
	if document == nil || record.HashDocument(document) != r.Hash {
		return nil // another one may have it
	}
	if !a.answers.room.AllowN(now, len(document)) {
		a.book.refused[requestLimited]++
		return errRate
	}
	return a.Gossip.Deliver(r.From, slices.Concat([]byte{record.DocumentKind}, document))
}

// ask asks for the documents that aren't here: first their node, and then, by turns, any other one that is alive.
func (a *Agent) ask(alive map[string]bool, now time.Time) {
	for node, w := range a.documents.wanted {
		if w.lonely && a.whom(node, w, alive) != "" {
			w.due = now
		}
	}
	for _, node := range a.documents.due(now) {
		w := a.documents.wanted[node]
		whom := a.whom(node, w, alive)
		if whom != "" {
			if err := a.request(whom, node, w); err != nil {
				a.Log.Debug("a document can't be asked for", "node", node, "whom", whom, "error", err)
			}
		}
		a.documents.ask(node, whom, now)
	}
}

// whom is who is asked for a node's document next; "": nobody is there.
func (a *Agent) whom(node string, w *wish, alive map[string]bool) string {
	if alive[node] && w.times%2 == 0 {
		return node
	}
	var others []string
	for other := range a.book.entries {
		if other != node && alive[other] {
			others = append(others, other)
		}
	}
	switch {
	case len(others) > 0:
		return others[rand.IntN(len(others))]
	case alive[node]:
		return node
	}
	return ""
}

func (a *Agent) request(whom, node string, w *wish) error {
	sequence, err := a.Keys.NextSequence()
	if err != nil {
		return err
	}
	identity, _ := a.identityOf(whom)
	r := record.Request{From: a.Node, Sequence: sequence, Node: node, Hash: w.hash}
	raw, err := record.SignRequest(r, whom, identity, a.Keys.Identity())
	if err != nil {
		return err
	}
	return a.Gossip.Send(whom, raw)
}
