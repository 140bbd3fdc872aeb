package firewall_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The world's routes to the far pods have an mtu of 1300 bytes.
func TestSegmentSizeFitsTheRoute(t *testing.T) {
	fits := map[string]uint16{"ipv4": 1300 - 20 - 20, "ipv6": 1300 - 40 - 20}
	unclamped := map[string]uint16{"ipv4": 1500 - 20 - 20, "ipv6": 1500 - 40 - 20}
	for family, e := range families() {
		for name, tt := range map[string]struct {
			clamped bool
			wish    int // the client's own limit; 0: none
			want    uint16
		}{
			"clamped":      {clamped: true, want: fits[family]},
			"never raised": {clamped: true, wish: 600, want: 600},
			"no rule":      {want: unclamped[family]},
		} {
			t.Run(family+" "+name, func(t *testing.T) {
				w := newWorld(t)
				f := testFirewall()
				if !tt.clamped {
					f.Tunnels = nil
					f.Bridges = append(f.Bridges, "weave-wg0", "weave-wg1")
				}
				_, err := newApplier().Apply(t.Context(), f)
				must(t, err)
				target := netip.AddrPortFrom(e.remotePod, 80)
				w.in(t, w.pod, func() { connect(t, target, tt.wish) })
				p := fromTunnel(t, w.tunnels[0], func(p packet) bool { return p.destination == target })
				if got := segmentSize(t, p); got != tt.want {
					t.Errorf("the first packet asks for segments of %d bytes, want %d", got, tt.want)
				}
				if tt.wish != 0 {
					return
				}
				answer := answerTo(t, w, e)
				if got := segmentSize(t, answer); got != tt.want {
					t.Errorf("the answer asks for segments of %d bytes, want %d", got, tt.want)
				}
			})
		}
	}
}

// answerTo returns the pod's answer to a far pod that begins a connection.
func answerTo(t *testing.T, w *world, e ends) packet {
	t.Helper()
	var server net.Listener
	w.in(t, w.pod, func() {
		var err error
		server, err = net.Listen("tcp", netip.AddrPortFrom(e.pod, 0).String())
		must(t, err)
	})
	defer func() { _ = server.Close() }()
	from := netip.AddrPortFrom(e.remotePod, 40000)
	_, err := w.tunnels[0].Write(syn(from, server.Addr().(*net.TCPAddr).AddrPort(), 8960))
	must(t, err)
	return fromTunnel(t, w.tunnels[0], func(p packet) bool { return p.destination == from })
}

// connect begins a TCP connection and doesn't wait for it.
func connect(t *testing.T, to netip.AddrPort, segmentSize int) {
	t.Helper()
	domain, target := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		domain, target = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	socket, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(socket) })
	if segmentSize != 0 {
		must(t, unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_MAXSEG, segmentSize))
	}
	if err := unix.Connect(socket, target); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connecting: %v", err)
	}
}

// segmentSize is a TCP packet's option 2 (RFC 9293, section 3.2).
func segmentSize(t *testing.T, p packet) uint16 {
	t.Helper()
	if p.protocol != unix.IPPROTO_TCP || len(p.segment) < 20 {
		t.Fatalf("not TCP: %+v", p)
	}
	options := p.segment[20 : int(p.segment[12]>>4)*4]
	for len(options) > 1 && options[0] != 0 {
		switch {
		case options[0] == 1:
			options = options[1:]
		case options[0] == 2 && len(options) >= 4:
			return binary.BigEndian.Uint16(options[2:])
		default:
			options = options[options[1]:]
		}
	}
	t.Fatal("the packet has no segment size")
	return 0
}
