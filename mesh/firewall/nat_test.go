package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A pod reaches an address outside the cluster as its node, and the answer reaches the pod.
func TestPodIsMasqueradedOutOfTheCluster(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			_, err := newApplier().Apply(t.Context(), testFirewall())
			must(t, err)
			pod := w.listen(t, w.pod, e.pod)
			for _, target := range []netip.Addr{e.outside, e.anyone} {
				server := w.listen(t, w.outside, target)
				to := server.LocalAddr().(*net.UDPAddr).AddrPort()
				send(t, pod, to, "question")
				got, from := receive(t, server)
				if got != "question" || from.Addr() != e.host {
					t.Errorf("the server received %q from %v", got, from)
				}
				send(t, server, from, "answer")
				if got, from := receive(t, pod); got != "answer" || from != to {
					t.Errorf("the pod received %q from %v", got, from)
				}
			}
		})
	}
}

// The ports are random, else two connections that are made at once fight for the same one.
func TestNATTakesRandomPorts(t *testing.T) {
	w := newWorld(t)
	_, err := newApplier().Apply(t.Context(), testFirewall())
	must(t, err)
	e := families()["ipv4"]
	server := w.listen(t, w.outside, e.outside)
	masqueraded, ontoTunnel := 0, 0
	for range 20 {
		pod := w.listen(t, w.pod, e.pod)
		send(t, pod, server.LocalAddr().(*net.UDPAddr).AddrPort(), "question")
		if _, from := receive(t, server); from.Port() == portOf(pod) {
			masqueraded++
		}
		host := w.listen(t, w.node, e.host)
		send(t, host, netip.AddrPortFrom(e.remotePod, 4000), "question")
		if p := fromTunnel(t, w.tunnels[0], text("question")); p.source.Port() == portOf(host) {
			ontoTunnel++
		}
	}
	if masqueraded > 2 || ontoTunnel > 2 {
		t.Errorf("of 20 connections %d out of the cluster and %d into the tunnel kept their port", masqueraded, ontoTunnel)
	}
}

// Multicast and broadcast aren't masqueraded: the node sends them with its gateway address.
func TestMulticastIsNotMasqueraded(t *testing.T) {
	w := newWorld(t)
	_, err := newApplier().Apply(t.Context(), testFirewall())
	must(t, err)
	tap := w.tap(t)
	index := link(t, "eth0").Attrs().Index
	for destination, source := range map[string]string{
		"239.1.2.3": "10.32.5.1", "255.255.255.255": "10.32.5.1", "ff05::7": "fd00:5::1",
	} {
		host := w.listen(t, w.node, netip.MustParseAddr(source))
		raw, err := host.SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
			must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index))
		}))
		send(t, host, netip.AddrPortFrom(netip.MustParseAddr(destination), 7), "to many")
		send(t, w.listen(t, w.node, netip.Addr{}), netip.MustParseAddrPort("192.0.2.2:7"), "the end")
		seen := false
		for _, p := range tap.until(t, "the end") {
			if p.text() != "to many" {
				continue
			}
			seen = true
			if p.source.Addr() != netip.MustParseAddr(source) {
				t.Errorf("to %s it left with the source %v", destination, p.source)
			}
		}
		if !seen {
			t.Errorf("nothing was sent to %s", destination)
		}
	}
}

// The node's own packets with an address that the far node wouldn't take from us become the gateway's, the answer
// comes back, and the connection goes on when its route moves to another tunnel.
func TestForeignSourceOnTunnel(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w := newWorld(t)
			_, err := newApplier().Apply(t.Context(), testFirewall())
			must(t, err)
			host := w.listen(t, w.node, e.host)
			target := netip.AddrPortFrom(e.remotePod, 4000)
			var first netip.AddrPort
			for i, tunnel := range w.tunnels {
				w.route(t, fmt.Sprintf("weave-wg%d", i))
				send(t, host, target, "question")
				p := fromTunnel(t, tunnel, text("question"))
				if i == 0 {
					first = p.source
				}
				if p.source.Addr() != e.gateway || p.source != first {
					t.Errorf("by tunnel %d it left with the source %v, first %v", i, p.source, first)
				}
				_, err = tunnel.Write(udp(target, p.source, "answer"))
				must(t, err)
				if got, from := receive(t, host); got != "answer" || from != target {
					t.Errorf("the node received %q from %v", got, from)
				}
			}
		})
	}
}

