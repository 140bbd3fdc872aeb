package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Words for candidates that somebody may have made up, or taken from another node.
const (
	pinWord  = "pin"  // not by the identity that Kubernetes has for the node
	cidrWord = "cidr" // with pod CIDRs that aren't the node's
	keyWord  = "key"  // with a WireGuard key of another node
	nameWord = "name" // under this node's name
	oldWord  = "old"  // an earlier record than the one that counts
	// twiceWord is for another record with the sequence number of the one that counts.
	twiceWord = "sequence"
	// replayWord is for the record that counts, announced by somebody else too.
	replayWord = "replay"
)

const (
	// innocence is for how long what may have an honest cause isn't reported: a pin and a pod CIDR that are on their
	// way, and gossip that is slow.
	innocence = 2 * time.Second
	// lingering is the same for what comes from the node's own address: memberlist takes up to half of it to see that
	// the member of an earlier start is dead.
	lingering = time.Minute
	// maxSuspects is how many are named, each by a problem of its own; of more, their number is.
	maxSuspects = 10
	// handedFor is for how long forgeries that nobody announces, but that were handed on, are reported.
	handedFor = 2 * time.Minute
)

// suspect is who is spoken for, and in which way.
type suspect struct{ node, word string }

// suspicion is a record that somebody gossips, and that its node hasn't, or can't have, said now.
type suspicion struct {
	suspect
	reason string
	at     []netip.Addr // whom it comes from; none: it was handed on by others
	own    bool         // it comes from the node's own address alone
	since  time.Time
}

// forged reports whether a word is for what no honest agent sends.
func forged(word string) bool {
	switch word {
	case record.Reason(record.ErrSignature), record.Reason(record.ErrMalformed), record.Reason(record.ErrSize):
		return true
	}
	return false
}

// grace is for how long it isn't reported.
func (s suspicion) grace() time.Duration {
	switch {
	case s.own && (s.word == pinWord || s.word == oldWord || s.word == nameWord || s.word == replayWord):
		return lingering
	case s.word == pinWord, s.word == cidrWord, s.word == keyWord, s.word == oldWord, s.word == twiceWord, s.word == replayWord:
		return innocence
	}
	return 0
}

func (s suspicion) due(now time.Time) bool {
	if len(s.at) == 0 && now.Sub(s.since) > handedFor {
		return false
	}
	return now.Sub(s.since) >= s.grace()
}

// suspected notes a candidate that isn't taken, if somebody gossips it now.
func (b *book) suspected(h Heard, r record.Record, no refusal) {
	handed := len(h.At) == 0 && !h.From.IsValid()
	if len(h.At) == 0 && !(handed && forged(no.word)) || no.word == waitingWord || no.word == unknownWord {
		return // else whoever announced it is gone
	}
	if (no.word == pinWord || no.word == cidrWord) && b.cluster != nil && !b.cluster.Reachable {
		return // what Kubernetes said last may be wrong by now
	}
	s := suspicion{suspect: suspect{h.Node, no.word}, reason: no.reason, at: h.At, since: b.now}
	own := b.addresses(h.Node)
	if no.word == oldWord {
		for _, e := range r.Endpoints() { // where it was once: a member of its own may linger there
			own = append(own, e.Addr())
		}
	}
	if strangers := without(h.At, own); len(strangers) > 0 {
		s.at = strangers
	} else {
		s.own = len(h.At) > 0
	}
	if before, known := b.suspectsBefore[s.suspect]; known {
		// With the words of the first one: else whoever sends others all the time fills the logs.
		s.since, s.reason = before.since, before.reason
	}
	if other, known := b.suspects[s.suspect]; known { // two candidates of one kind
		s.own = s.own && other.own
		s.at = without(append(slices.Clone(other.at), s.at...), nil)
	}
	b.suspects[s.suspect] = s
}

// replayed finds the record that counts announced by somebody else than its node.
func (b *book) replayed(h Heard) *refusal {
	strangers := without(h.At, b.addresses(h.Node))
	if len(strangers) == 0 {
		return nil
	}
	return &refusal{replayWord, fmt.Sprintf("%s announces a copy of it", addressList(strangers))}
}

