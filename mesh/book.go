package mesh

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// entry is a record that counts.
type entry struct {
	raw    []byte
	record record.Record
	age    int64
	since  time.Time  // when its pod CIDRs began to count here; zero: before this agent started
	from   netip.Addr // whom it came from first; zero: from others, or from several
}

// refusal is why a candidate doesn't count: a word for counters, and words for people.
type refusal struct {
	word   string
	reason string
}

// candidate is the hash of a node's name and the record that was heard for it.
type candidate [sha256.Size]byte

// verdict is what was found out about a candidate: opening one takes much longer than looking it up.
type verdict struct {
	record record.Record
	err    error
	word   string    // that it was refused with last
	taken  bool      // it counts, or did
	left   time.Time // when it was first seen that it counts no more; zero: it does, or never did
	handed time.Time // when it was first suspected though nobody announces it; zero: it wasn't
}

// claimant is an identity under a node's name.
type claimant struct {
	node     string
	identity keys.PublicIdentity
}

// waitingWord is for candidates that aren't refused: what they need may be under way.
const waitingWord = "waiting"

// unknownWord is for candidates of nodes that Kubernetes doesn't have: deleted ones whose agents still run, or
// somebody with the gossip key.
const unknownWord = "unknown"

// disputedWord is for candidates whose node was known under another identity first.
const disputedWord = "identity"

// backwardsWord is for candidates with WireGuard keys that their node can't have any more, or has others for.
const backwardsWord = "generation"

// book holds the records that count, one for each other node, and why others don't. It isn't safe for concurrent
// use: the loop owns it.
type book struct {
	self     string
	identity keys.PublicIdentity

	entries map[string]entry
	waiting map[string]string     // node → why no record of it counts
	judged  map[candidate]verdict // what is heard now
	refused map[string]uint64     // word → how many candidates
	unknown map[string]netip.Addr // who speaks without having a Node
	rivals  map[string]rival      // nodes whose latest record is refused, as it announces pod CIDRs that others had first
	// disputed are nodes whose latest record contradicts an earlier one that counts, and how.
	disputed map[string]refusal

	ownSeen       uint64 // highest sequence number of this identity that others know of
	ownGeneration uint32 // highest number of its WireGuard keys that others know of
	impostor      string // who else says that it is this node, in words

	// What the loop sets before it has candidates judged: where this node is, and its pod CIDRs without Kubernetes,
	// since when they count, and how long that takes to settle.
	ownAddresses []netip.Addr
	ownCIDRs     []netip.Prefix
	ownSince     time.Time
	settle       time.Duration
	ownSequence  uint64 // of the record that others were told last

	// What take was given, and when what it took was heard.
	now     time.Time
	cluster *ClusterState
	taken   []time.Time

	started        time.Time              // of this agent
	former         map[claimant]time.Time // identities that nodes had before → when they were seen to have lost them
	strangers      map[keys.PublicIdentity]bool
	suspects       map[suspect]suspicion
	newSuspects    int                   // how many of them aren't among the last ones
	suspectsBefore map[suspect]suspicion // the last ones of those that stood within the last minute

	forgotten map[claimant]Forgotten
	running   map[string][]netip.Addr // forgotten nodes → where members announce what they had said
	returned  []string                // forgotten nodes that count again, and nobody was told yet
}

func newBook(self string, identity keys.PublicIdentity) *book {
	return &book{
		self: self, identity: identity,
		entries: map[string]entry{}, waiting: map[string]string{},
		judged: map[candidate]verdict{}, refused: map[string]uint64{},
		former: map[claimant]time.Time{}, suspectsBefore: map[suspect]suspicion{},
		forgotten: map[claimant]Forgotten{},
	}
}

// load takes in a record of the cache. It was verified when it was written; what can be checked without the others is
// checked again.
func (b *book) load(node string, known RememberedRecord) error {
	r, err := record.Open(node, known.Raw)
	if err != nil {
		return err
	}
	if node == b.self { // this node had another name when it was written
		return fmt.Errorf("it is of %s, which is this node", node)
	}
	if owner := b.keyOwner(node, r); owner != "" {
		return fmt.Errorf("it has a WireGuard key of node %s", owner)
	}
	b.entries[node] = entry{raw: known.Raw, record: r, age: known.Age, from: known.From}
	return nil
}

// take judges what was heard against the pins, and returns what of the book changed.
func (b *book) take(heard []Heard, cluster *ClusterState, now time.Time) change {
	b.now, b.cluster, b.taken = now, cluster, nil
	if b.started.IsZero() {
		b.started = now
	}
	b.recall()
	changed := changeOf(b.prune(cluster))
	before := b.judged
	b.judged = make(map[candidate]verdict, len(heard))
	b.waiting, b.unknown, b.impostor = map[string]string{}, map[string]netip.Addr{}, ""
	b.rivals = map[string]rival{}
	b.disputed, b.strangers, b.running = map[string]refusal{}, nil, map[string][]netip.Addr{}
	b.expect(cluster)
	for _, h := range heard {
		id := candidateOf(h)
		v, seen := before[id]
		if !seen {
			v.record, v.err = record.Open(h.Node, h.Raw)
		}
		took, no := b.judge(h, v, cluster)
		changed = max(changed, took)
		if took == everything {
			b.taken = append(b.taken, firstHeard(h, now))
		}
		switch counts := bytes.Equal(b.entries[h.Node].raw, h.Raw); {
		case counts:
			v.taken, v.left = true, time.Time{}
		case v.taken && v.left.IsZero():
			v.left = now
		}
		v.word = b.note(h, &v, no)
		b.judged[id] = v
	}
	for node, e := range b.entries {
		delete(b.waiting, node)
		if b.rivals[node].sequence <= e.record.Sequence {
			delete(b.rivals, node)
		}
	}
	return changed
}

