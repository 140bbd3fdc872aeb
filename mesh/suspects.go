package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
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
	// lingering is for how long after its end a member of an earlier start may still be heard: memberlist takes up to
	// half of it to see that it is dead.
	lingering = time.Minute
	// gap is for how long a suspicion may be away, and goes on when it is back: members that die and come again.
	gap = time.Minute
	// maxSuspects is how many are named, each by a problem of its own; of more, their number is.
	maxSuspects = 10
	// maxNames is how many suspicions are kept, and how many names without a Node are waited for: who has the gossip key can
	// make up any number.
	maxNames = 1024
	// maxNamed is how many addresses a suspicion names.
	maxNamed = 4
)

// suspect is who is spoken for, and in which way.
type suspect struct{ node, word string }

// suspicion is a record that somebody gossips, and that its node hasn't, or can't have, said now.
type suspicion struct {
	suspect
	reason string
	at     []netip.Addr // where members said they are that announced it while it lasts
	says   bool         // somebody announces it now; else it was handed on by others
	since  time.Time
	last   time.Time // when it was gone
	until  time.Time // it may be left from an earlier start of the node until then
}

// forged reports whether a word is for what no honest agent sends.
func forged(word string) bool {
	switch word {
	case record.Reason(record.ErrSignature), record.Reason(record.ErrMalformed), record.Reason(record.ErrSize):
		return true
	}
	return false
}

// dueAt is when it is to be reported.
func (s suspicion) dueAt() time.Time {
	due := s.since
	switch s.word {
	case pinWord, cidrWord, keyWord, oldWord, twiceWord, replayWord:
		due = due.Add(innocence)
	}
	if s.until.After(due) {
		return s.until
	}
	return due
}

func (s suspicion) due(now time.Time) bool { return !now.Before(s.dueAt()) }

// recall begins a new round of suspicions, and forgets those that have been away for long.
func (b *book) recall() {
	for k, s := range b.suspects {
		s.last = b.now
		b.suspectsBefore[k] = s
	}
	maps.DeleteFunc(b.suspectsBefore, func(_ suspect, s suspicion) bool { return b.now.Sub(s.last) > gap })
	b.suspects, b.newSuspects = map[suspect]suspicion{}, 0
}

// suspected notes a candidate that isn't taken, if somebody gossips it now.
func (b *book) suspected(h Heard, v *verdict, no refusal) {
	if no.word == waitingWord || no.word == unknownWord || b.nodeless(h.Node) {
		return
	}
	if (no.word == pinWord || no.word == cidrWord) && b.cluster != nil && !b.cluster.Reachable {
		return // what Kubernetes said last may be wrong by now
	}
	if len(h.At) == 0 && !b.handedOn(h, v, no.word) {
		return // whoever announced it is gone, or honest agents may hand it on
	}
	before, known := b.suspectsBefore[suspect{h.Node, no.word}]
	other, twice := b.suspects[suspect{h.Node, no.word}] // two candidates of one kind
	if !known && !twice {
		if len(b.suspectsBefore)+b.newSuspects >= maxNames {
			return
		}
		b.newSuspects++
	}
	s := suspicion{suspect: suspect{h.Node, no.word}, reason: no.reason, at: h.At, says: len(h.At) > 0, since: b.now}
	own := b.addresses(h.Node)
	if no.word == oldWord {
		for _, e := range v.record.Endpoints() { // where it was once: a member of its own may linger there
			own = append(own, e.Addr())
		}
	}
	if strangers := without(h.At, own); len(strangers) > 0 {
		s.at = strangers
	} else if len(h.At) > 0 {
		s.until = b.lingers(h.Node, *v, no.word)
	}
	if known {
		s.since = before.since
		if before.last.Equal(b.now) { // it stood until now: else whoever says something else all the time fills the logs
			s.reason, s.at = before.reason, named(before.at, s.at)
		}
	}
	if twice {
		if other.until.Before(s.until) {
			s.until = other.until
		}
		s.at, s.says = named(other.at, s.at), s.says || other.says
	}
	s.at = named(nil, s.at)
	b.suspects[s.suspect] = s
}

