package echo

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// cookieLength is that of a measurement's own cookie, which begins the data of its requests: others on this host ask too.
	cookieLength = 8
	dataLength   = 56 // bytes, as that of ping(8)
	maxPacket    = 1500
)

// The numbers of the protocols (IANA).
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// socket sends and receives for the targets that are asked from one address.
type socket struct {
	conn *icmp.PacketConn
	raw  bool // addresses are net.IPAddr, else net.UDPAddr
}

// request is one that was sent.
type request struct {
	target int
	sent   time.Time
}

// measurement is one run.
type measurement struct {
	targets []Target
	options Options
	cookie  [cookieLength]byte
	sockets map[netip.Addr]*socket // by source

	readers  sync.WaitGroup
	answered chan struct{} // closed when nothing more can come

	mu         sync.Mutex
	unanswered map[uint32]request // without an answer yet, by number
	next       uint32
	left       int // requests that may still be sent
	results    []Result
	total      []time.Duration
}

func newMeasurement(targets []Target, o Options) *measurement {
	m := &measurement{
		targets: targets, options: o, sockets: map[netip.Addr]*socket{}, answered: make(chan struct{}), unanswered: map[uint32]request{},
		left: len(targets) * o.Count, results: make([]Result, len(targets)), total: make([]time.Duration, len(targets)),
	}
	_, _ = rand.Read(m.cookie[:]) // it never fails
	return m
}

// open opens the socket for a source: a raw one, or else one for echo requests alone.
func (m *measurement) open(source netip.Addr) error {
	if m.sockets[source] != nil {
		return nil
	}
	raw, echo := "ip4:icmp", "udp4"
	if source.Is6() {
		raw, echo = "ip6:ipv6-icmp", "udp6"
	}
	conn, err := icmp.ListenPacket(raw, source.String())
	isRaw := err == nil
	if notAllowed(err) {
		if conn, err = icmp.ListenPacket(echo, source.String()); notAllowed(err) {
			err = errors.Join(ErrNotAllowed, err)
		}
	}
	if err != nil {
		return err
	}
	m.sockets[source] = &socket{conn, isRaw}
	return nil
}

func (m *measurement) close() {
	for _, s := range m.sockets {
		_ = s.conn.Close() // it wakes the reader
	}
	m.readers.Wait()
}

// send sends a request to each target.
func (m *measurement) send(round int) {
	for i, t := range m.targets {
		m.mu.Lock()
		number := m.next
		m.next++
		m.unanswered[number] = request{i, time.Now()}
		m.mu.Unlock()
		err := m.sendOne(t, number, round)
		m.mu.Lock()
		m.left--
		m.results[i].Sent++
		if err != nil {
			m.results[i].Err = err
			delete(m.unanswered, number)
		}
		m.settle()
		m.mu.Unlock()
	}
}

func (m *measurement) sendOne(t Target, number uint32, round int) error {
	data := make([]byte, dataLength)
	copy(data, m.cookie[:])
	binary.BigEndian.PutUint32(data[cookieLength:], number)
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{
		ID: int(binary.BigEndian.Uint16(m.cookie[:])), Seq: round & 0xffff, Data: data,
	}}
	if t.Address.Is6() {
		message.Type = ipv6.ICMPTypeEchoRequest
	}
	packet, err := message.Marshal(nil) // the kernel fills in ICMPv6's checksum
	if err != nil {
		return err
	}
	s := m.sockets[t.Source]
	var to net.Addr = &net.IPAddr{IP: t.Address.AsSlice()}
	if !s.raw {
		to = &net.UDPAddr{IP: t.Address.AsSlice()}
	}
	_, err = s.conn.WriteTo(packet, to)
	return err
}

// read takes answers until the socket is closed.
func (m *measurement) read(s *socket) {
	packet := make([]byte, maxPacket)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			m.take(packet[:n], addressOf(from), time.Now())
		}
	}
}

func addressOf(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.IPAddr:
		ip = a.IP
	case *net.UDPAddr:
		ip = a.IP
	}
	address, _ := netip.AddrFromSlice(ip)
	return address.Unmap()
}

// take counts a packet that came, if it answers a request of this measurement in time, and from whom was asked.
func (m *measurement) take(packet []byte, from netip.Addr, at time.Time) {
	protocol, answer := protocolICMP, icmp.Type(ipv4.ICMPTypeEchoReply)
	if from.Is6() {
		protocol, answer = protocolICMPv6, ipv6.ICMPTypeEchoReply
	}
	message, err := icmp.ParseMessage(protocol, packet)
	if err != nil || message.Type != answer {
		return
	}
	echo, ok := message.Body.(*icmp.Echo)
	if !ok || len(echo.Data) < cookieLength+4 || !bytes.Equal(echo.Data[:cookieLength], m.cookie[:]) {
		return
	}
	number := binary.BigEndian.Uint32(echo.Data[cookieLength:])
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.unanswered[number]
	took := at.Sub(r.sent)
	if !ok || m.targets[r.target].Address != from || took > m.options.Timeout {
		return
	}
	delete(m.unanswered, number)
	result := &m.results[r.target]
	result.Received++
	m.total[r.target] += took
	if result.Min == 0 || took < result.Min {
		result.Min = took
	}
	result.Max = max(result.Max, took)
	m.settle()
}

// settle tells when all is answered. The lock is held.
func (m *measurement) settle() {
	if m.left > 0 || len(m.unanswered) > 0 {
		return
	}
	select {
	case <-m.answered:
	default:
		close(m.answered)
	}
}

// end returns the results.
func (m *measurement) end() []Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.results {
		if n := m.results[i].Received; n > 0 {
			m.results[i].Avg = m.total[i] / time.Duration(n)
		}
	}
	return m.results
}
