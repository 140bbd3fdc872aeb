package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
)

// reach fails unless a can send datagrams to b and get answers.
func reach(t *testing.T, a, b *lab.Host) error {
	_, err := a.Run(t.Context(), "fping", "-q", "-c1", "-t500", b.Addr4.String())
	return err
}

func mustReach(t *testing.T, a, b *lab.Host) {
	t.Helper()
	lab.Eventually(t, 5*time.Second, a.Name+" reaches "+b.Name, func() error { return reach(t, a, b) })
}

func mustNotReach(t *testing.T, a, b *lab.Host) {
	t.Helper()
	if reach(t, a, b) == nil {
		t.Errorf("%s reaches %s", a.Name, b.Name)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostsHaveTheirOwn(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 2, MTU: 1400})
	a, b := l.Hosts[0], l.Hosts[1]

	if got := strings.TrimSpace(a.MustRun(t, "hostname")); got != "h1" {
		t.Errorf("hostname of the first host is %q, want h1", got)
	}
	if a.Addr4 != netip.MustParseAddr("10.99.0.1") || b.Addr6 != netip.MustParseAddr("fd99::2") {
		t.Errorf("addresses are %v and %v", a.Addr4, b.Addr6)
	}
	devices := strings.Fields(a.MustRun(t, "ls", "/sys/class/net"))
	devices = slices.DeleteFunc(devices, func(name string) bool { return name == "bonding_masters" })
	if !slices.Equal(devices, []string{"eth0", "lo"}) {
		t.Errorf("/sys of %s shows the devices %v", a, devices)
	}
	if mtu := strings.TrimSpace(a.MustRun(t, "cat", "/sys/class/net/eth0/mtu")); mtu != "1400" {
		t.Errorf("MTU of the underlay is %s, want 1400", mtu)
	}
	if comm := strings.Fields(a.MustRun(t, "ps", "-e", "-o", "comm=")); len(comm) != 2 {
		t.Errorf("processes of %s: %v; want its init and ps", a, comm)
	}
	for _, family := range []string{"-4", "-6"} {
		if routes := a.MustRun(t, "ip", family, "route", "show", "default"); routes != "" {
			t.Errorf("%s has a default route: %s", a, routes)
		}
	}
	for _, dir := range []string{"/run", "/etc/cni", "/opt/cni", "/var/lib/weaveguard"} {
		if files := a.MustRun(t, "find", dir, "-type", "f"); files != "" {
			t.Errorf("%s of a new host has files: %s", dir, files)
		}
		file := filepath.Join(dir, "wglab-test-file")
		a.MustRun(t, "touch", file)
		if _, err := b.Run(t.Context(), "stat", file); err == nil {
			t.Errorf("%s sees %s of %s", b, file, a)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("the machine sees %s of %s", file, a)
		}
	}
	mustReach(t, a, b)
	a.MustRun(t, "fping", "-q", "-c1", "-t1000", b.Addr6.String())
}

func TestAddHostAndPower(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 1})
	a := l.Hosts[0]
	b, err := l.AddHost()
	must(t, err)
	mustReach(t, a, b)

	sleeper := b.MustStart(t, lab.Command{Path: "sleep", Args: []string{"1000"}})
	b.MustRun(t, "touch", "/run/state", "/var/lib/weaveguard/key")
	b.PowerOff()
	select {
	case <-sleeper.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a process outlives its host")
	}
	if _, err := b.Run(t.Context(), "true"); err == nil {
		t.Error("a host that is off runs a command")
	}
	must(t, b.Boot())
	b.MustRun(t, "test", "-e", "/var/lib/weaveguard/key")
	if _, err := b.Run(t.Context(), "test", "-e", "/run/state"); err == nil {
		t.Error("/run outlives a reboot")
	}
	mustReach(t, a, b)
}

func TestProcess(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	script := func(s string) *lab.Process {
		return h.MustStart(t, lab.Command{Name: "script", Path: "sh", Args: []string{"-c", s}, Env: []string{"WORD=hello"}})
	}
	says := func(p *lab.Process, want string) {
		t.Helper()
		lab.Eventually(t, 5*time.Second, p.Name+" says "+want, func() error {
			if !strings.Contains(p.Log(), want) {
				return fmt.Errorf("it says %q", p.Log())
			}
			return nil
		})
	}
	p := script(`trap 'echo bye; exit 0' TERM; echo $WORD; while :; do sleep 0.1; done`)
	says(p, "hello")
	if err := p.Stop(); err != nil || !strings.Contains(p.Log(), "bye") {
		t.Errorf("Stop: %v; log %q", err, p.Log())
	}
	must(t, p.Kill()) // of one that has ended

	p = script(`trap '' TERM; echo $WORD; while :; do sleep 0.1; done`)
	says(p, "hello")
	must(t, p.Kill())
	if err := p.Wait(); err == nil {
		t.Error("Wait of a killed process says nothing")
	}
	if _, err := h.Run(t.Context(), "sh", "-c", "echo oops >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "oops") {
		t.Errorf("Run of a command that fails: %v", err)
	}
}

func TestNetNS(t *testing.T) {
	h := lab.New(t, lab.Options{Hosts: 1}).Hosts[0]
	n, err := h.NewNetNS(t.Context(), "pod")
	must(t, err)
	if links := n.MustRun(t, "ip", "-o", "link"); strings.Contains(links, "eth0") || !strings.Contains(links, "LOOPBACK,UP") {
		t.Errorf("a new network namespace has the links %s", links)
	}
	h.MustRun(t, "test", "-e", n.Path)
	must(t, n.Delete(t.Context()))
	if _, err := n.Run(t.Context(), "true"); err == nil {
		t.Error("a command runs in a deleted network namespace")
	}
}