// addresses are a node's own, as far as they are known: of its record, of its Node, or where its record came from first.
func (b *book) addresses(node string) []netip.Addr {
	if node == b.self {
		return slices.Clone(b.ownAddresses)
	}
	var own []netip.Addr
	if e, counts := b.entries[node]; counts {
		for _, endpoint := range e.record.Endpoints() {
			own = append(own, endpoint.Addr())
		}
		if e.from.IsValid() {
			own = append(own, e.from)
		}
	}
	if b.cluster != nil {
		if n := b.cluster.node(node); n != nil {
			own = append(own, n.Addresses...)
		}
	}
	return own
}

// without are the addresses that aren't among others, each once, sorted.
func without(addresses, others []netip.Addr) []netip.Addr {
	var left []netip.Addr
	for _, a := range addresses {
		if !slices.Contains(others, a) && !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	slices.SortFunc(left, netip.Addr.Compare)
	return left
}

func addressList(addresses []netip.Addr) string {
	var texts []string
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " and ")
}

// accused are the suspicions that are reported, sorted.
func (b *book) accused() []suspicion {
	var all []suspicion
	for _, s := range b.suspects {
		if s.due(b.now) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y suspicion) int {
		return cmp.Or(strings.Compare(x.node, y.node), strings.Compare(x.word, y.word))
	})
	return all
}

// undecided reports whether a suspicion will be reported soon, if it lasts.
func (b *book) undecided() bool {
	for _, s := range b.suspects {
		if s.grace() == innocence && !s.due(b.now) {
			return true
		}
	}
	return false
}

// problem is the suspicion for operators.
func (s suspicion) problem() view.Problem {
	p := view.Problem{Subject: "node " + s.node, Warning: true, Message: s.text()}
	where := "that host"
	if len(s.at) > 0 {
		where = addressList(s.at)
	}
	switch s.word {
	case record.Reason(record.ErrVersion):
		p.Remedy = "bring all agents to the same version"
	case cidrWord:
		p.Remedy = "compare the pod CIDRs of the node with what its agent was given; if they are right, somebody has the gossip " +
			"key and this node's identity: change both; without Kubernetes, if the other node gave them up, stop this agent, remove " +
			view.StateDir + "/" + view.CacheFile + " and start it"
	case keyWord:
		p.Remedy = "were its disk or key store copied? Move away " + view.StateDir + "/" + keys.FileName + " on the copy, and restart " +
			"its agent; if not, it speaks with another node's key: find out what runs at " + where
	case pinWord:
		p.Remedy = "if its disk was wiped, see why its agent can't write its Node; if not, find out what runs at " + where +
			": it has the gossip key, which is then to be changed"
	default:
		p.Remedy = "find out what runs at " + where + ": it has the gossip key, which is to be changed if it isn't meant to"
	}
	return p
}

// text is what is said, and by whom.
func (s suspicion) text() string {
	who := "somebody, handed on by other nodes,"
	if len(s.at) > 0 {
		who = addressList(s.at)
	}
	return fmt.Sprintf("%s says in its name what isn't taken: %s", who, s.reason)
}

// eventful reports whether people who look at the Node should learn of it.
func (s suspicion) eventful() bool { return s.word != record.Reason(record.ErrVersion) }

// eventAgain is how often an Event about the same is asked for while it lasts.
const eventAgain = 10 * time.Minute

// accuse reports who says what only others may say.
func (a *Agent) accuse(p *pass) {
	all := a.book.accused()
	for i, s := range all {
		if s.word == nameWord || s.word == disputedWord || s.word == backwardsWord {
			continue // there is a problem of its own for it
		}
		if i == maxSuspects {
			p.problems = append(p.problems, view.Problem{
				Subject: "gossip", Warning: true, Message: "more records aren't taken than are listed here",
				Remedy: "somebody has the gossip key: change it",
			})
			break
		}
		p.problems = append(p.problems, s.problem())
	}
	if a.Cluster == nil {
		return
	}
	told := make(map[suspect]time.Time, len(all))
	for i, s := range all {
		last, known := a.accusations[s.suspect]
		if i < maxSuspects && s.eventful() && (!known || a.book.now.Sub(last) >= eventAgain) {
			a.Cluster.Event(Event{Kind: RecordRefused, Node: s.node, Topic: s.word, Message: s.text()})
			last = a.book.now
		}
		told[s.suspect] = last
	}
	a.accusations = told
}
