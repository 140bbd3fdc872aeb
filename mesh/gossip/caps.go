package gossip

import (
	"cmp"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What anybody may cost us before anything is decrypted.
const (
	// maxStreams is how many accepted streams are open at a time, of known addresses and of strangers each.
	// memberlist ends each after streamTimeout.
	maxStreams = 64
	// maxSourceStreams is how many of them one address may have. A member has one exchange, one join and one
	// probe with another at a time.
	maxSourceStreams = 6
	// maxStreamSize is how much a stream may bring, in bytes: 8192 members (maxNodes) with a name of 270, a record
	// of 512 and 100 around them, and a state of 1 MiB (maxStateSize), are 7.9 MiB.
	maxStreamSize = 9 << 20
	// maxStreamsSize is how much all open streams may have brought, of known addresses and of strangers each: as
	// much as three of the largest.
	maxStreamsSize = 32 << 20
	// maxPacketSize is how large a packet may be, in bytes. Members send 1400, and a checksum.
	maxPacketSize = 1500
	// maxPackets is how many packets one address may send in a second. A member gossips ten times a second, and
	// probes and messages add a few.
	maxPackets = 1000
	// packetBuckets is how many counters there are for that. Addresses whose hashes meet share one.
	packetBuckets = 8192
	// maxMessages is how many messages for the agent are taken from a known address in a second, and maxStrange from
	// all others together. An agent sends another one a second, and more when its keys change. So who floods one takes
	// nobody else's place among the maxMail that wait, which the agent takes several times a second.
	maxMessages = 16
	maxStrange  = 64
	// maxAnswers is how many probes from a known address are answered in a second, and maxStrangeAnswers from all others
	// together. A search asks 30 times a second at most, and a measurement every other second. Questions can be captured and
	// sent again, from any address.
	maxAnswers        = 64
	maxStrangeAnswers = 256
)

var (
	errStreamSize    = errors.New("stream exceeds limit")
	errStreamDropped = errors.New("what is open exceeds limit: dropped for another stream")
)

// caps counts what is open. Safe for concurrent use.
type caps struct {
	keys inspector
	wire wire

	mu        sync.Mutex
	streams   map[netip.Addr]int
	known     map[netip.Addr]bool // where members and targets are
	members   pool
	strangers pool
	sent      shares // messages
	answered  shares // probes

	// Those for packets belong to the one goroutine that takes them.
	seed   maphash.Seed
	second int64
	counts [packetBuckets]uint16
}

// pool is the open streams of those who are known, or of those who aren't. What is known was said with the gossip
// key or by the configuration, so who has neither can't take a known one's place. And since a stranger may be a new
// node, the strangers' pool makes room: who holds many streams, from however many addresses, loses them.
type pool struct {
	open []*cappedStream // oldest first
	size int             // what they have brought
}

func newCaps(keys inspector) *caps {
	return &caps{
		keys:    keys,
		streams: make(map[netip.Addr]int),
		known:   make(map[netip.Addr]bool),
		seed:    maphash.MakeSeed(),
	}
}

// know replaces the addresses that are known by those of a snapshot, which none that is met comes between.
func (c *caps) know(snapshot func() map[netip.Addr]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = snapshot()
}

// meet adds an address to those that are known.
func (c *caps) meet(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[addr] = true
}

// admit returns conn with its limits, or nil when there are too many.
func (c *caps) admit(conn net.Conn) net.Conn {
	from := addressOf(conn.RemoteAddr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[from] >= maxSourceStreams {
		return nil
	}
	p := &c.strangers
	if c.known[from] {
		p = &c.members
	}
	if len(p.open) >= maxStreams {
		other := p.open[0]
		if p == &c.members {
			if other = c.busiest(p); c.streams[from] >= c.streams[other.from] {
				return nil
			}
		}
		c.drop(other)
	}
	s := &cappedStream{Conn: conn, caps: c, pool: p, from: from}
	s.inspected = inspected{
		inspector: c.keys,
		take:      func(n int) error { return c.take(s, n) },
		messages:  func(n int) bool { return c.messages(from, n, time.Now()) },
	}
	p.open = append(p.open, s)
	c.streams[from]++
	return s
}

// busiest returns the oldest stream of the address that has most of a pool.
func (c *caps) busiest(p *pool) *cappedStream {
	return slices.MaxFunc(p.open, func(x, y *cappedStream) int { return cmp.Compare(c.streams[x.from], c.streams[y.from]) })
}

// drop closes a stream for another one's sake.
func (c *caps) drop(s *cappedStream) {
	s.dropped = true
	c.release(s)
	_ = s.Conn.Close()
}

// release gives back what a stream held.
func (c *caps) release(s *cappedStream) {
	if s.closed {
		return
	}
	s.closed = true
	s.pool.open = slices.DeleteFunc(s.pool.open, func(o *cappedStream) bool { return o == s })
	s.pool.size -= s.size
	if c.streams[s.from]--; c.streams[s.from] == 0 {
		delete(c.streams, s.from)
	}
}

// take notes that a stream has brought n bytes more. When its pool has too much, a stream of the address goes that
// brought most of it.
func (c *caps) take(s *cappedStream, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.size+n > maxStreamSize+streamHeader {
		return errStreamSize
	}
	for !s.closed && s.pool.size+n > maxStreamsSize {
		c.drop(s.pool.heaviest())
	}
	if s.closed {
		return net.ErrClosed
	}
	s.size += n
	s.pool.size += n
	return nil
}

// heaviest returns the largest stream of the address that brought most.
func (p *pool) heaviest() *cappedStream {
	brought := make(map[netip.Addr]int)
	for _, s := range p.open {
		brought[s.from] += s.size
	}
	return slices.MaxFunc(p.open, func(x, y *cappedStream) int {
		return cmp.Or(cmp.Compare(brought[x.from], brought[y.from]), cmp.Compare(x.size, y.size))
	})
}

// messages reports whether n more messages from there are taken.
func (c *caps) messages(from netip.Addr, n int, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.take(from, c.known[from], n, maxMessages, maxStrange, at)
}

// answer reports whether one more probe from there is answered.
func (c *caps) answer(to netip.Addr, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered.take(to, c.known[to], 1, maxAnswers, maxStrangeAnswers, at)
}

// shares counts what is taken in a second: of each known address, and under the zero address of all others together.
type shares struct {
	second int64
	taken  map[netip.Addr]int
}

func (s *shares) take(from netip.Addr, known bool, n, most, strange int, at time.Time) bool {
	if now := at.Unix(); s.taken == nil || now != s.second {
		s.second, s.taken = now, make(map[netip.Addr]int)
	}
	if !known {
		from, most = netip.Addr{}, strange
	}
	if n > most-s.taken[from] {
		return false
	}
	s.taken[from] += n
	return true
}

// packet reports whether one more packet from there is taken.
func (c *caps) packet(from net.Addr, at time.Time) bool {
	if now := at.Unix(); now != c.second {
		c.second = now
		clear(c.counts[:])
	}
	count := &c.counts[maphash.Comparable(c.seed, addressOf(from))%packetBuckets]
	if *count >= maxPackets {
		return false
	}
	*count++
	return true
}

func addressOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
