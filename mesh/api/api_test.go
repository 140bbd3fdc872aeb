package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// askEnv makes the test binary ask the socket that it names for the status, and print what comes: a client in
// another process.
const askEnv = "WEAVEGUARD_TEST_ASK"

func TestMain(m *testing.M) {
	if socket := os.Getenv(askEnv); socket != "" {
		_, err := api.Client{Socket: socket}.Status(context.Background())
		fmt.Println(err)
		return
	}
	os.Exit(m.Run())
}

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func config(t *testing.T, status view.Status) api.Config {
	return api.Config{
		Socket:    filepath.Join(t.TempDir(), "run", "agent.sock"),
		Status:    func() view.Status { return status },
		Ready:     func() (bool, []view.Problem) { return status.Ready, status.Problems },
		Topology:  func() view.Topology { return view.Topology{} },
		Matrix:    func() view.Matrix { return view.Matrix{} },
		Reconcile: func() {},
		Alive:     func() error { return nil },
		Rotate:    func(bool) (view.RotateAnswer, error) { return view.RotateAnswer{}, nil },
		Log:       slog.New(slog.DiscardHandler),
	}
}

// start runs a server until the test or stop ends it, and waits until it answers.
func start(t *testing.T, cfg api.Config) (server *api.Server, stop func()) {
	t.Helper()
	server = api.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, func() error {
		_, err := api.Client{Socket: cfg.Socket}.Status(t.Context())
		return err
	})
	return server, stop
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after 20 s: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freeAddr returns a loopback address that nothing listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, url string) (int, string, error) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// httpClient asks a server without a Client between.
func httpClient(t *testing.T, socket string) *http.Client {
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// awaitGet asks until there is an answer, and checks it.
func awaitGet(t *testing.T, url string, code int, body string) {
	t.Helper()
	eventually(t, func() error {
		gotCode, gotBody, err := get(t, url)
		if err != nil {
			return err
		}
		if gotCode != code || gotBody != body {
			t.Fatalf("%s: %d %q, want %d %q", url, gotCode, gotBody, code, body)
		}
		return nil
	})
}

func sample() view.Status {
	return view.Status{
		Time:        time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		Version:     "v0.1.0",
		Node:        "node-a",
		Ready:       true,
		WireGuard:   "kernel",
		Kubernetes:  "connected",
		PodCIDRs:    []netip.Prefix{netip.MustParsePrefix("10.32.1.0/24")},
		Generations: []view.GenerationStatus{{Number: 3}, {Number: 4}},
		Rotation: view.RotationStatus{Phase: "switching", Reason: "waiting for node-c", Queued: true,
			RotatedAt: time.Date(2026, 3, 4, 5, 6, 0, 25e7, time.UTC),
			Waiting:   []view.RotationPeer{{Node: "node-c", Port: 51822, OwnPort: 51821, Reason: "no handshake with the new key"}}},
		Gossip: view.GossipStatus{Address: "192.0.2.1:6783", Members: 3, Traffic: view.GossipTraffic{
			ReceivedPackets: 11, SentPackets: 12, AcceptedStreams: 13, OpenedStreams: 14, ReceivedMessages: 15, SentMessages: 16}},
		Attachments: 7,
		Addresses: []view.AddressStatus{
			{Network: "default", CIDR: netip.MustParsePrefix("10.32.1.0/24"), Used: 6, Free: 247},
			{Network: "blue", CIDR: netip.MustParsePrefix("10.50.1.0/24"), Used: 1, Free: 252}},
		Devices: []view.DeviceStatus{{Name: "weave-wg0", Kind: "kernel", Traffic: &view.LinkTraffic{
			ReceivedPackets: 21, SentPackets: 22, ReceiveErrors: 23, SendErrors: 24, ReceiveDrops: 25, SendDrops: 26}}, {Name: "weave-wg1"}},
		Problems: []view.Problem{{Subject: "bridge", Message: "no"}, {Subject: "pod ranges", Message: "no", Warning: true}},
		Peers: []view.PeerStatus{
			{Node: "node-b", Up: true, Device: "weave-wg0", LastHandshake: time.Date(2026, 3, 4, 5, 5, 54, 5e8, time.UTC), HandshakeAge: 12.5,
				ReceivedBytes: 1000, SentBytes: 2000, MTU: 1328, PathMTU: 1388,
				RTT: 0.0012, Loss: 0.05, Probes: 20, ClockOffset: new(-0.25)},
			{Node: "node-c", Device: "weave-wg0", Reason: "no handshake yet", HandshakeAge: -1, MTU: 1420},
			{Node: "node-d", Reason: "nothing was heard of it yet", HandshakeAge: -1},
		},
		Counters: view.Counters{Reconciles: 10, ReconcileErrors: 1, KernelWrites: 42, Rotations: 4,
			Refused:      map[string]uint64{"signature": 2},
			ErrorsByKind: map[string]uint64{"routes": 3}, RepairsByKind: map[string]uint64{"firewall": 5}},
	}
}

func TestStatus(t *testing.T) {
	cfg := config(t, sample())
	start(t, cfg)
	got, err := api.Client{Socket: cfg.Socket}.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got, equateAddrs, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the status that arrived (-sent +got):\n%s", diff)
	}
	if info, err := os.Stat(cfg.Socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v; want mode 0660", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(cfg.Socket)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("its directory: %v, %v; want mode 0755", info.Mode(), err)
	}
}

