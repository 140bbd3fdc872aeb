package tunnel_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/tunnel/tunneltest"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestMain(m *testing.M) { os.Exit(tunneltest.Isolate(m)) }

// world is where devices are: a fake, WireGuard in userspace, or in the kernel.
type world struct {
	kind   string
	maker  tunnel.Maker
	open   func() (tunnel.Client, error)
	put    func(name string, config wgtypes.Config) error // behind the applier's back
	fake   *tunneltest.Fake                               // nil: a real one
	writes *atomic.Int64                                  // that were really made
}

// realKinds says which real WireGuards to test: userspace, and the kernel's where there is one. Who must have one of
// them tested says so in WEAVEGUARD_TEST_WIREGUARD, and a kernel without it is a failure then.
func realKinds(t *testing.T) []string {
	t.Helper()
	switch want := os.Getenv("WEAVEGUARD_TEST_WIREGUARD"); want {
	case tunnel.Kernel, tunnel.Userspace:
		return []string{want}
	case "":
	default:
		t.Fatalf("WEAVEGUARD_TEST_WIREGUARD is %q: want kernel, userspace, or nothing", want)
	}
	probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wgprobe"}}
	if err := netlink.LinkAdd(probe); err != nil {
		t.Logf("this kernel has no WireGuard (%v): only userspace is tested", err)
		return []string{tunnel.Userspace}
	}
	if err := netlink.LinkDel(probe); err != nil {
		t.Fatal(err)
	}
	return []string{tunnel.Userspace, tunnel.Kernel}
}

// inEachWorld runs a test with a fake and with all real WireGuards.
func inEachWorld(t *testing.T, test func(t *testing.T, w world)) {
	t.Run("fake", func(t *testing.T) { test(t, fakeWorld(t)) })
	for _, kind := range realKinds(t) {
		t.Run(kind, func(t *testing.T) { test(t, realWorld(t, kind)) })
	}
}