// kube-proxy's rules in iptables mode, cut down to one ClusterIP (every source marked) and one NodePort: it marks in
// PREROUTING, and masquerades what is marked at priority 100.
func kubeProxy(t *testing.T, iptables string, clusterIP, nodePort, endpoint netip.AddrPort) {
	t.Helper()
	rules := fmt.Sprintf(`*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -d %[1]s -p udp --dport %[2]d -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d %[1]s -p udp --dport %[2]d -j DNAT --to-destination %[5]s
-A KUBE-SERVICES -d %[3]s -p udp --dport %[4]d -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d %[3]s -p udp --dport %[4]d -j DNAT --to-destination %[5]s
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
`, clusterIP.Addr(), clusterIP.Port(), nodePort.Addr(), nodePort.Port(), endpoint)
	restore := exec.Command(iptables+"-restore", "--noflush")
	restore.Stdin = strings.NewReader(rules)
	if out, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("%s-restore (this test needs the package iptables): %v: %s", iptables, err, out)
	}
}

// masqueraded is how many connections kube-proxy's own rule has masqueraded.
func masqueraded(t *testing.T, iptables string) string {
	t.Helper()
	for line := range strings.Lines(run(t, iptables, "-t", "nat", "-L", "KUBE-POSTROUTING", "-v", "-x", "-n")) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "MASQUERADE" {
			return fields[0]
		}
	}
	t.Fatal("kube-proxy's rule is gone")
	return ""
}

// What kube-proxy has marked leaves by a tunnel as the gateway, even from a pod of this node, and kube-proxy's own
// masquerade comes too late: the connection isn't bound to its device.
func TestMarkedByKubeProxy(t *testing.T) {
	tests := map[string]struct{ iptables, family, clusterIP, nodePort string }{
		"iptables-nft ipv4":    {"iptables-nft", "ipv4", "10.96.0.10:53", "192.0.2.1:30053"},
		"iptables-legacy ipv4": {"iptables-legacy", "ipv4", "10.96.0.10:53", "192.0.2.1:30053"},
		"iptables-nft ipv6":    {"ip6tables-nft", "ipv6", "[fd96::10]:53", "[2001:db8::1]:30053"},
		"iptables-legacy ipv6": {"ip6tables-legacy", "ipv6", "[fd96::10]:53", "[2001:db8::1]:30053"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e := families()[tt.family]
			clusterIP, nodePort := netip.MustParseAddrPort(tt.clusterIP), netip.MustParseAddrPort(tt.nodePort)
			endpoint := netip.AddrPortFrom(e.remotePod, 5353)
			kubeProxy(t, tt.iptables, clusterIP, nodePort, endpoint)
			_, err := newApplier().Apply(t.Context(), testFirewall())
			must(t, err)
			for _, client := range []struct {
				conn *net.UDPConn
				to   netip.AddrPort
			}{
				{w.listen(t, w.pod, e.pod), clusterIP},
				{w.listen(t, w.outside, e.outside), nodePort},
			} {
				var first netip.AddrPort
				for i, tunnel := range w.tunnels {
					w.route(t, fmt.Sprintf("weave-wg%d", i))
					send(t, client.conn, client.to, "question")
					p := fromTunnel(t, tunnel, text("question"))
					if i == 0 {
						first = p.source
					}
					if p.destination != endpoint || p.source.Addr() != e.gateway || p.source != first {
						t.Errorf("to %v: by tunnel %d it left from %v, first %v, to %v", client.to, i, p.source, first, p.destination)
					}
					_, err = tunnel.Write(udp(endpoint, p.source, "answer"))
					must(t, err)
					if got, from := receive(t, client.conn); got != "answer" || from != client.to {
						t.Errorf("the client received %q from %v", got, from)
					}
				}
			}
			if n := masqueraded(t, tt.iptables); n != "0" {
				t.Errorf("kube-proxy masqueraded %s connections", n)
			}
		})
	}
}

// The same without our rule for marks: kube-proxy's masquerade takes the connection, so the test above can fail.
func TestMarkedByKubeProxyWithoutOurRule(t *testing.T) {
	w := newWorld(t)
	e := families()["ipv4"]
	clusterIP, nodePort := netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("192.0.2.1:30053")
	kubeProxy(t, "iptables-nft", clusterIP, nodePort, netip.AddrPortFrom(e.remotePod, 5353))
	f := testFirewall()
	f.Gateways = nil
	_, err := newApplier().Apply(t.Context(), f)
	must(t, err)
	send(t, w.listen(t, w.pod, e.pod), clusterIP, "question")
	fromTunnel(t, w.tunnels[0], text("question"))
	if n := masqueraded(t, "iptables-nft"); n != "1" {
		t.Errorf("kube-proxy masqueraded %s connections", n)
	}
}
