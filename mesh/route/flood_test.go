package route_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// A route that moves from device to device loses no packet: all that is sent comes out at one of the two.
func TestRouteMovesWithoutLoss(t *testing.T) {
	for family, test := range map[string]struct{ range_, destination, source, target string }{
		"IPv4": {"10.32.0.0/12", "10.32.6.0/24", "10.32.5.1", "10.32.6.9"},
		"IPv6": {"fd00::/16", "fd00:6::/64", "fd00:5::1", "fd00:6::9"},
	} {
		t.Run(family, func(t *testing.T) {
			a := newNamespace(t)
			var received atomic.Int64
			var readers sync.WaitGroup
			for _, name := range []string{"weave-wg0", "weave-wg1"} {
				tun := makeTun(t, name)
				// The reader may be kept waiting, and then the device mustn't be what loses packets.
				must(t, netlink.LinkSetTxQLen(link(t, name), 1<<17))
				readers.Go(func() { countProbes(t, tun, addr(test.target), &received) })
			}
			_, err := a.ApplyDevices(t.Context(), []view.Device{testDevice("weave-wg0"), testDevice("weave-wg1")})
			must(t, err)
			apply := func(device string) {
				t.Helper()
				_, err := a.ApplyRoutes(t.Context(), []view.Route{
					{Destination: prefix(test.range_), Metric: 4000},
					{Destination: prefix(test.destination), Device: device, Source: addr(test.source), MTU: 1408},
				})
				must(t, err)
			}
			apply("weave-wg0")
			sent, stop := flood(t, addr(test.target))
			const moves = 300
			for i := range moves {
				before := sent.Load()
				apply([]string{"weave-wg1", "weave-wg0"}[i%2])
				eventually(t, "packets between two moves", func() bool { return sent.Load() > before+10 })
			}
			stop()
			total := sent.Load()
			eventually(t, "the packets that were sent", func() bool { return received.Load() >= total })
			if got := received.Load(); got != total {
				t.Errorf("%d were sent and %d came", total, got)
			}
			t.Logf("%d moves, %d packets, none lost", moves, total)
		})
	}
}

const probePort = 7777

// countProbes counts what comes out of a tunnel device for a target, until the device's file is closed.
func countProbes(t *testing.T, tun *os.File, target netip.Addr, count *atomic.Int64) {
	buffer := make([]byte, 2048)
	for {
		n, err := tun.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
			return
		}
		at, header := 16, 20
		if target.Is6() {
			at, header = 24, 40
		}
		packet := buffer[:n]
		if n < header+8 || string(packet[at:at+len(target.AsSlice())]) != string(target.AsSlice()) ||
			binary.BigEndian.Uint16(packet[header+2:]) != probePort {
			continue
		}
		count.Add(1)
	}
}

// flood sends small UDP packets from the test's namespace until it is stopped. An error of one send is a failure:
// the kernel reports the lack of a route so.
func flood(t *testing.T, target netip.Addr) (*atomic.Int64, func()) {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	var (
		sent atomic.Int64
		done = make(chan struct{})
		work sync.WaitGroup
	)
	work.Go(func() {
		runtime.LockOSThread()
		if err := netns.Set(here); err != nil {
			t.Error(err)
			return
		}
		conn, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for range 20 {
				_, err := conn.WriteToUDPAddrPort([]byte("probe"), netip.AddrPortFrom(target, probePort))
				if err != nil && !errors.Is(err, unix.ENOBUFS) {
					t.Errorf("sending: %v", err)
					return
				}
				if err == nil {
					sent.Add(1)
				}
			}
		}
	})
	return &sent, func() {
		close(done)
		work.Wait()
		_ = here.Close()
	}
}
