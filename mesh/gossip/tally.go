package gossip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// The reasons that Counters has. All of them count from Start.
const (
	reasonUndecryptable = "gossip-undecryptable" // packets and streams that no key of ours opens
	reasonUnencrypted   = "gossip-unencrypted"   // streams that aren't encrypted at all
	reasonMalformed     = "gossip-malformed"     // packets and streams that aren't memberlist's
	reasonOverload      = "gossip-overload"      // dropped, because there was too much at once
	reasonConflict      = "gossip-conflict"      // one member name at two addresses
	reasonName          = "gossip-member-name"   // members whose name isn't NODE/RANDOM
	reasonFull          = "gossip-too-many-nodes"
	reasonMetaSize      = "gossip-metadata-size"
	reasonProtocol      = "gossip-protocol" // members that speak other versions of memberlist's protocol
	reasonState         = "gossip-state"    // what another member handed on is malformed, or of another version
	reasonSilenced      = "gossip-silenced" // names of this node's member that others took away, see worn
	reasonMessageSize   = "gossip-message-size"
	reasonMessageFull   = "gossip-too-many-messages" // lost for newer ones, or more than one address may send
)

const (
	// problemAge is how long a problem is reported after it was last seen.
	problemAge = 2 * time.Minute
	// maxSubjects is how many problems of one kind are held at a time, each with a subject of its own.
	maxSubjects = 8
)

// tally counts what was refused, and remembers what operators should know for a while. Safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	counters map[string]uint64
	problems map[string]sighting // by a key of the reporter's
}

type sighting struct {
	problem view.Problem
	last    time.Time
}

func newTally() *tally {
	return &tally{counters: make(map[string]uint64), problems: make(map[string]sighting)}
}

func (t *tally) count(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters[reason]++
}

func (t *tally) counts() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counters)
}

// The keys of problems, those of many with their subject behind.
const (
	keyIsolated = "isolated"
	keyWorn     = "worn"
	keyRenewal  = "renewal"
	keyPacket   = "packet/"
	keyUDP      = "udp/"
	// keyMore is the key's subject of what stands for all subjects beyond maxSubjects.
	keyMore = "~more" // sorts behind addresses and the names of nodes
)

// moreSubject is the subject of what stands for all beyond maxSubjects of a kind of key.
func moreSubject(kind string) string {
	if kind == keyPacket {
		return "gossip from more addresses"
	}
	return "more nodes"
}

// report notes a problem that is seen now, in place of what was known under its key. Subjects are what others choose: a
// packet's sender, or the name of a node. So a kind that has maxSubjects keeps them, and says of the next that there are
// more, and a subject keeps what was said of it first: what an operator reads stands still however many there are and
// whatever they send, and takes no other problem's place.
func (t *tally) report(key string, p view.Problem, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if kind, _, many := strings.Cut(key, "/"); many {
		key, p = t.settle(kind+"/", key, p, now)
	}
	t.problems[key] = sighting{problem: p, last: now}
}

// settle returns the key under which a problem of a kind of many subjects is held, and what is said of it.
func (t *tally) settle(kind, key string, p view.Problem, now time.Time) (string, view.Problem) {
	subjects := 0
	for k, s := range t.problems {
		if strings.HasPrefix(k, kind) && k != key && k != kind+keyMore && now.Sub(s.last) <= problemAge {
			subjects++
		}
	}
	if subjects >= maxSubjects {
		key, p.Subject = kind+keyMore, moreSubject(kind)
	}
	if known, ok := t.problems[key]; ok && now.Sub(known.last) <= problemAge {
		p = known.problem
	}
	return key, p
}

// hasOtherKey reports whether what comes from an address was told of late to be encrypted with another key.
func (t *tally) hasOtherKey(from netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, known := t.problems[keyPacket+from.String()]
	return known && now.Sub(s.last) <= problemAge && s.problem == otherKey(from)
}

// withdraw drops the problem of this key: it is over.
func (t *tally) withdraw(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.problems, key)
}

// recent returns the problems that aren't older than problemAge, sorted, and drops the others.
func (t *tally) recent(now time.Time) []view.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.problems, func(_ string, s sighting) bool { return now.Sub(s.last) > problemAge })
	var all []view.Problem
	for _, key := range slices.Sorted(maps.Keys(t.problems)) {
		all = append(all, t.problems[key].problem)
	}
	return all
}

func otherKey(from netip.Addr) view.Problem {
	return view.Problem{
		Subject: "gossip from " + from.String(),
		Message: "it can't be decrypted: that node has another gossip key",
		Remedy: "give both nodes the same gossip key; if that host isn't a node of this mesh, find out what on it " +
			"sends to the gossip port",
	}
}

func notGossip(from netip.Addr, port uint16) view.Problem {
	return view.Problem{
		Subject: "gossip from " + from.String(),
		Message: "what comes from there to the gossip port isn't gossip of this mesh",
		Remedy:  fmt.Sprintf("find out what on that host sends to port %d here (Weave Net uses it too)", port),
		Warning: true,
	}
}

func noUDP(node string, port uint16) view.Problem {
	return view.Problem{
		Subject: "node " + node,
		Message: "it answers gossip over TCP, and not over UDP",
		Remedy:  fmt.Sprintf("let UDP port %d through in both directions", port),
		Warning: true,
	}
}

func sameName(node string, at []netip.Addr) view.Problem {
	var text []string
	for _, a := range at {
		text = append(text, a.String())
	}
	return view.Problem{
		Subject: "node " + node,
		Message: fmt.Sprintf("agents at %s all say that they are this node", strings.Join(text, " and ")),
		Remedy:  "give each node a name of its own",
	}
}

func isolated(reason string, port uint16) view.Problem {
	return view.Problem{
		Subject: "gossip",
		Message: "this node reaches no other node's gossip; the last attempt: " + reason,
		Remedy:  fmt.Sprintf("let TCP and UDP port %d through between nodes, and see that the other agents run", port),
	}
}

func wornOut(member string) view.Problem {
	return view.Problem{
		Subject: "gossip",
		Message: fmt.Sprintf("somebody with the gossip key tried to silence this node's member %s, so it has another name now", member),
		Remedy:  "find out which node was broken into, and change the gossip key: weaveguard keyring add, use, remove",
	}
}

func notRenewed(err error) view.Problem {
	return view.Problem{
		Subject: "gossip",
		Message: "this node isn't in the gossip while it can't join under another name: " + err.Error(),
		Remedy:  "see to what the message says; it is tried again every few seconds",
	}
}
