package gossip

import (
	"bytes"
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// maxNodes is how many node names the book holds. Only who has the gossip key can fill it.
	maxNodes = 8192
	// maxCandidates is how many different records the book holds for one node name.
	maxCandidates = 4
	// twinAge is how long two members of one node name must be alive side by side before they count as two
	// nodes: memberlist takes up to half of it to see that the member of an earlier start is dead.
	twinAge = time.Minute
)

// Heard is a record that somebody sent: a candidate, not verified.
type Heard struct {
	Node string
	Raw  []byte // as record.Sign made it, if it is what it claims to be
	// From is the address of the member that announced it; zero when another member handed it on.
	From netip.Addr
	// At are the addresses of the members that announce it now, sorted; of this node's own none.
	At []netip.Addr
	// Since is when it was heard first.
	Since time.Time
	// Alive: a member of this node name is alive now, whether or not the record is its own. Under this node's name
	// only another one counts.
	Alive bool
}

// Member is a node whose agent gossip sees alive.
type Member struct {
	Node string
	Addr netip.AddrPort
	Self bool
}

// book is what was heard: the members that are alive, and the latest records of each node name. A node that goes
// keeps its records. Safe for concurrent use; no method blocks or calls out.
type book struct {
	mu     sync.Mutex
	self   string // this node's member name
	nodes  map[string]*entry
	shared map[string][]byte // verified records, by node name; their nodes are never evicted
	turn   uint64            // grows with each touch of an entry
}

type entry struct {
	members    map[string]member // alive, by member name
	candidates []candidate       // oldest first
	touched    uint64
}

type member struct {
	addr  netip.AddrPort
	raw   []byte // its metadata; shared with candidates, never written to
	since time.Time
	turn  uint64 // order of joining

	pulse      view.Pulse // of the last ping
	pinged     bool       // there was one
	toldOffset time.Duration
}

type candidate struct {
	raw   []byte
	from  netip.Addr
	since time.Time // when raw was heard first, from whomever
}

func newBook(self string) *book {
	return &book{self: self, nodes: make(map[string]*entry)}
}

// restart begins anew under another member name of this node: nobody is alive, and what was heard stays.
func (b *book) restart(self string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.self = self
	for node, e := range b.nodes {
		clear(e.members)
		if len(e.candidates) == 0 {
			delete(b.nodes, node)
		}
	}
}

// alive notes that the member of node lives at addr and announces raw. It keeps a copy of raw. It reports whether
// that is news, and false for ok when the book is full.
func (b *book) alive(name, node string, addr netip.AddrPort, raw []byte, now time.Time) (news, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(node)
	if e == nil {
		return false, false
	}
	m, known := e.members[name]
	if !known {
		m.since, m.turn = now, b.turn
	}
	news = !known || m.addr != addr
	m.addr = addr
	if !known || !bytes.Equal(m.raw, raw) {
		m.raw = bytes.Clone(raw)
	}
	e.members[name] = m
	if name != b.self && e.add(candidate{raw: m.raw, from: addr.Addr(), since: now}) {
		news = true
	}
	return news, true
}

// knows reports whether a member of node is alive.
func (b *book) knows(name, node string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.nodes[node]
	if !known {
		return false
	}
	_, known = e.members[name]
	return known
}

// gone notes that a member isn't alive any more. What it announced stays.
func (b *book) gone(name, node string) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.nodes[node]
	if !known {
		return false
	}
	_, news = e.members[name]
	delete(e.members, name)
	if len(e.members) == 0 && len(e.candidates) == 0 {
		delete(b.nodes, node)
	}
	return news
}

// handed notes a record of node that another member passed on. It keeps a copy of raw.
func (b *book) handed(node string, raw []byte) (news, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bytes.Equal(b.shared[node], raw) {
		return false, true // verified long since
	}
	e := b.entry(node)
	if e == nil {
		return false, false
	}
	return e.add(candidate{raw: bytes.Clone(raw), since: time.Now()}), true
}

// entry returns the entry of node and makes it the newest; nil when the book is full of entries that must stay.
func (b *book) entry(node string) *entry {
	b.turn++
	e, known := b.nodes[node]
	if !known {
		if len(b.nodes) >= maxNodes && !b.evict() {
			return nil
		}
		e = &entry{members: make(map[string]member)}
		b.nodes[node] = e
	}
	e.touched = b.turn
	return e
}

// evict drops the older half of the entries that nobody needs: no member alive, no verified record.
func (b *book) evict() bool {
	var idle []string
	for node, e := range b.nodes {
		if _, verified := b.shared[node]; len(e.members) == 0 && !verified {
			idle = append(idle, node)
		}
	}
	slices.SortFunc(idle, func(x, y string) int { return cmp.Compare(b.nodes[x].touched, b.nodes[y].touched) })
	for _, node := range idle[:(len(idle)+1)/2] {
		delete(b.nodes, node)
	}
	return len(idle) > 0
}

