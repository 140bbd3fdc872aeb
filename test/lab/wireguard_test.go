package lab_test

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
)

// rateEnv sets the datagrams a second of TestWireGuard, for slow machines.
const rateEnv = "WEAVEGUARD_TEST_RATE"

// peerEnd is one end of a tunnel.
type peerEnd struct {
	host            *lab.Host
	private, public string
	inner           netip.Addr
}

func newEnd(t *testing.T, h *lab.Host, kernel bool, inner string) peerEnd {
	t.Helper()
	if kernel {
		h.MustRun(t, "ip", "link", "add", "weave-wg0", "type", "wireguard")
	} else {
		h.MustStart(t, lab.Command{Helper: "wireguard", Args: []string{"weave-wg0"}})
	}
	lab.Eventually(t, 10*time.Second, "the device on "+h.Name, func() error {
		_, err := h.Run(t.Context(), "wg", "show", "weave-wg0")
		return err
	})
	e := peerEnd{host: h, inner: netip.MustParseAddr(inner)}
	e.private = strings.TrimSpace(h.MustRun(t, "wg", "genkey"))
	e.public = h.MustRun(t, "sh", "-c", "echo "+e.private+" | wg pubkey | tr -d '\n'")
	h.MustRun(t, "sh", "-c", "umask 077; echo "+e.private+" >/run/key; wg set weave-wg0 private-key /run/key listen-port 51820")
	h.MustRun(t, "ip", "addr", "add", inner+"/24", "dev", "weave-wg0")
	h.MustRun(t, "ip", "link", "set", "weave-wg0", "up", "mtu", "1420")
	return e
}

func (e peerEnd) add(t *testing.T, peer peerEnd) {
	t.Helper()
	e.host.MustRun(t, "wg", "set", "weave-wg0", "peer", peer.public,
		"endpoint", netip.AddrPortFrom(peer.host.Addr4, 51820).String(), "allowed-ips", peer.inner.String()+"/32")
}

func testRate(t *testing.T) int {
	s := os.Getenv(rateEnv)
	if s == "" {
		return 1000
	}
	rate, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", rateEnv, err)
	}
	return rate
}

// TestWireGuard shows that hosts carry a tunnel, that wg sees it, that the flow
// over it loses nothing and that a capture of the underlay shows none of it.
func TestWireGuard(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 2})
	kernel, err := l.KernelWireGuard()
	must(t, err)
	t.Logf("WireGuard in the kernel: %v", kernel)
	a, b := newEnd(t, l.Hosts[0], kernel, "10.77.0.1"), newEnd(t, l.Hosts[1], kernel, "10.77.0.2")
	a.add(t, b)
	b.add(t, a)

	marker := []byte("nobody outside may read this")
	underlay := l.Capture(t, "", marker)
	f := lab.StartFlow(t, lab.FlowOptions{
		From: a.host, To: b.host, Addr: netip.AddrPortFrom(b.inner, 7000), Rate: testRate(t), Marker: marker,
	})
	x := lab.StartTransfer(t, lab.TransferOptions{
		From: a.host, To: b.host, Addr: netip.AddrPortFrom(b.inner, 7001), Bytes: 1 << 20, Rate: 1 << 20, Marker: marker,
	})
	x.Wait(t, time.Minute)
	r := f.Stop(t)
	t.Log(r)
	if r.Lost() != 0 || r.There.Sent == 0 || r.Back.Sent == 0 {
		t.Errorf("a tunnel lost datagrams: %v", r)
	}
	if seen := underlay.Stop(); seen.Marked != 0 || seen.Dropped != 0 || seen.Packets == 0 || seen.Fragments != 0 {
		t.Errorf("on the underlay: %v\n%s", seen, seen.First)
	}
	show := a.host.MustRun(t, "wg", "show")
	t.Log(show)
	for _, want := range []string{"interface: weave-wg0", "peer: " + b.public, "latest handshake"} {
		if !strings.Contains(show, want) {
			t.Errorf("wg show on %s doesn't say %q", a.host, want)
		}
	}

	// A cut link is loss.
	f = lab.StartFlow(t, lab.FlowOptions{From: a.host, To: b.host, Addr: netip.AddrPortFrom(b.inner, 7000), Rate: testRate(t)})
	must(t, b.host.Cut())
	f.Send(t, 100)
	must(t, b.host.Heal())
	f.Send(t, 100)
	if r := f.Stop(t); r.There.Lost() == 0 || r.There.Received == 0 {
		t.Errorf("a cut of the underlay under the tunnel: %v", r)
	}
}
