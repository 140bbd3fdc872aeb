package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's own transport, with limits on what others may send before it is decrypted.
type transport struct {
	*memberlist.NetTransport
	from   net.Addr // nil: the kernel chooses
	capped *capped
}

// listen binds to the address that others are told of. That way gossip comes from the address that it names, also
// on a host with several, and the port isn't open on the others. A host that doesn't have the address itself
// (one behind a 1:1 NAT, or an IPv6 address that is still tentative) gets all of its addresses of that family.
func listen(ctx context.Context, advertise netip.Addr, port uint16, caps *caps, logger *log.Logger) (*transport, error) {
	bind := advertise
	here, err := isLocal(advertise)
	if err != nil {
		return nil, fmt.Errorf("binding gossip to %s: %w", advertise, err)
	}
	t := &transport{from: &net.TCPAddr{IP: advertise.AsSlice()}}
	if !here {
		bind, t.from = unspecified(advertise), nil
	}
	t.NetTransport, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{bind.String()},
		BindPort:  int(port),
		Logger:    logger,
	})
	if err != nil {
		return nil, fmt.Errorf("listening for gossip on %s: %w; if another program has the port (Weave Net does), "+
			"stop it", netip.AddrPortFrom(bind, port), err)
	}
	probes, err := openProbes(ctx, bind, port, caps, t.NetTransport)
	if err != nil {
		return nil, errors.Join(err, t.NetTransport.Shutdown())
	}
	t.capped = newCapped(t.NetTransport, caps, probes, logger)
	return t, nil
}

// StreamCh is where memberlist takes accepted streams from.
func (t *transport) StreamCh() <-chan net.Conn { return t.capped.streams }

// PacketCh is where memberlist takes packets from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.capped.packets }

// stop ends listening.
func (t *transport) stop() error { return t.capped.shutdown() }

// lease is the transport for one memberlist, which ends before it: what is dialled ends with a context.
type lease struct {
	*transport
	ctx context.Context // memberlist's interface has none
}

// Shutdown leaves the transport to the next memberlist.
func (l *lease) Shutdown() error { return nil }

// isLocal reports whether the host has the address.
func isLocal(a netip.Addr) (bool, error) {
	probe, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.AsSlice()})
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, probe.Close()
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// DialAddressTimeout opens a stream from the address that others know.
func (l *lease) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout, LocalAddr: l.from, Control: limitSegments}
	conn, err := dialer.DialContext(l.ctx, "tcp", to.Addr)
	if err != nil {
		return nil, err
	}
	l.capped.caps.wire.openedStreams.Add(1)
	// memberlist sets deadlines of its own for state exchanges and probes, and none for messages.
	_ = conn.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	return newStream(conn, l.capped.caps.keys, stop), nil
}

// WriteToAddress sends a packet.
func (l *lease) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	at, err := l.NetTransport.WriteToAddress(b, to)
	if err == nil {
		l.capped.caps.wire.sentPackets.Add(1)
	}
	return at, err
}

// WriteTo is WriteToAddress without a name.
func (l *lease) WriteTo(b []byte, to string) (time.Time, error) {
	return l.WriteToAddress(b, memberlist.Address{Addr: to})
}

// DialTimeout is DialAddressTimeout without a name.
func (l *lease) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	return l.DialAddressTimeout(memberlist.Address{Addr: to}, timeout)
}
