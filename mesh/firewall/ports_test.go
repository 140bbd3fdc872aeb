package firewall_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// quick is how long something that must not arrive is waited for, after what must has arrived.
const quick = 300 * time.Millisecond

// serve answers on a port of all addresses in a namespace, by TCP and UDP, with a text.
func (w *world) serve(t *testing.T, ns netns.NsHandle, port uint16, text string) {
	t.Helper()
	var (
		tcp net.Listener
		udp net.PacketConn
	)
	w.in(t, ns, func() {
		var err error
		tcp, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		must(t, err)
		udp, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		must(t, err)
	})
	t.Cleanup(func() { _, _ = tcp.Close(), udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(text), from)
		}
	}()
}

// ask returns the answer of a port, "" when there was none within this time. An answer by UDP may come from another
// address of the node.
func (w *world) ask(t *testing.T, from netns.NsHandle, network string, to netip.AddrPort, within time.Duration) string {
	t.Helper()
	buffer := make([]byte, 100)
	if network == "udp" {
		conn := w.listen(t, from, netip.Addr{})
		send(t, conn, to, "?")
		must(t, conn.SetReadDeadline(time.Now().Add(within)))
		n, _, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s to %s: %v", network, to, err)
		}
		return string(buffer[:n])
	}
	var (
		conn net.Conn
		err  error
	)
	w.in(t, from, func() { // this thread makes the socket
		conn, err = net.DialTimeout(network, to.String(), within)
	})
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return ""
	}
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetReadDeadline(time.Now().Add(within)))
	n, err := conn.Read(buffer)
	must(t, err)
	return string(buffer[:n])
}

func guardedPorts() view.Firewall {
	f := testFirewall()
	f.Nodes = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	f.GuardedTCP, f.GuardedUDP = []uint16{6782, 6783}, []uint16{6783, 51820}
	return f
}

// Pods reach what others serve on a node, and none of its guarded ports, at whichever address, also behind a Service.
// Nodes reach each other and themselves.
func TestPodsReachNoGuardedPort(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			f := guardedPorts()
			_, err := newApplier().Apply(t.Context(), f)
			must(t, err)
			for _, port := range []uint16{6782, 6783, 51820, 8080} {
				w.serve(t, w.node, port, "node")
				w.serve(t, w.outside, port, "other node")
			}
			service := netip.MustParseAddr("10.96.0.1")
			nat, set := "ip", "ip daddr 10.96.0.1 dnat to "
			if e.host.Is6() {
				service, nat, set = netip.MustParseAddr("fd96::1"), "ip6", "ip6 daddr fd96::1 dnat to "
			}
			run(t, "nft", "table "+nat+" services { chain c { type nat hook prerouting priority -100; "+
				"tcp dport 80 "+set+netip.AddrPortFrom(e.host, 6782).String()+"; "+
				"tcp dport 81 "+set+netip.AddrPortFrom(e.outside, 6782).String()+"; "+
				"tcp dport 82 "+set+netip.AddrPortFrom(e.outside, 8080).String()+"; }; }")
			type target struct {
				network string
				to      netip.AddrPort
			}
			guarded := []target{{"tcp", netip.AddrPortFrom(service, 80)}, {"tcp", netip.AddrPortFrom(service, 81)}}
			open := []target{{"tcp", netip.AddrPortFrom(service, 82)}}
			for _, node := range []netip.Addr{e.host, e.gateway, e.outside} {
				guarded = append(guarded, target{"tcp", netip.AddrPortFrom(node, 6782)}, target{"tcp", netip.AddrPortFrom(node, 6783)},
					target{"udp", netip.AddrPortFrom(node, 6783)}, target{"udp", netip.AddrPortFrom(node, 51820)})
				open = append(open, target{"tcp", netip.AddrPortFrom(node, 8080)}, target{"udp", netip.AddrPortFrom(node, 8080)})
			}
			for _, o := range open {
				if w.ask(t, w.pod, o.network, o.to, patience) == "" {
					t.Errorf("the pod doesn't reach %s by %s", o.to, o.network)
				}
			}
			for _, g := range guarded {
				if got := w.ask(t, w.pod, g.network, g.to, quick); got != "" {
					t.Errorf("the pod reaches %s by %s: %q", g.to, g.network, got)
				}
				if g.to.Addr() != service && w.ask(t, w.node, g.network, g.to, patience) == "" {
					t.Errorf("the node doesn't reach %s by %s", g.to, g.network)
				}
			}
			for _, port := range []uint16{6782, 6783} {
				if w.ask(t, w.outside, "tcp", netip.AddrPortFrom(e.host, port), patience) == "" {
					t.Errorf("the other node doesn't reach %d", port)
				}
			}
			counters, err := newApplier().Counters(t.Context())
			must(t, err)
			for _, name := range []string{"to-node-tcp", "to-node-udp", "to-nodes-tcp-" + family, "to-nodes-udp-" + family} {
				if counters[name] == 0 {
					t.Errorf("%s counted none of: %v", name, counters)
				}
			}
			// What is allowed, or without the guard.
			f.GuardedTCP, f.GuardedUDP = nil, nil
			_, err = newApplier().Apply(t.Context(), f)
			must(t, err)
			for _, g := range guarded {
				if w.ask(t, w.pod, g.network, g.to, patience) == "" {
					t.Errorf("the pod doesn't reach %s by %s, though it may", g.to, g.network)
				}
			}
		})
	}
}

// What comes by a tunnel is from another node's pod, also when it has that node's address.
func TestGuardedPortsByTunnel(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			f := guardedPorts()
			host := w.listen(t, w.node, netip.Addr{})
			here := netip.AddrPortFrom(e.gateway, portOf(host))
			f.GuardedUDP = []uint16{here.Port()}
			_, err := newApplier().Apply(t.Context(), f)
			must(t, err)
			farGateway := e.remotePod.Prev()
			for _, from := range []netip.Addr{e.remotePod, farGateway} {
				_, err = w.tunnels[0].Write(udp(netip.AddrPortFrom(from, 4000), here, "guarded"))
				must(t, err)
			}
			f.GuardedUDP = nil
			_, err = newApplier().Apply(t.Context(), f)
			must(t, err)
			_, err = w.tunnels[0].Write(udp(netip.AddrPortFrom(e.remotePod, 4000), here, "allowed"))
			must(t, err)
			if got, from := receive(t, host); got != "allowed" {
				t.Errorf("the node received %q from %s", got, from)
			}
		})
	}
}

// A node that calls a pod from one of these ports gets its answer.
func TestAnswersToGuardedPorts(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			host, pod := w.listen(t, w.node, e.gateway), w.listen(t, w.pod, e.pod)
			f := guardedPorts()
			f.GuardedUDP = []uint16{portOf(host)}
			_, err := newApplier().Apply(t.Context(), f)
			must(t, err)
			send(t, host, netip.AddrPortFrom(e.pod, portOf(pod)), "question")
			_, from := receive(t, pod)
			send(t, pod, from, "answer")
			if got, _ := receive(t, host); got != "answer" {
				t.Errorf("the node received %q", got)
			}
		})
	}
}
