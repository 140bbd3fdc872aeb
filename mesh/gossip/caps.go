package gossip

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"log"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// What anybody may cost us before anything is decrypted.
const (
	// maxStreams is how many accepted streams are open at a time. memberlist ends each after streamTimeout.
	maxStreams = 128
	// maxSourceStreams is how many of them one address may have. A member has one exchange, one join and one
	// probe with another at a time.
	maxSourceStreams = 6
	// maxStreamSize is how much a stream may bring, in bytes: 8192 members (maxNodes) with a name of 270, a record
	// of 512 and 100 around them, and a state of 1 MiB (maxStateSize), are 7.9 MiB.
	maxStreamSize = 9 << 20
	// maxStreamsSize is how much all open streams may have brought: more than one address can fill.
	maxStreamsSize = 64 << 20
	// maxPackets is how many packets one address may send in a second. A member gossips ten times a second, and
	// probes and messages add a few.
	maxPackets = 1000
	// packetBuckets is how many counters there are for that. Addresses whose hashes meet share one.
	packetBuckets = 8192
)

const (
	encryptedStream   = 10 // memberlist's message type
	streamHeader      = 6  // it, the length of what follows in four bytes, and the encryption's version
	encryptionVersion = 1  // the other one, 0, pads; no member of ours uses it
	encryptionCost    = 29 // version, nonce and tag; memberlist panics when there is nothing else
)

var (
	errStreamSize    = errors.New("stream exceeds limit")
	errStreamsSize   = errors.New("streams together exceeds limit")
	errStreamVersion = errors.New("encryption version not supported")
	errStreamEmpty   = errors.New("encrypted stream is too short")
)

// caps counts what is open. Safe for concurrent use.
type caps struct {
	mu      sync.Mutex
	streams map[netip.Addr]int
	open    int
	size    int // what the open streams have brought

	// Those for packets belong to the one goroutine that takes them.
	seed   maphash.Seed
	second int64
	counts [packetBuckets]uint16
}

func newCaps() *caps {
	return &caps{streams: make(map[netip.Addr]int), seed: maphash.MakeSeed()}
}

// admit returns conn with its limits, or nil when there are too many.
func (c *caps) admit(conn net.Conn) net.Conn {
	from := addressOf(conn.RemoteAddr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= maxStreams || c.streams[from] >= maxSourceStreams {
		return nil
	}
	c.open++
	c.streams[from]++
	return &cappedStream{Conn: conn, caps: c, from: from}
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

// cappedStream is an accepted stream. One goroutine reads it.
type cappedStream struct {
	net.Conn
	caps *caps
	from netip.Addr

	header []byte // the first bytes, until they are judged
	judged bool
	size   int // under caps.mu
	closed bool
}

// Read hands nothing on before the header is judged.
func (s *cappedStream) Read(p []byte) (int, error) {
	if !s.judged {
		if err := s.judge(); err != nil {
			return 0, err
		}
	}
	if len(s.header) > 0 {
		n := copy(p, s.header)
		s.header = s.header[n:]
		return n, nil
	}
	n, err := s.Conn.Read(p)
	if n > 0 {
		if full := s.take(n); full != nil {
			return 0, full
		}
	}
	return n, err
}

// judge reads the header. What isn't an encrypted stream is memberlist's to refuse.
func (s *cappedStream) judge() error {
	var buf [streamHeader]byte
	if n, err := io.ReadFull(s.Conn, buf[:1]); err != nil {
		return err
	} else if buf[0] != encryptedStream {
		s.header, s.judged = buf[:n], true
		return nil
	}
	// The length first: who claims too much isn't waited for.
	if _, err := io.ReadFull(s.Conn, buf[1:5]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(buf[1:5])
	switch {
	case size > maxStreamSize:
		return errStreamSize
	case size <= encryptionCost:
		return errStreamEmpty
	}
	if _, err := io.ReadFull(s.Conn, buf[5:]); err != nil {
		return err
	}
	if buf[5] != encryptionVersion {
		return errStreamVersion
	}
	s.header, s.judged = buf[:], true
	return nil
}

func (s *cappedStream) take(n int) error {
	s.caps.mu.Lock()
	defer s.caps.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.size+n > maxStreamSize+streamHeader {
		return errStreamSize
	}
	if s.caps.size+n > maxStreamsSize {
		return errStreamsSize
	}
	s.size += n
	s.caps.size += n
	return nil
}

// Close gives back what the stream held.
func (s *cappedStream) Close() error {
	s.caps.mu.Lock()
	if !s.closed {
		s.closed = true
		s.caps.open--
		s.caps.size -= s.size
		if s.caps.streams[s.from]--; s.caps.streams[s.from] == 0 {
			delete(s.caps.streams, s.from)
		}
	}
	s.caps.mu.Unlock()
	return s.Conn.Close()
}

// capped puts caps between memberlist's transport and memberlist. What it refuses goes to the logger, which counts
// it and prints it once an interval.
type capped struct {
	inner   *memberlist.NetTransport
	caps    *caps
	logger  *log.Logger
	streams chan net.Conn
	packets chan *memberlist.Packet

	shut    sync.Once
	closing chan struct{} // memberlist takes nothing more
	done    chan struct{} // nothing more comes
	pumps   sync.WaitGroup
}

func newCapped(inner *memberlist.NetTransport, logger *log.Logger) *capped {
	c := &capped{
		inner:   inner,
		caps:    newCaps(),
		logger:  logger,
		streams: make(chan net.Conn),
		packets: make(chan *memberlist.Packet),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	c.pumps.Go(c.pumpStreams)
	c.pumps.Go(c.pumpPackets)
	return c
}

func (c *capped) pumpStreams() {
	for {
		select {
		case conn := <-c.inner.StreamCh():
			stream := c.caps.admit(conn)
			if stream == nil {
				c.logger.Printf("[WARN] memberlist: number of streams exceeds limit %s", memberlist.LogConn(conn))
				_ = conn.Close()
				continue
			}
			select {
			case c.streams <- stream:
			case <-c.closing:
				_ = stream.Close()
			}
		case <-c.done:
			return
		}
	}
}

func (c *capped) pumpPackets() {
	for {
		select {
		case p := <-c.inner.PacketCh():
			switch {
			case !c.caps.packet(p.From, p.Timestamp):
				c.logger.Printf("[WARN] memberlist: rate of packets exceeds limit %s", memberlist.LogAddress(p.From))
				continue
			case p.Buf[0] == 0:
				c.logger.Printf("[WARN] memberlist: packet's encryption version not supported %s",
					memberlist.LogAddress(p.From))
				continue
			}
			select {
			case c.packets <- p:
			case <-c.closing:
			}
		case <-c.done:
			return
		}
	}
}

// shutdown ends the transport below too, whose listeners wait for the pumps.
func (c *capped) shutdown() error {
	var err error
	c.shut.Do(func() {
		close(c.closing)
		err = c.inner.Shutdown()
		close(c.done)
		c.pumps.Wait()
	})
	return err
}
