package lab_test

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/bare"
)

// rateEnv sets the datagrams a second of TestWireGuard, for slow machines.
const rateEnv = "WEAVEGUARD_TEST_RATE"

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
	a, b := bare.Tunnel{Device: "weave-wg0", Port: 51820, MTU: 1420, Kernel: kernel}.Connect(t, l.Hosts[0], l.Hosts[1])

	marker := []byte("nobody outside may read this")
	underlay := l.Capture(t, "", marker)
	f := lab.StartFlow(t, lab.FlowOptions{
		From: a.Host, To: b.Host, Addr: netip.AddrPortFrom(b.Inner, 7000), Rate: testRate(t), Marker: marker,
	})
	x := lab.StartTransfer(t, lab.TransferOptions{
		From: a.Host, To: b.Host, Addr: netip.AddrPortFrom(b.Inner, 7001), Bytes: 1 << 20, Rate: 1 << 20, Marker: marker,
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
	show := a.Host.MustRun(t, "wg", "show")
	t.Log(show)
	for _, want := range []string{"interface: weave-wg0", "peer: " + b.Public, "latest handshake"} {
		if !strings.Contains(show, want) {
			t.Errorf("wg show on %s doesn't say %q", a.Host, want)
		}
	}

	// A cut link is loss.
	f = lab.StartFlow(t, lab.FlowOptions{From: a.Host, To: b.Host, Addr: netip.AddrPortFrom(b.Inner, 7000), Rate: testRate(t)})
	must(t, b.Host.Cut())
	f.Send(t, 100)
	must(t, b.Host.Heal())
	f.Send(t, 100)
	if r := f.Stop(t); r.There.Lost() == 0 || r.There.Received == 0 {
		t.Errorf("a cut of the underlay under the tunnel: %v", r)
	}
}
