package flow

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A datagram is: magic (4 bytes), kind (1), sequence number (8, big endian),
// filler.
const (
	magic      = "WgFl"
	headerSize = len(magic) + 1 + 8

	kindHello = 0 // asks for an answer: is the path up?
	kindEcho  = 1 // the answer
	kindData  = 2 // counted
)

// helloInterval is the pause between two hellos.
const helloInterval = 20 * time.Millisecond

// socketBuffer is large so that a receiver that gets no CPU for a while
// doesn't look like a lossy network.
const socketBuffer = 64 << 20

// maxCatchUp bounds the burst of a sender that was kept from running; what
// would go beyond isn't sent at all.
const maxCatchUp = 20 * time.Millisecond

// DatagramConfig is one end of a flow of UDP datagrams.
type DatagramConfig struct {
	Local  netip.AddrPort // to bind; the zero value means any address and port
	Peer   netip.AddrPort // to send to; the zero value means whoever sent last
	Rate   int            // datagrams a second
	Size   int            // payload of a datagram in bytes
	Filler []byte         // repeated in the payload
}

// Commands that an end reads from its standard input, one a line. Each is
// answered with one line of JSON, as is the start.
const (
	CommandHello = "hello" // HelloAnswer: has the peer been heard?
	CommandStart = "start" // {}: sending begins, once the peer's address is known
	CommandSent  = "sent"  // SentAnswer: so far
	CommandStop  = "stop"  // SentAnswer: sending has ended
	CommandCount = "count" // with how many the peer has sent; CountAnswer
)

// HelloAnswer says whether the path to the peer and back works.
type HelloAnswer struct{ Heard bool }

// SentAnswer says what was sent. Refused ones are counted in Sent as well.
type SentAnswer struct{ Sent, Refused uint64 }

// CountAnswer says what came.
type CountAnswer struct {
	Received, Duplicated, Reordered, LongestGap uint64

	// Jumped is when the first datagram came that others before it were missing
	// from; zero if none were.
	Jumped time.Time

	// SocketDrops are datagrams that arrived and found the socket's buffer
	// full: loss that isn't the network's.
	SocketDrops uint64
}

// end is a running end.
type end struct {
	config DatagramConfig
	conn   *net.UDPConn
	peer   atomic.Pointer[netip.AddrPort]
	heard  atomic.Bool // the peer answered a hello

	sent, refused atomic.Uint64

	mu      sync.Mutex
	counter Counter
	jumped  time.Time // see CountAnswer
}

// Datagrams is one end of a flow. It obeys the commands on in until that ends.
func Datagrams(config DatagramConfig, in io.Reader, out io.Writer) error {
	if config.Rate <= 0 || config.Size < headerSize {
		return fmt.Errorf("a flow needs a rate above 0 and datagrams of at least %d bytes", headerSize)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(config.Local))
	if err != nil {
		return fmt.Errorf("binding the flow's socket: %w", err)
	}
	if err := growBuffers(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	e := &end{config: config, conn: conn}
	if config.Peer.IsValid() {
		e.peer.Store(&config.Peer)
	}
	received := make(chan error, 1)
	go func() { received <- e.receive() }()
	err = e.obey(in, out)
	return errors.Join(err, conn.Close(), <-received)
}

// growBuffers gives the socket large buffers, above the system's limits.
func growBuffers(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("growing the flow's socket buffers: %w", err)
	}
	var setErr error
	err = raw.Control(func(fd uintptr) {
		setErr = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer))
	})
	if err = errors.Join(err, setErr); err != nil {
		return fmt.Errorf("growing the flow's socket buffers: %w", err)
	}
	return nil
}

// socketDrops reads how many datagrams the kernel dropped at this socket.
func (e *end) socketDrops() (uint64, error) {
	raw, err := e.conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reading the socket's drop count: %w", err)
	}
	var drops uint64
	var getErr error
	err = raw.Control(func(fd uintptr) { drops, getErr = memInfoDrops(fd) })
	if err = errors.Join(err, getErr); err != nil {
		return 0, fmt.Errorf("reading the socket's drop count: %w", err)
	}
	return drops, nil
}