func TestPartitions(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 4})
	a, b, c, d := l.Hosts[0], l.Hosts[1], l.Hosts[2], l.Hosts[3]

	must(t, b.Cut())
	mustNotReach(t, a, b)
	mustReach(t, a, c)
	if carrier := strings.TrimSpace(b.MustRun(t, "cat", "/sys/class/net/eth0/carrier")); carrier != "1" {
		t.Errorf("a cut takes the carrier: %s", carrier)
	}
	must(t, b.Heal())
	mustReach(t, a, b)

	must(t, l.Partition([]*lab.Host{a, b}, []*lab.Host{c, d}))
	mustReach(t, a, b)
	mustReach(t, c, d)
	mustNotReach(t, a, c)
	must(t, l.Heal())
	mustReach(t, a, c)

	heal, err := l.CutPair(a, b)
	must(t, err)
	mustNotReach(t, a, b)
	mustReach(t, a, c)
	mustReach(t, c, b)
	must(t, heal())
	mustReach(t, a, b)
}

func TestBlockUDP(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 2})
	a, b := l.Hosts[0], l.Hosts[1]
	for _, addr := range []netip.Addr{b.Addr4, b.Addr6} {
		heal, err := l.BlockUDP(b, 51820)
		must(t, err)
		blocked := lab.StartFlow(t, lab.FlowOptions{From: a, To: b, Addr: netip.AddrPortFrom(addr, 51820), DeadPath: true})
		open := lab.StartFlow(t, lab.FlowOptions{From: a, To: b, Addr: netip.AddrPortFrom(addr, 51821)})
		open.Send(t, 100)
		blocked.Send(t, 100)
		if r := open.Stop(t); r.Lost() != 0 || r.There.Sent == 0 {
			t.Errorf("%v, port that isn't blocked: %v", addr, r)
		}
		if r := blocked.Stop(t); r.There.Received != 0 || r.There.Sent == 0 {
			t.Errorf("%v, blocked port: %v", addr, r)
		}
		must(t, heal())
		lab.StartFlow(t, lab.FlowOptions{From: a, To: b, Addr: netip.AddrPortFrom(addr, 51820)}).Stop(t)
	}
}

func TestFlowCountsLoss(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 2})
	a, b := l.Hosts[0], l.Hosts[1]
	f := lab.StartFlow(t, lab.FlowOptions{From: a, To: b, Addr: netip.AddrPortFrom(b.Addr4, 7000)})
	must(t, b.Cut())
	f.Send(t, 100)
	must(t, b.Heal())
	f.Send(t, 100)
	r := f.Stop(t)
	t.Log(r)
	if r.There.Lost() == 0 || r.Back.Lost() == 0 || r.There.LongestGap == 0 {
		t.Errorf("nothing lost over a cut link: %v", r)
	}
	if r.There.Jumped.IsZero() || r.Back.Jumped.IsZero() {
		t.Errorf("nobody knows when: %v", r)
	}
	if r.There.Received == 0 || r.There.SocketDrops != 0 {
		t.Errorf("around the cut: %v", r)
	}
}

func TestCaptureAndTransfer(t *testing.T) {
	l := lab.New(t, lab.Options{Hosts: 2})
	a, b := l.Hosts[0], l.Hosts[1]
	marker, absent := []byte("in the clear, as plain as day"), []byte("this is sent by nobody")
	c := l.Capture(t, "tcp port 7001", marker)
	none := l.Capture(t, "", absent)
	x := lab.StartTransfer(t, lab.TransferOptions{From: a, To: b, Addr: netip.AddrPortFrom(b.Addr6, 7001), Bytes: 8 << 20, Marker: marker})
	if r := x.Wait(t, time.Minute); r.Bytes != 8<<20 || r.SHA256 == "" {
		t.Errorf("transfer: %+v", r)
	}
	// 4000 bytes don't fit an Ethernet frame.
	a.MustRun(t, "fping", "-q", "-c1", "-b4000", "-t1000", b.Addr4.String())
	r := c.Stop()
	if r.Marked == 0 || r.Bytes < 8<<20 || r.Dropped != 0 || r.Err != nil || r.Fragments != 0 || r.First == "" {
		t.Errorf("capture of a transfer in the clear: %v", r)
	}
	if info, err := os.Stat(c.File); err != nil || info.Size() < 8<<20 {
		t.Errorf("file of the capture: %v, %v", info, err)
	}
	r = none.Stop()
	if r.Marked != 0 || r.Fragments == 0 || r.Packets <= c.Report().Packets {
		t.Errorf("capture of everything: %v", r)
	}
}

func TestBadOptions(t *testing.T) {
	if _, err := lab.Open(t.Context(), lab.Options{V4Only: true, V6Only: true}); err == nil {
		t.Error("a lab without addresses")
	}
	l := lab.New(t, lab.Options{Hosts: 1})
	if _, err := l.Hosts[0].Start(t.Context(), lab.Command{Path: "/no/such/program"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("starting a program that isn't there: %v", err)
	}
	if p, err := l.Hosts[0].Start(t.Context(), lab.Command{Helper: "none"}); err != nil || p.Wait() == nil {
		t.Errorf("starting a helper that isn't there: %v", err)
	}
}