// A list is never null: scripts loop over it.
func TestStatusHasNoNull(t *testing.T) {
	cfg := config(t, view.Status{Peers: []view.PeerStatus{{Node: "node-b"}}})
	start(t, cfg)
	client := httpClient(t, cfg.Socket)
	response, err := client.Get("http://agent/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.HasPrefix(string(body), "{") || strings.Contains(string(body), "null") {
		t.Errorf("the body is %s, %v; want an object without null", body, err)
	}
	if idle := `"rotation":{"phase":"idle","queued":false,"waiting":[]}`; !strings.Contains(string(body), idle) {
		t.Errorf("the body is %s; want %s, also while the agent is starting", body, idle)
	}
}

func TestReconcile(t *testing.T) {
	cfg := config(t, sample())
	var calls atomic.Int32
	cfg.Reconcile = func() { calls.Add(1) }
	start(t, cfg)
	if err := (api.Client{Socket: cfg.Socket}).Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 1 {
		t.Errorf("the loop was woken %d times, want once", calls.Load())
	}
}

func TestSocketGoesWithTheAgent(t *testing.T) {
	cfg := config(t, sample())
	_, stop := start(t, cfg)
	stop()
	if _, err := os.Lstat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Run: %v, want no socket", err)
	}
	start(t, cfg) // the next agent, in the same place
}

func TestSocketOfDeadAgentIsReplaced(t *testing.T) {
	cfg := config(t, sample())
	leaveSocket(t, cfg.Socket)
	start(t, cfg)
}

// leaveSocket leaves a socket as a killed process does.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	dead := listenAt(t, path)
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
}

func listenAt(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func TestSocketOfLiveAgentIsKept(t *testing.T) {
	check := func(t *testing.T, cfg api.Config) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // when it does serve
		defer cancel()
		err := api.New(cfg).Run(ctx)
		var inUse *api.SocketInUseError
		if !errors.As(err, &inUse) || inUse.Socket != cfg.Socket || inUse.PID != os.Getpid() {
			t.Fatalf("Run: %v; want a SocketInUseError with %s and process %d", err, cfg.Socket, os.Getpid())
		}
		if !strings.Contains(err.Error(), cfg.Socket) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("%q doesn't name socket and process", err)
		}
	}
	t.Run("of this program", func(t *testing.T) {
		cfg := config(t, sample())
		start(t, cfg)
		check(t, cfg)
		if _, err := (api.Client{Socket: cfg.Socket}).Status(t.Context()); err != nil {
			t.Errorf("the first agent doesn't answer any more: %v", err)
		}
	})
	t.Run("of one without a lock", func(t *testing.T) {
		cfg := config(t, sample())
		listener := listenAt(t, cfg.Socket)
		defer listener.Close()
		check(t, cfg)
	})
}

func TestOneOfManyAgentsGetsTheSocket(t *testing.T) {
	for range 20 { // without the lock about every tenth goes wrong
		raceForSocket(t)
	}
}

func raceForSocket(t *testing.T) {
	t.Helper()
	const agents = 16
	cfg := config(t, sample())
	leaveSocket(t, cfg.Socket) // which all of them may think that they can remove
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, agents)
	for range agents {
		go func() { ended <- api.New(cfg).Run(ctx) }()
	}
	for range agents - 1 {
		var inUse *api.SocketInUseError
		if err := <-ended; !errors.As(err, &inUse) {
			t.Fatalf("Run: %v, want a SocketInUseError of all but one", err)
		}
	}
	eventually(t, func() error { // the one that has the lock may still be on its way
		_, err := api.Client{Socket: cfg.Socket}.Status(t.Context())
		return err
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run of the one that got it: %v", err)
	}
}

func TestSocketPathThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                                  "isn't a socket",
		filepath.Join(file, "x"):              "not a directory",
		"/tmp/" + strings.Repeat("long/", 30): "choose a shorter one",
	} {
		cfg := config(t, sample())
		cfg.Socket = path
		if err := api.New(cfg).Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run on %s: %v; want %q", path, err, want)
		}
	}
}
