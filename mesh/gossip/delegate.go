package gossip

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate and events are a Gossip as memberlist calls it, some of it while it holds its own lock: they copy what
// they are given, and never call back, wait, or log.
type (
	delegate struct{ *Gossip }
	events   struct {
		*Gossip
		of *membership
	}
)

// NodeMeta returns this node's record, for memberlist to announce.
func (d delegate) NodeMeta(limit int) []byte {
	raw := d.own.wanted()
	if len(raw) > limit {
		return nil // Announce refuses it; memberlist would panic
	}
	return raw
}

// GetBroadcasts returns nothing: such broadcasts starve in a big mesh.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns this node's record, which is then heard also by those whom somebody told otherwise of its member, and
// the verified records that no member announces.
func (d delegate) LocalState(bool) []byte {
	records := d.book.unspoken()
	if own := d.own.wanted(); len(own) > 0 {
		records[d.config.Node] = own
	}
	return encodeState(records)
}

// MergeRemoteState takes the same from another member.
func (d delegate) MergeRemoteState(buf []byte, _ bool) {
	heard := false
	err := decodeState(buf, func(node string, raw []byte) {
		news, ok := d.book.handed(node, raw)
		if !ok {
			d.tally.count(reasonFull)
		}
		heard = heard || news
	})
	if err != nil {
		d.tally.count(reasonState)
	}
	if heard {
		signal(d.news)
	}
}

// NotifyAlive refuses members that can't be, and more of them than a mesh has: memberlist holds, probes and passes on
// whatever it isn't told to refuse.
func (e events) NotifyAlive(m *memberlist.Node) error {
	node, ok := nodeOf(m.Name)
	switch {
	case !ok:
		e.tally.count(reasonName)
		return errMemberName
	case len(m.Meta) > memberlist.MetaMaxSize:
		e.tally.count(reasonMetaSize)
		return errMetaSize
	case !speaksAlike(m):
		e.tally.count(reasonProtocol)
		return errProtocol
	case !e.homes.allow(m.Name, addressOfMember(m)):
		e.tally.count(reasonConflict)
		return errConflict
	case m.Name == e.of.name, e.book.knows(m.Name, node), e.newcomers.room(time.Now()):
		return nil
	}
	e.tally.count(reasonFull)
	return errNewcomers
}

var (
	errMemberName = errors.New("its name isn't that of a member")
	errMetaSize   = errors.New("its metadata is too large")
	errProtocol   = errors.New("its versions of the protocol aren't those of all members")
	errConflict   = errors.New("it is at another address: a member's name belongs to one start of an agent")
	errNewcomers  = errors.New("too many new members")
)

// speaksAlike reports whether a member speaks as all do. memberlist ends every state exchange in which one of the
// members, of whom it only heard, doesn't.
func speaksAlike(m *memberlist.Node) bool {
	const version = memberlist.ProtocolVersion2Compatible // memberlist's default
	return m.PMin <= version && version <= m.PMax && m.PCur == version && m.DMin == 0 && m.DMax == 0 && m.DCur == 0
}

// maxNewcomers is how many members may appear at once, more than there are in the largest mesh, and newcomerInterval
// the time in which one more may. memberlist keeps those that are gone for as long as it takes to probe all others.
const (
	maxNewcomers     = 2 * maxNodes
	newcomerInterval = 100 * time.Millisecond
)

// newcomers counts members that weren't alive before. The zero value has room for maxNewcomers. Safe for concurrent
// use.
type newcomers struct {
	mu   sync.Mutex
	full time.Time // when there will be all the room again
}

// restart begins with all the room.
func (n *newcomers) restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.full = time.Time{}
}

// room reports whether there is room for one more.
func (n *newcomers) room(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.full.Sub(now) < maxNewcomers*newcomerInterval
}

// count counts one that has come. Not all that there is room for do: memberlist also asks for rumours that it passes over.
func (n *newcomers) count(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full.Before(now) {
		n.full = now
	}
	n.full = n.full.Add(newcomerInterval)
}

// NotifyJoin tells of a member that is alive, this one among them.
func (e events) NotifyJoin(m *memberlist.Node) {
	now := time.Now()
	e.newcomers.count(now)
	e.homes.keep(m.Name, addressOfMember(m), now)
	e.alive(m)
}

// addressOfMember is where a member says that it is; invalid when it says none.
func addressOfMember(m *memberlist.Node) netip.AddrPort { return addressFrom(m.Addr, m.Port) }

func addressFrom(raw []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// NotifyUpdate tells of a member with new metadata.
func (e events) NotifyUpdate(m *memberlist.Node) { e.alive(m) }

// NotifyLeave tells of a member that left, or that is thought dead.
func (e events) NotifyLeave(m *memberlist.Node) {
	if !e.of.counts() {
		return
	}
	defer e.of.counted()
	if node, ok := nodeOf(m.Name); ok && e.book.gone(m.Name, node) {
		signal(e.news)
	}
}

func (e events) alive(m *memberlist.Node) {
	if !e.of.counts() {
		return
	}
	defer e.of.counted()
	e.own.taken(m)
	node, ok := nodeOf(m.Name)
	if !ok {
		return // NotifyAlive refuses it
	}
	addr := addressOfMember(m)
	news, ok := e.book.alive(m.Name, node, addr, m.Meta, time.Now())
	if !ok {
		e.tally.count(reasonFull)
	}
	if news {
		e.caps.meet(addr.Addr()) // without waiting for the next tick
		signal(e.news)
	}
}

// ownRecord is the record that this node wants to announce, and the one that memberlist has taken.
type ownRecord struct {
	mu      sync.Mutex
	member  string // this node's
	next    []byte
	current []byte
}

// restart begins anew under another member name: memberlist hasn't taken the record.
func (o *ownRecord) restart(member string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.member, o.current = member, nil
}

func (o *ownRecord) want(raw []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next = bytes.Clone(raw)
}

func (o *ownRecord) wanted() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next
}

func (o *ownRecord) taken(m *memberlist.Node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.Name == o.member {
		o.current = bytes.Clone(m.Meta)
	}
}

func (o *ownRecord) announced(raw []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Equal(o.current, raw)
}

// rollCall is who was alive when the log was told last.
type rollCall map[string]netip.AddrPort

// log says who came and who went since the last time, in one line each, however many they are.
func (r rollCall) log(log *slog.Logger, members []Member) {
	var came, went []string
	alive := make(map[string]bool, len(members))
	for _, m := range members {
		if m.Self {
			continue
		}
		alive[m.Node] = true
		if old, known := r[m.Node]; !known || old != m.Addr {
			came = append(came, m.Node+"="+m.Addr.Addr().String())
		}
		r[m.Node] = m.Addr
	}
	for node := range r {
		if !alive[node] {
			went = append(went, node)
			delete(r, node)
		}
	}
	slices.Sort(went)
	if len(came) > 0 {
		log.Info("gossip: nodes came", "nodes", some(came), "alive", len(members))
	}
	if len(went) > 0 {
		log.Info("gossip: nodes went; their tunnels stay", "nodes", some(went), "alive", len(members))
	}
}

// some joins names, as many as fit on a line.
func some(names []string) string {
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], " ") + " …"
	}
	return strings.Join(names, " ")
}