func fakeWorld(t *testing.T) world {
	f := tunneltest.NewFake(wgtypes.LinuxKernel)
	w := counted(world{kind: tunnel.Kernel, maker: f, fake: f, put: f.Put,
		open: func() (tunnel.Client, error) { return f, nil }})
	t.Cleanup(func() {
		if err := f.Refused(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func realWorld(t *testing.T, kind string) world {
	w := world{kind: kind, open: func() (tunnel.Client, error) { return wgctrl.New() }}
	w.put = func(name string, config wgtypes.Config) error {
		client, err := wgctrl.New()
		if err != nil {
			return err
		}
		return errors.Join(client.ConfigureDevice(name, config), client.Close())
	}
	if kind == tunnel.Userspace {
		w.maker = startDaemon(t)
		return counted(w)
	}
	maker := kernelMaker{}
	w.maker = maker
	t.Cleanup(func() {
		names, err := maker.List(t.Context())
		for _, name := range names {
			err = errors.Join(err, maker.Remove(t.Context(), name))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return counted(w)
}

// startDaemon runs the userspace daemon until the test ends.
func startDaemon(t *testing.T) *userspace.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "userspace.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- userspace.Serve(ctx, userspace.Config{Socket: socket, Log: logOf(t)}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	client := userspace.NewClient(socket)
	eventually(t, "the daemon answers", func() error {
		_, err := client.Version(t.Context())
		return err
	})
	return client
}

// kernelMaker makes kernel devices for tests.
type kernelMaker struct{}

func (kernelMaker) Make(_ context.Context, name string, mtu int) error {
	return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}})
}

func (kernelMaker) Remove(_ context.Context, name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

func (kernelMaker) List(context.Context) ([]string, error) {
	links, err := netlink.LinkList()
	var names []string
	for _, link := range links {
		if link.Type() == "wireguard" {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, err
}

// counted counts the writes that really reach a world.
func counted(w world) world {
	w.writes = &atomic.Int64{}
	open := w.open
	w.maker = countedMaker{w.maker, w.writes}
	w.open = func() (tunnel.Client, error) {
		client, err := open()
		return countedClient{client, w.writes}, err
	}
	return w
}

type countedMaker struct {
	tunnel.Maker
	writes *atomic.Int64
}

func (m countedMaker) Make(ctx context.Context, name string, mtu int) error {
	err := m.Maker.Make(ctx, name, mtu)
	if err == nil {
		m.writes.Add(1)
	}
	return err
}

func (m countedMaker) Remove(ctx context.Context, name string) error {
	err := m.Maker.Remove(ctx, name)
	if err == nil {
		m.writes.Add(1)
	}
	return err
}

type countedClient struct {
	tunnel.Client
	writes *atomic.Int64
}

func (c countedClient) ConfigureDevice(name string, config wgtypes.Config) error {
	err := c.Client.ConfigureDevice(name, config)
	if err == nil {
		c.writes.Add(1)
	}
	return err
}

// privates is a key store of generations 0 and 1.
func privates(t *testing.T) func(uint32) (keys.PrivateKey, bool) {
	t.Helper()
	var all []keys.PrivateKey
	for i := range 2 {
		store, err := keys.Open(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		all = append(all, store.Generations()[0].Private)
	}
	return func(generation uint32) (keys.PrivateKey, bool) {
		if int(generation) >= len(all) {
			return keys.PrivateKey{}, false
		}
		return all[generation], true
	}
}

// agent returns an applier as an agent has it from its start.
func (w world) agent(t *testing.T, private func(uint32) (keys.PrivateKey, bool)) *tunnel.Applier {
	return tunnel.New(tunnel.Config{Maker: w.maker, Private: private, Kind: w.kind, Log: logOf(t), Open: w.open})
}

func (w world) show(t *testing.T, name string) *wgtypes.Device {
	t.Helper()
	client, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	device, err := client.Device(name)
	if err != nil {
		t.Fatalf("device %s: %v", name, err)
	}
	return device
}

func logOf(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits until what gives no error.
func eventually(t *testing.T, claim string, what func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = what(); err == nil {
			return
		}
	}
	t.Fatalf("not so: %s: %v", claim, err)
}

// public is the key of a node, always the same.
func public(node string) keys.PublicKey {
	private := wgtypes.Key(sha256.Sum256([]byte(node)))
	return keys.PublicKey(private.PublicKey())
}

func peer(node, endpoint string, allowed ...string) view.Peer {
	p := view.Peer{Node: node, PublicKey: public(node), Keepalive: 25 * time.Second}
	if endpoint != "" {
		p.Endpoint = netip.MustParseAddrPort(endpoint)
	}
	for _, prefix := range allowed {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(prefix))
	}
	return p
}

// device is tunnel device 0 with a key of generation 0.
func device(peers ...view.Peer) view.Device {
	return view.Device{Name: contract.DeviceName(0), ListenPort: 51820, MTU: 1420, Peers: peers}
}

// asPlanned gives what a device holds in the shape of the plan that asked for it.
func asPlanned(planned view.Device, d *wgtypes.Device) view.Device {
	got := view.Device{Name: d.Name, Generation: planned.Generation, ListenPort: uint16(d.ListenPort), MTU: planned.MTU}
	for _, p := range d.Peers {
		has := view.Peer{PublicKey: keys.PublicKey(p.PublicKey), Keepalive: p.PersistentKeepaliveInterval}
		if p.Endpoint != nil {
			has.Endpoint = netip.AddrPortFrom(p.Endpoint.AddrPort().Addr().Unmap(), p.Endpoint.AddrPort().Port())
		}
		for _, allowed := range p.AllowedIPs {
			has.AllowedIPs = append(has.AllowedIPs, netip.MustParsePrefix(allowed.String()))
		}
		got.Peers = append(got.Peers, has)
	}
	return normal(got)
}

// normal brings a plan into the form in which WireGuard shows it: sorted, masked, without what it doesn't know.
func normal(d view.Device) view.Device {
	d.Peers = slices.Clone(d.Peers)
	for i, p := range d.Peers {
		p.Node, p.Attempt = "", 0
		p.Endpoint = netip.AddrPortFrom(p.Endpoint.Addr().Unmap(), p.Endpoint.Port())
		p.AllowedIPs = slices.Clone(p.AllowedIPs)
		for i := range p.AllowedIPs {
			p.AllowedIPs[i] = p.AllowedIPs[i].Masked()
		}
		slices.SortFunc(p.AllowedIPs, netip.Prefix.Compare)
		p.Keepalive = (p.Keepalive + time.Second - 1).Truncate(time.Second)
		d.Peers[i] = p
	}
	slices.SortFunc(d.Peers, func(a, b view.Peer) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return d
}

func setUp(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}