// named are the addresses that were named, and of more as many as there is room for, sorted.
func named(before, more []netip.Addr) []netip.Addr {
	more = without(more, before)
	all := append(slices.Clone(before), more[:min(len(more), max(0, maxNamed-len(before)))]...)
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// lingers returns until when a member of an earlier start of the node may be what announces a candidate; zero: it can't
// be. Where a member says that it is shows nothing: anybody can say so. What this agent knew before does.
func (b *book) lingers(node string, v verdict, word string) time.Time {
	left, had := b.former[claimant{node, v.record.Identity}]
	switch {
	case word == nameWord, word == oldWord && node == b.self:
		return b.started.Add(lingering) // this node's own earlier start
	case word == oldWord && v.taken:
		return v.left.Add(lingering)
	case word == oldWord:
		return b.started.Add(lingering) // it may have been taken before
	case word == pinWord && had:
		return left.Add(lingering)
	}
	return time.Time{}
}

// replayed finds the record that counts announced by somebody else than its node.
func (b *book) replayed(h Heard) *refusal {
	strangers := without(h.At, b.addresses(h.Node))
	if len(strangers) == 0 {
		return nil
	}
	return &refusal{replayWord, "it is a copy of what the node says itself"}
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

// undecided returns when a suspicion will be reported next, if it lasts; zero: none will.
func (b *book) undecided() time.Time {
	var next time.Time
	for _, s := range b.suspects {
		if due := s.dueAt(); due.After(b.now) && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// problem is the suspicion for operators. It blames no host: where a member says it is may be somebody else's address.
func (s suspicion) problem() view.Problem {
	p := view.Problem{Subject: "node " + s.node, Warning: true, Message: s.text()}
	const somebody = "somebody, there or elsewhere, has the gossip key"
	switch s.word {
	case record.Reason(record.ErrVersion):
		p.Remedy = "bring all agents to the same version"
	case cidrWord:
		p.Remedy = "compare the pod CIDRs of the node with what its agent was given; if they are right, somebody has the gossip " +
			"key and this node's identity: change both; without Kubernetes, if the other node is gone for good, `weaveguard forget` it here"
	case keyWord:
		p.Remedy = "were its disk or key store copied? Move away " + contract.StateDir + "/" + keys.FileName + " on the copy, and restart " +
			"its agent; if not, somebody has the gossip key and this node's identity, and announces another node's key: change both"
	case pinWord, disputedWord:
		if !s.says {
			p.Remedy = "if its disk was wiped, an agent that doesn't know of it may have handed on what it said before; if not, " +
				somebody + ": change it"
			break
		}
		p.Remedy = "if its disk was wiped, see why its agent can't write its Node; if not, " + somebody + ": change it"
	default:
		p.Remedy = somebody + ": change it if they aren't meant to"
	}
	return p
}

// text is what is said, and by whom.
func (s suspicion) text() string {
	by := s.at
	if !s.says {
		by = nil
	}
	return members(by) + " in its name what isn't taken: " + s.reason
}

// members says who announces something, by where they say they are.
func members(at []netip.Addr) string {
	switch len(at) {
	case 0:
		return "somebody, handed on by other nodes, announces"
	case 1:
		return "a member that says it is at " + at[0].String() + " announces"
	}
	return "members that say they are at " + addressList(at) + " announce"
}

// eventful reports whether people who look at the Node should learn of it.
func (s suspicion) eventful() bool { return s.word != record.Reason(record.ErrVersion) }

// eventAgain is how often an Event about the same is asked for while it lasts.
const eventAgain = 10 * time.Minute

// reported tells whether there is a problem of its own for what is suspected.
func (b *book) reported(s suspicion) bool {
	switch s.word {
	case nameWord:
		return b.impostor != ""
	case disputedWord, backwardsWord:
		_, disputed := b.disputed[s.node]
		return disputed
	}
	return false
}

// accuse reports who says what only others may say.
func (a *Agent) accuse(p *pass) {
	all := a.book.accused()
	for i, s := range all {
		if a.book.reported(s) {
			continue
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
