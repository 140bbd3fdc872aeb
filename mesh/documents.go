package mesh

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// askPause is how long an answer is waited for before somebody is asked again; it doubles up to maxAskPause.
	askPause    = time.Second
	maxAskPause = 30 * time.Second
	// maxAsked is how many documents are asked for at a time. The rest waits for its turn.
	maxAsked = 32
	// askSpread, times the number of nodes, is the time over which they spread their first requests for one document, and
	// maxAskSpread the longest such time: all others want what a node has changed, at once.
	askSpread    = 10 * time.Millisecond
	maxAskSpread = 2 * time.Second
	// missingTimes is how often somebody was asked for a document when that is told, after some half a minute, and maxMissing
	// for how many nodes it is.
	missingTimes = 6
	maxMissing   = 10
	// documentRefused counts documents that nobody asked for, or that aren't what their node's record says.
	documentRefused = "document"
)

// documents are those of other nodes: what is in force, and what is waited for. The loop owns it.
type documents struct {
	held   map[string]heldDocument // by node
	wanted map[string]*wish        // by node
	asked  map[string]time.Time    // node → when its document was asked for last
}

// heldDocument is a document in force. Its node's record may have another one by now, which isn't here yet.
type heldDocument struct {
	raw      []byte
	hash     [sha256.Size]byte
	identity keys.PublicIdentity // whose it is
	document record.Document
}

// wish is a document that a record which counts says there is, and that isn't here.
type wish struct {
	hash     [sha256.Size]byte
	version  uint64
	identity keys.PublicIdentity
	times    int       // how often somebody was asked
	asked    string    // who was asked last
	due      time.Time // when somebody is to be asked
	lonely   bool      // nobody was there to be asked
	refused  string    // why what came isn't taken: the node has signed two different things, and asking again is no use
}

func newDocuments() documents {
	return documents{held: map[string]heldDocument{}, wanted: map[string]*wish{}, asked: map[string]time.Time{}}
}

// load takes in a document of the cache, if there is one, of a node whose record was taken in before.
func (d *documents) load(node string, raw []byte, identity keys.PublicIdentity) error {
	if len(raw) == 0 {
		return nil // it had none
	}
	document, err := record.OpenDocument(node, raw, identity)
	if err != nil {
		return err
	}
	d.held[node] = heldDocument{raw: raw, hash: record.HashDocument(raw), identity: identity, document: document}
	return nil
}

// follow wants what the records that count say there is, and drops what they say there isn't any more. What is in force
// stays until its successor is here. It returns what of that which is in force changed.
func (d *documents) follow(entries map[string]entry, now time.Time) change {
	changed := nothing
	drop := func(node string) {
		if _, held := d.held[node]; held {
			changed = max(changed, changeOfDocument(d.held[node].document, record.Document{}))
			delete(d.held, node)
		}
	}
	for node := range d.held {
		if e, counts := entries[node]; !counts || e.record.DocumentVersion == 0 || e.record.Identity != d.held[node].identity {
			drop(node)
		}
	}
	maps.DeleteFunc(d.wanted, func(node string, w *wish) bool {
		e, counts := entries[node]
		return !counts || e.record.DocumentHash != w.hash || e.record.DocumentVersion != w.version || e.record.Identity != w.identity
	})
	for node, e := range entries {
		r := e.record
		if r.DocumentVersion == 0 || d.wanted[node] != nil || d.held[node].hash == r.DocumentHash {
			continue
		}
		due := now.Add(rand.N(min(askSpread*time.Duration(len(entries)), maxAskSpread)))
		// However often a node changes what it says.
		if next := d.asked[node].Add(askPause); next.After(due) {
			due = next
		}
		d.wanted[node] = &wish{hash: r.DocumentHash, version: r.DocumentVersion, identity: r.Identity, due: due}
	}
	maps.DeleteFunc(d.asked, func(_ string, at time.Time) bool { return now.Sub(at) > maxAskPause })
	return changed
}