// obey answers commands until in ends.
func (e *end) obey(in io.Reader, out io.Writer) error {
	answers := json.NewEncoder(out)
	if err := answers.Encode(struct{}{}); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	stop := func() { cancel(); sending.Wait() }
	defer stop()
	for lines := bufio.NewScanner(in); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		answer, err := e.answer(lines.Text(), func() { sending.Go(func() { e.send(ctx) }) }, stop)
		if err != nil {
			return err
		}
		if err := answers.Encode(answer); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
}

// answer obeys one command.
func (e *end) answer(line string, start, stop func()) (any, error) {
	command, argument, _ := strings.Cut(line, " ")
	switch command {
	case CommandHello:
		return HelloAnswer{Heard: e.hello()}, nil
	case CommandStart:
		start()
		return struct{}{}, nil
	case CommandStop:
		stop()
		return SentAnswer{Sent: e.sent.Load(), Refused: e.refused.Load()}, nil
	case CommandSent:
		return SentAnswer{Sent: e.sent.Load(), Refused: e.refused.Load()}, nil
	case CommandCount:
		peerSent, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the command %q: %w", line, err)
		}
		return e.count(peerSent)
	}
	return nil, fmt.Errorf("unknown command %q", line)
}

// hello asks the peer for an answer and waits a little for it.
func (e *end) hello() bool {
	if peer := e.peer.Load(); peer != nil && !e.heard.Load() {
		_, _ = e.conn.WriteToUDPAddrPort(e.datagram(kindHello, 0), *peer) // asked again
		time.Sleep(helloInterval)
	}
	return e.heard.Load()
}

func (e *end) count(peerSent uint64) (CountAnswer, error) {
	drops, err := e.socketDrops()
	if err != nil {
		return CountAnswer{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return CountAnswer{
		Received: e.counter.Received, Duplicated: e.counter.Duplicated, Reordered: e.counter.Reordered,
		LongestGap: e.counter.LongestGap(peerSent), Jumped: e.jumped, SocketDrops: drops,
	}, nil
}

// receive counts until the socket is closed.
func (e *end) receive() error {
	b := make([]byte, 1<<16)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		if n < headerSize || string(b[:len(magic)]) != magic {
			continue
		}
		if !e.config.Peer.IsValid() {
			if old := e.peer.Load(); old == nil || *old != from {
				e.peer.Store(&from)
			}
		}
		switch b[len(magic)] {
		case kindHello:
			_, _ = e.conn.WriteToUDPAddrPort(e.datagram(kindEcho, 0), from) // the peer asks again
		case kindEcho:
			e.heard.Store(true)
		case kindData:
			e.add(binary.BigEndian.Uint64(b[len(magic)+1:]))
		}
	}
}

// add counts a datagram that came.
func (e *end) add(seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if seq > e.counter.next && e.jumped.IsZero() {
		e.jumped = time.Now()
	}
	e.counter.Add(seq)
}

// tick is how often a sender looks what is due: no more often than something is, to leave an emulated machine time for
// other things, and often enough for bursts to be small.
func (c DatagramConfig) tick() time.Duration {
	return min(max(time.Second/time.Duration(c.Rate), time.Millisecond), maxCatchUp/2)
}

// send sends at the configured rate until ctx ends.
func (e *end) send(ctx context.Context) {
	data := e.datagram(kindData, 0)
	tick := time.NewTicker(e.config.tick())
	defer tick.Stop()
	last, owed := time.Now(), 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		peer := e.peer.Load()
		if peer == nil {
			last = now
			continue
		}
		owed += min(now.Sub(last), maxCatchUp).Seconds() * float64(e.config.Rate)
		last = now
		for ; owed >= 1; owed-- {
			binary.BigEndian.PutUint64(data[len(magic)+1:], e.sent.Load())
			if _, err := e.conn.WriteToUDPAddrPort(data, *peer); err != nil {
				e.refused.Add(1)
			}
			e.sent.Add(1)
		}
	}
}

func (e *end) datagram(kind byte, seq uint64) []byte {
	b := make([]byte, 0, e.config.Size)
	b = append(b, magic...)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, seq)
	return append(b, fill(e.config.Size-headerSize, e.config.Filler)...)
}

// fill is n bytes of the filler, repeated.
func fill(n int, filler []byte) []byte {
	b := make([]byte, n)
	for at := 0; at < n && len(filler) > 0; {
		at += copy(b[at:], filler)
	}
	return b
}