// note keeps why a candidate doesn't count, and counts it when that is new. It returns the word.
func (b *book) note(h Heard, v *verdict, no *refusal) string {
	switch {
	case no == nil:
		return ""
	case no.word == forgottenWord: // others that haven't forgotten it hand it on
		b.running[h.Node] = append(b.running[h.Node], without(h.At, b.running[h.Node])...)
		return no.word
	}
	b.suspected(h, v, *no)
	late := v.taken && (no.word == oldWord || no.word == replayWord)
	if s, known := b.suspects[suspect{h.Node, no.word}]; late && !(known && s.due(b.now)) {
		return v.word // it has its successor by now, and is still around
	}
	if no.word != v.word && no.word != waitingWord {
		b.refused[no.word]++
	}
	switch {
	case h.Node == b.self, no.word == oldWord, no.word == twiceWord, no.word == replayWord:
	case no.word == unknownWord, b.nodeless(h.Node):
		if h.Alive && h.From.IsValid() { // what gossip remembers of a Node that was deleted is nobody speaking
			b.unknown[h.Node] = h.From
		}
	case no.word == disputedWord && len(h.At) > 0:
		b.disputed[h.Node] = refusal{no.word, fmt.Sprintf("%s that it is %s, with another identity than before", members(h.At), h.Node)}
	case no.word == backwardsWord && len(h.At) > 0:
		b.disputed[h.Node] = *no
	case no.word == disputedWord, no.word == backwardsWord:
	default:
		b.wait(h, *no)
	}
	return no.word
}

// wait keeps why no record of a node counts. Of names that nobody vouches for, only so many are kept, and none that nobody
// has used but in forgeries that were handed on.
func (b *book) wait(h Heard, no refusal) {
	_, listed := b.waiting[h.Node]
	if !listed && (forged(no.word) && !h.Alive || len(b.waiting) >= maxNames) {
		return
	}
	b.waiting[h.Node] = no.reason
}

// nodeless reports whether Kubernetes answers, and has no Node for a name.
func (b *book) nodeless(node string) bool {
	if b.cluster == nil || !b.cluster.Synced || node == b.self {
		return false
	}
	_, listed := b.waiting[node] // all Nodes are, until the end of take
	return !listed
}

// expect lists the nodes that Kubernetes knows and nobody has heard of.
func (b *book) expect(cluster *ClusterState) {
	if cluster == nil {
		return
	}
	for _, n := range cluster.Nodes {
		if n.Name != b.self {
			b.waiting[n.Name] = "nothing was heard of it yet: does its agent run, and does gossip (TCP and UDP port " +
				fmt.Sprint(contract.GossipPort) + ") get through?"
		}
	}
}

// prune drops the records that Kubernetes contradicts: their Node is gone, or belongs to another identity, or has
// other pod CIDRs. As long as Kubernetes doesn't answer, all stay.
func (b *book) prune(cluster *ClusterState) bool {
	if cluster == nil || !cluster.Synced {
		return false
	}
	maps.DeleteFunc(b.former, func(c claimant, left time.Time) bool {
		return b.now.Sub(left) > formerFor && cluster.node(c.node) == nil
	})
	changed := false
	for name, e := range b.entries {
		n := cluster.node(name)
		if n == nil || (!n.Identity.IsZero() && n.Identity != e.record.Identity) || !ownsCIDRs(*n, e.record) {
			b.retire(claimant{name, e.record.Identity})
			delete(b.entries, name)
			changed = true
			continue
		}
		if age := n.Created.Unix(); e.age != age {
			e.age = age
			b.entries[name] = e
			changed = true
		}
	}
	return changed
}

// raws are the records that count, as they are on the wire.
func (b *book) raws() map[string][]byte {
	raws := make(map[string][]byte, len(b.entries))
	for name, e := range b.entries {
		raws[name] = e.raw
	}
	return raws
}

// nodes are the records that count as the view has them, sorted by name.
func (b *book) nodes(alive map[string]bool) []view.Node {
	nodes := make([]view.Node, 0, len(b.entries))
	for name, e := range b.entries {
		nodes = append(nodes, view.Node{
			Name: name, Identity: e.record.Identity, Sequence: e.record.Sequence, Generations: e.record.Generations,
			Endpoints: e.record.Endpoints(), PodCIDRs: e.record.PodCIDRs(), MTU: int(e.record.MTU), Age: e.age,
			Alive: alive[name],
		})
	}
	slices.SortFunc(nodes, func(a, b view.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

// waitingNodes are the nodes without a record that counts, sorted by name.
func (b *book) waitingNodes(alive map[string]bool) []view.Waiting {
	var waiting []view.Waiting
	for _, name := range slices.Sorted(maps.Keys(b.waiting)) {
		waiting = append(waiting, view.Waiting{Name: name, Reason: b.waiting[name], Alive: alive[name]})
	}
	return waiting
}

func (c *ClusterState) node(name string) *ClusterNode {
	for i := range c.Nodes {
		if c.Nodes[i].Name == name {
			return &c.Nodes[i]
		}
	}
	return nil
}
