package monitoring_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// target is an agent's own server, with statuses of a test in the place of an agent's.
type target struct {
	url     string
	step    atomic.Int64
	timings *api.Timings
}

// freeAddresses are as many addresses of loopback that nobody listens on, all different.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		all = append(all, listener.Addr().String())
	}
	return all
}

// serve serves the metrics of a status at an address until the test ends.
func serve(t *testing.T, address string, status func(step uint64) view.Status) *target {
	t.Helper()
	target := &target{url: "http://" + address + "/metrics", timings: api.NewTimings()}
	server := api.New(api.Config{
		Socket: filepath.Join(t.TempDir(), "agent.sock"), MetricsAddr: address, Retry: 10 * time.Millisecond,
		Status: func() view.Status { return status(uint64(target.step.Load())) }, Log: slog.New(slog.DiscardHandler),
		Timings: target.timings, Kinds: mesh.Kinds(), Reasons: append(mesh.Refusals(), gossip.Reasons()...),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		if problems := server.Problems(); len(problems) > 0 {
			t.Errorf("somebody else answered at %s: %v", address, problems)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return target
}

// scrape reads the metrics of a step. It waits for a server that is starting.
func (target *target) scrape(t *testing.T, step int) string {
	t.Helper()
	target.step.Store(int64(step))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		response, err := http.Get(target.url)
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			continue
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v: %s", response.Status, err, text)
		}
		return string(text)
	}
}

// healthy is the status of one of three nodes after some scrapes, with something going on.
func healthy(step uint64) view.Status {
	offset := 0.002
	peer := func(node string) view.PeerStatus {
		return view.PeerStatus{Node: node, Up: true, Device: "weave-wg0", LastHandshake: time.Now(), HandshakeAge: 12, MTU: 1420,
			ReceivedBytes: int64(step) * 1000, SentBytes: int64(step) * 2000, Gossip: true,
			RTT: 0.0012, Loss: 0.05 * float64(step%2), Probes: 20, ClockOffset: &offset}
	}
	return view.Status{
		Version: "v0.1.0", Node: "node-a", Ready: true, Kubernetes: "connected", Attachments: 5,
		Generations: []view.GenerationStatus{{Number: 1}},
		Rotation:    view.RotationStatus{Phase: "idle", RotatedAt: time.Unix(1.7e9, 0)},
		Addresses:   []view.AddressStatus{{Network: "default", CIDR: netip.MustParsePrefix("10.32.1.0/24"), Used: 5, Free: 248}},
		Peers:       []view.PeerStatus{peer("node-b"), peer("node-c")},
		Devices: []view.DeviceStatus{{Name: "weave-wg0",
			Traffic: &view.LinkTraffic{ReceivedPackets: step * 10, SentPackets: step * 20}}},
		Gossip: view.GossipStatus{Members: 3, Traffic: view.GossipTraffic{ReceivedPackets: step * 100, SentPackets: step * 100}},
		// One that was refused is no news for as long as no other is.
		Counters: view.Counters{Reconciles: step * 20, KernelWrites: step, Rotations: step / 2, Refused: map[string]uint64{"old": step}},
	}
}
