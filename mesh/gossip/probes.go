package gossip

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
)

// Probes of paths share gossip's port. Their first byte tells them from memberlist's packets, which begin with the
// version of their encryption. Header: that byte, question or answer, the question's size as a UDP payload, its id, and a
// code by a gossip key over these. A question is padded to its size, and an answer isn't longer than the header: who
// has no gossip key gets no answer, and who has one no more bytes than it sends.
const (
	probeKind      = 0xd7
	probeQuestion  = 1
	probeAnswer    = 2
	probeText      = 1 + 1 + 2 + 8
	probeCode      = 16
	probeHeader    = probeText + probeCode
	probeDomain    = "weaveguard path probe\x00"
	udpHeaders4    = 20 + 8
	udpHeaders6    = 40 + 8
	maxProbe       = 1<<16 - 1 - udpHeaders4
	probeReadBytes = 1 // nothing is read from the socket that sends questions; the kernel makes it its least
)

var (
	// errProbeSize says that a size isn't one that a probe can have.
	errProbeSize = errors.New("size of a probe out of range")
	errProbeForm = errors.New("it begins as a probe of a path, and isn't one")
	errProbeRate = errors.New("rate of probes exceeds limit")
)

// probes asks and answers how large packets may be.
type probes struct {
	caps   *caps
	port   uint16       // where gossip listens, here and everywhere
	socket *net.UDPConn // sends questions, which nobody may fragment
	is4    bool         // what socket sends
	answer func(to string, b []byte) error
	heard  atomic.Pointer[func(id uint64)]
}

// openProbes makes the socket that questions are sent from, at any port. Answers don't come there, but to gossip's port,
// as questions do: so a firewall that lets gossip through lets probes through.
func openProbes(ctx context.Context, bind netip.Addr, port uint16, caps *caps, inner *memberlist.NetTransport) (*probes, error) {
	p := &probes{caps: caps, port: port, is4: bind.Is4()}
	p.answer = func(to string, b []byte) error {
		_, err := inner.WriteTo(b, to)
		return err
	}
	network := "udp6"
	if p.is4 {
		network = "udp4"
	}
	config := net.ListenConfig{Control: p.forbidFragments}
	conn, err := config.ListenPacket(ctx, network, netip.AddrPortFrom(bind, 0).String())
	if err != nil {
		return nil, fmt.Errorf("opening the socket for probes of paths: %w", err)
	}
	p.socket = conn.(*net.UDPConn)
	if err := p.socket.SetReadBuffer(probeReadBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the socket for probes of paths: %w", err), conn.Close())
	}
	return p, nil
}

// forbidFragments makes a socket send packets in one piece, whatever the kernel has learnt of the path (ip(7),
// IP_PMTUDISC_PROBE).
func (p *probes) forbidFragments(_, _ string, c syscall.RawConn) error {
	var err error
	control := c.Control(func(fd uintptr) {
		if p.is4 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			return
		}
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
	})
	return errors.Join(control, err)
}

// Probe sends one packet of size bytes, IP header included, to the gossip of the node at an address. The packet can't be
// fragmented on its way. When it arrives, and the answer does, OnAnswer's function is called with the id. Whoever needs
// an answer asks again.
func (g *Gossip) Probe(to netip.Addr, size int, id uint64) error {
	if g.stopped.Load() {
		return fmt.Errorf("probing the path to %s: %w", to, ErrStopped)
	}
	if err := g.transport.capped.probes.ask(to, size, id); err != nil {
		return fmt.Errorf("probing the path to %s with %d bytes: %w", to, size, err)
	}
	return nil
}

// OnAnswer sets who is told of answers to probes. The function has to be quick, and may be called for ids that nobody
// asked with: any holder of the gossip key can send it.
func (g *Gossip) OnAnswer(heard func(id uint64)) { g.transport.capped.probes.heard.Store(&heard) }

func (p *probes) ask(to netip.Addr, size int, id uint64) error {
	if to.Is4() != p.is4 {
		return errors.New("gossip here has no address of that family")
	}
	headers := udpHeaders6
	if p.is4 {
		headers = udpHeaders4
	}
	payload := size - headers
	if payload < probeHeader || payload > maxProbe {
		return errProbeSize
	}
	packet := make([]byte, payload)
	p.seal(packet, probeQuestion, payload, id)
	_, err := p.socket.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to, p.port))
	return err
}

// seal writes a header by the key that encrypts.
func (p *probes) seal(b []byte, kind byte, payload int, id uint64) {
	b[0], b[1] = probeKind, kind
	binary.BigEndian.PutUint16(b[2:], uint16(payload))
	binary.BigEndian.PutUint64(b[4:], id)
	copy(b[probeText:probeHeader], codeOf(p.caps.keys.ring.GetPrimaryKey(), b[:probeText]))
}

func codeOf(key, text []byte) []byte {
	code := hmac.New(sha256.New, key)
	code.Write([]byte(probeDomain))
	code.Write(text)
	return code.Sum(nil)[:probeCode]
}

// take deals with a packet that begins as a probe or an answer to one. The error is why it is refused. What holders of
// the gossip key send that isn't either (of a later version, or cut on its way) is none of that, and changes nothing.
func (p *probes) take(packet *memberlist.Packet) error {
	b := packet.Buf
	switch {
	case len(b) < probeHeader:
		return fmt.Errorf("%s: %w", badPacketText, errProbeForm)
	case p.sealed(b):
	case b[1] == probeQuestion || b[1] == probeAnswer: // of a mesh with another gossip key
		return fmt.Errorf("%s: %w", badPacketText, errUndecryptable)
	default:
		return fmt.Errorf("%s: %w", badPacketText, errProbeForm)
	}
	payload, id := int(binary.BigEndian.Uint16(b[2:])), binary.BigEndian.Uint64(b[4:])
	switch {
	case b[1] == probeQuestion && payload == len(b):
		from := addressOf(packet.From)
		if !p.caps.answer(from, packet.Timestamp) {
			return errProbeRate
		}
		var answer [probeHeader]byte
		p.seal(answer[:], probeAnswer, payload, id)
		_ = p.answer(netip.AddrPortFrom(from, p.port).String(), answer[:]) // they ask again
	case b[1] == probeAnswer && len(b) == probeHeader:
		if heard := p.heard.Load(); heard != nil {
			(*heard)(id)
		}
	}
	return nil
}

// sealed reports whether a key of ours made a header's code.
func (p *probes) sealed(b []byte) bool {
	for _, key := range p.caps.keys.ring.GetKeys() {
		if hmac.Equal(codeOf(key, b[:probeText]), b[probeText:probeHeader]) {
			return true
		}
	}
	return false
}

func (p *probes) close() error { return p.socket.Close() }