// take takes in a document that came. It returns what changes by it, if it is in force now, and an error when it isn't what
// somebody's record says.
func (d *documents) take(raw []byte) (change, error) {
	hash := record.HashDocument(raw)
	err := fmt.Errorf("a document of %d bytes: no node's record that counts says that there is one", len(raw))
	for node, w := range d.wanted { // several may say that they have it
		if w.hash != hash || w.refused != "" {
			continue
		}
		document, no := record.OpenDocument(node, raw, w.identity)
		if no == nil && document.Version != w.version {
			no = fmt.Errorf("document of node %q: it has the version %d, and the record says %d", node, document.Version, w.version)
		}
		if no != nil {
			w.refused, err = no.Error(), no
			continue
		}
		changed := changeOfDocument(d.held[node].document, document)
		d.held[node] = heldDocument{raw: raw, hash: hash, identity: w.identity, document: document}
		delete(d.wanted, node)
		return changed, nil
	}
	for _, h := range d.held {
		if h.hash == hash {
			return nothing, nil // it came twice
		}
	}
	return nothing, err
}

// due are the nodes whose document is to be asked for now, those that have waited longest first.
func (d *documents) due(now time.Time) []string {
	room := maxAsked
	var due []string
	for node, w := range d.wanted {
		switch {
		case w.refused != "":
		case !w.due.After(now):
			due = append(due, node)
		case w.times > 0 && w.due.Sub(now) <= askPause:
			room-- // an answer may be under way
		}
	}
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(d.wanted[a].due.Compare(d.wanted[b].due), cmp.Compare(a, b))
	})
	return due[:min(len(due), max(room, 0))]
}

// next is when somebody is to be asked; zero: nobody.
func (d *documents) next() time.Time {
	var next time.Time
	for _, w := range d.wanted {
		if w.refused == "" && (next.IsZero() || w.due.Before(next)) {
			next = w.due
		}
	}
	return next
}

// ask notes that somebody is asked for a node's document, or that there is nobody to ask.
func (d *documents) ask(node, whom string, now time.Time) {
	w := d.wanted[node]
	if w.lonely = whom == ""; w.lonely {
		w.due = now.Add(maxAskPause)
		return
	}
	pause := min(askPause<<min(w.times, 16), maxAskPause)
	w.due = now.Add(pause*3/4 + rand.N(pause/2))
	w.asked = whom
	w.times++
	d.asked[node] = now
}

// waiting says, for a node whose document isn't here, why; "" when there is none to wait for.
func (d *documents) waiting(node string) string {
	w := d.wanted[node]
	switch _, older := d.held[node]; {
	case w == nil:
		return ""
	case w.refused != "":
		return "it isn't taken: " + w.refused
	case w.times == 0 && older:
		return "its latest version isn't here yet, and the one before stays in force"
	case w.times == 0:
		return "it isn't here yet"
	case older:
		return fmt.Sprintf("its latest version isn't here yet, though it was asked for %s, %s last; the one before stays in force", times(w.times), w.asked)
	default:
		return fmt.Sprintf("it isn't here yet, though it was asked for %s, %s last", times(w.times), w.asked)
	}
}

// problems tells of documents that don't come, or that nobody can take.
func (d *documents) problems() []view.Problem {
	var problems []view.Problem
	for _, node := range slices.Sorted(maps.Keys(d.wanted)) {
		w := d.wanted[node]
		p := view.Problem{Subject: "node " + node, Message: "its document, which has its networks: " + d.waiting(node), Warning: true}
		switch {
		case len(problems) >= maxMissing:
			return problems // status has the others with their nodes
		case w.refused != "":
			p.Remedy = "restart its agent; if that doesn't help, report it with both agents' logs"
			problems = append(problems, p)
		case w.times >= missingTimes:
			p.Remedy = fmt.Sprintf("let TCP port %d through between the nodes, and see that its agent runs", contract.GossipPort)
			problems = append(problems, p)
		}
	}
	return problems
}

// allWaiting are the nodes whose latest document isn't here, and why.
func (d *documents) allWaiting() map[string]string {
	all := make(map[string]string, len(d.wanted))
	for node := range d.wanted {
		all[node] = d.waiting(node)
	}
	return all
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