// add puts c behind the other candidates, and drops the oldest if there are too many: one that no living member
// announces, if there is one, and else one from where most of them come, so that nobody crowds out the node itself.
func (e *entry) add(c candidate) (news bool) {
	if len(c.raw) == 0 {
		return false
	}
	for _, old := range e.candidates {
		if !bytes.Equal(old.raw, c.raw) {
			continue
		}
		if old.from == c.from || !c.from.IsValid() {
			return false
		}
		c.since = old.since
	}
	e.candidates = slices.DeleteFunc(e.candidates, func(old candidate) bool { return bytes.Equal(old.raw, c.raw) })
	if len(e.candidates) >= maxCandidates {
		drop := slices.IndexFunc(e.candidates, func(old candidate) bool { return !e.announced(old.raw) })
		if drop < 0 {
			drop = e.crowded(c.from)
		}
		e.candidates = slices.Delete(e.candidates, drop, drop+1)
	}
	e.candidates = append(e.candidates, c)
	return true
}

// crowded returns the oldest candidate of the address that most come from, with one more from there to be added.
func (e *entry) crowded(more netip.Addr) int {
	number := map[netip.Addr]int{more: 1}
	for _, c := range e.candidates {
		number[c.from]++
	}
	drop := 0
	for i, c := range e.candidates {
		if number[c.from] > number[e.candidates[drop].from] {
			drop = i
		}
	}
	return drop
}

// announced reports whether a living member announces raw.
func (e *entry) announced(raw []byte) bool {
	for _, m := range e.members {
		if bytes.Equal(m.raw, raw) {
			return true
		}
	}
	return false
}

// announcers returns where the living members are that announce raw, but for the one named self.
func (e *entry) announcers(raw []byte, self string) []netip.Addr {
	var at []netip.Addr
	for name, m := range e.members {
		if name != self && m.addr.IsValid() && bytes.Equal(m.raw, raw) && !slices.Contains(at, m.addr.Addr()) {
			at = append(at, m.addr.Addr())
		}
	}
	slices.SortFunc(at, netip.Addr.Compare)
	return at
}

// heard returns copies of all candidates, sorted by node, each node's oldest first.
func (b *book) heard() []Heard {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Heard
	for _, node := range slices.Sorted(maps.Keys(b.nodes)) {
		e := b.nodes[node]
		others := len(e.members)
		if _, self := e.members[b.self]; self {
			others--
		}
		for _, c := range e.candidates {
			all = append(all, Heard{
				Node: node, Raw: bytes.Clone(c.raw), From: c.from, At: e.announcers(c.raw, b.self), Since: c.since, Alive: others > 0,
			})
		}
	}
	return all
}

// members returns one member for each node that is alive, sorted by node: this one for this node, and else the
// one that joined last.
func (b *book) members() []Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Member
	for node, e := range b.nodes {
		best, self := e.latest(b.self)
		if len(e.members) > 0 {
			all = append(all, Member{Node: node, Addr: best.addr, Self: self})
		}
	}
	slices.SortFunc(all, func(x, y Member) int { return strings.Compare(x.Node, y.Node) })
	return all
}

// everywhere returns the addresses of all living members, also of several of one node.
func (b *book) everywhere() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []netip.Addr
	for _, e := range b.nodes {
		for _, m := range e.members {
			if m.addr.IsValid() {
				all = append(all, m.addr.Addr())
			}
		}
	}
	return all
}

// addresses returns where the living members of node are, each address once: what is sent there comes to whoever
// is there now, not to one of several starts of a node. Of more than most, it is a random choice, so that whoever
// tries again and again reaches all of them.
func (b *book) addresses(node string, most int) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.nodes[node]
	if !known {
		return nil
	}
	at := make(map[netip.AddrPort]bool)
	for _, m := range e.members {
		if m.addr.IsValid() { // a member can say anything of itself
			at[m.addr] = true
		}
	}
	addrs := slices.Collect(maps.Keys(at))
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs[:min(len(addrs), most)]
}

// share replaces the verified records.
func (b *book) share(records map[string][]byte) {
	shared := make(map[string][]byte, len(records))
	for node, raw := range records {
		shared[node] = bytes.Clone(raw)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = shared
}

// unspoken returns the verified records that no living member announces. The bytes are shared: not to be written to.
func (b *book) unspoken() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	records := make(map[string][]byte)
	for node, raw := range b.shared {
		if e, known := b.nodes[node]; !known || !e.announced(raw) {
			records[node] = raw
		}
	}
	return records
}

// forget drops what is held of node, apart from what its living members announce now: memberlist tells that only
// once.
func (b *book) forget(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.shared, node)
	e, known := b.nodes[node]
	if !known {
		return
	}
	e.candidates = slices.DeleteFunc(e.candidates, func(c candidate) bool { return !e.announced(c.raw) })
	if len(e.members) == 0 {
		delete(b.nodes, node)
	}
}

// twins returns the addresses of node names that have members at several addresses for longer than twinAge.
func (b *book) twins(now time.Time) map[string][]netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	twins := make(map[string][]netip.Addr)
	for node, e := range b.nodes {
		var addrs []netip.Addr
		for _, m := range e.members {
			if now.Sub(m.since) >= twinAge && !slices.Contains(addrs, m.addr.Addr()) {
				addrs = append(addrs, m.addr.Addr())
			}
		}
		if len(addrs) > 1 {
			slices.SortFunc(addrs, netip.Addr.Compare)
			twins[node] = addrs
		}
	}
	return twins
}
