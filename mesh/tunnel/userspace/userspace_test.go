package userspace_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/mesh/tunnel/tunneltest"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
)

func TestMain(m *testing.M) { os.Exit(tunneltest.Isolate(m)) }

const name = "weave-wg0"

// daemon is a running daemon and its client.
type daemon struct {
	*userspace.Client
	socket string
	end    func()
}

func start(t *testing.T) *daemon {
	t.Helper()
	return startAt(t, filepath.Join(t.TempDir(), "run", "userspace.sock"))
}

func startAt(t *testing.T, socket string) *daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- userspace.Serve(ctx, userspace.Config{Socket: socket, Version: "v1.2.3", Log: logOf(t)})
	}()
	d := &daemon{Client: userspace.NewClient(socket), socket: socket}
	var done bool
	d.end = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the daemon ends with %v", err)
		}
	}
	t.Cleanup(d.end)
	eventually(t, "the daemon answers", func() error {
		_, err := d.Version(t.Context())
		return err
	})
	return d
}

func TestMakeListRemove(t *testing.T) {
	d := start(t)
	if version, err := d.Version(t.Context()); err != nil || version != "v1.2.3" {
		t.Errorf("version %q, %v", version, err)
	}
	mustList(t, d)
	for range 2 { // making it again is nothing
		must(t, d.Make(t.Context(), name, 1380))
	}
	must(t, d.Make(t.Context(), "weave-wg3", 1420))
	mustList(t, d, name, "weave-wg3")
	if mtu := mustLink(t, name).MTU; mtu != 1380 {
		t.Errorf("the MTU is %d", mtu)
	}
	if device := mustDevice(t, name); device.Type != wgtypes.Userspace {
		t.Errorf("the device is %+v", device)
	}
	for range 2 { // removing it again is nothing
		must(t, d.Remove(t.Context(), name))
	}
	mustList(t, d, "weave-wg3")
	mustBeGone(t, name)
}

// A device can be made as soon as the one before it is removed, again and again, and nothing is left of them.
func TestMakeAndRemoveLeaveNothing(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	must(t, d.Remove(t.Context(), name))
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 20 {
		must(t, d.Make(t.Context(), name, 1420))
		must(t, d.Remove(t.Context(), name))
		mustBeGone(t, name)
	}
	eventually(t, "all that served the devices ended", func() error {
		if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines || f > files {
			return fmt.Errorf("%d goroutines and %d files, were %d and %d", g, f, goroutines, files)
		}
		return nil
	})
}

func TestSocketsAreForRootOnly(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	for _, path := range []string{d.socket, socketOf(name)} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
	}
}

func TestRefusals(t *testing.T) {
	d := start(t)
	tests := []struct {
		name string
		err  error
		want []string
	}{
		{"not a tunnel device", d.Make(t.Context(), "eth0", 1420), []string{`"eth0"`, "weave-wg0 to weave-wg3"}},
		{"one too many", d.Make(t.Context(), "weave-wg4", 1420), []string{`"weave-wg4"`, "weave-wg0 to weave-wg3"}},
		{"a path", d.Make(t.Context(), "..%2fweave-wg0", 1420), []string{"weave-wg0 to weave-wg3"}},
		{"to remove what isn't ours", d.Remove(t.Context(), "lo"), []string{`"lo"`}},
		{"no MTU", d.Make(t.Context(), name, 0), []string{"MTU", "576", "not 0"}},
		{"too large an MTU", d.Make(t.Context(), name, 70000), []string{"MTU", "not 70000"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { mustSay(t, tt.err, tt.want...) })
	}
	mustList(t, d)
}

func TestNobodyThere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nobody.sock")
	err := userspace.NewClient(socket).Make(t.Context(), name, 1420)
	mustSay(t, err, socket, "no such file", "DaemonSet weaveguard-userspace", "unit")

	leaveSocket(t, socket)
	_, err = userspace.NewClient(socket).List(t.Context())
	mustSay(t, err, socket, "connection refused", "DaemonSet weaveguard-userspace")
}

// Another daemon's sockets are left alone, and those of a dead one are taken over.
func TestSocketsOfOthers(t *testing.T) {
	first := start(t)
	must(t, first.Make(t.Context(), name, 1420))
	err := userspace.Serve(t.Context(), userspace.Config{Socket: first.socket, Log: logOf(t)})
	mustSay(t, err, "another", first.socket)

	other := start(t) // by mistake, at another socket
	mustSay(t, other.Make(t.Context(), name, 1420), socketOf(name), "another process")
	mustDevice(t, name)
	mustLink(t, name)

	first.end()
	mustBeGone(t, name)
	leaveSocket(t, first.socket)
	leaveSocket(t, socketOf(name))
	leaveSocket(t, socketOf("weave-wg1"))
	second := startAt(t, first.socket)
	if _, err := os.Stat(socketOf("weave-wg1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of a dead device is still there: %v", err)
	}
	leaveSocket(t, socketOf(name))
	must(t, second.Make(t.Context(), name, 1420))
	mustDevice(t, name)
}

// When the daemon ends, all that it made is gone.
func TestEnd(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	must(t, d.Make(t.Context(), "weave-wg1", 1420))
	d.end()
	mustBeGone(t, name)
	mustBeGone(t, "weave-wg1")
	if _, err := os.Stat(d.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	mustSay(t, d.Make(t.Context(), name, 1420), d.socket)
}

// Somebody deletes the interface: the daemon knows, and makes a new one when asked.
func TestInterfaceDeletedByOthers(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(link))
	eventually(t, "the daemon forgets the device", func() error {
		names, err := d.List(t.Context())
		if err == nil && len(names) > 0 {
			err = fmt.Errorf("it lists %v", names)
		}
		return err
	})
	mustBeGone(t, name)
	must(t, d.Make(t.Context(), name, 1420))
	mustDevice(t, name)
}

// Somebody removes the device's socket: asked to make the device, the daemon makes the socket, and the device is the
// same as before.
func TestSocketDeletedByOthers(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	secret, err := wgtypes.GeneratePrivateKey()
	must(t, err)
	port := 51820
	mustConfigure(t, name, wgtypes.Config{PrivateKey: &secret, ListenPort: &port})
	index := mustLink(t, name).Index
	for range 2 { // once it was made again, too
		must(t, os.Remove(socketOf(name)))
		must(t, d.Make(t.Context(), name, 1420))
		if device := mustDevice(t, name); device.PrivateKey != secret || device.ListenPort != port {
			t.Error("the device lost its configuration")
		}
	}
	if mustLink(t, name).Index != index {
		t.Error("the device was made anew")
	}
	must(t, d.Remove(t.Context(), name))
	mustBeGone(t, name)
}

// A port that is taken is an error for who sets it, be the interface up or down, and no reason to start again.
func TestPortTaken(t *testing.T) {
	taken, err := net.ListenPacket("udp", ":0")
	must(t, err)
	defer taken.Close()
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	port := taken.LocalAddr().(*net.UDPAddr).Port
	mustSay(t, configure(name, wgtypes.Config{ListenPort: &port}), fmt.Sprint("errno=-", int(unix.EADDRINUSE)))
	taken.Close()
	mustConfigure(t, name, wgtypes.Config{ListenPort: &port})
}

// A device whose link goes down and up keeps its port.
func TestDownAndUp(t *testing.T) {
	d := start(t)
	must(t, d.Make(t.Context(), name, 1420))
	port := 51820
	mustConfigure(t, name, wgtypes.Config{ListenPort: &port})
	link, err := netlink.LinkByName(name)
	must(t, err)
	if queue := link.Attrs().TxQLen; queue < 5000 {
		t.Errorf("%d packets may wait for the daemon, want 5000: a busy node loses the others", queue)
	}
	for range 2 {
		must(t, netlink.LinkSetUp(link))
		must(t, netlink.LinkSetDown(link))
	}
	if _, err := net.ListenPacket("udp", fmt.Sprint(":", port)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the device let go of its port: %v", err)
	}
}

// A node without TUN, and so without any WireGuard, says what to do; so does a name that is somebody's.
func TestNoTUN(t *testing.T) {
	d := start(t)
	must(t, unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "")) // in the namespace of the test
	t.Cleanup(func() {
		if err := unix.Unmount("/dev/net", 0); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	files := openFiles(t)
	for range 3 {
		mustSay(t, d.Make(t.Context(), name, 1420), "/dev/net/tun", "modprobe wireguard", "modprobe tun")
	}
	must(t, os.Mkdir("/dev/net/tun", 0o700)) // what a container gets when it is told to bind what isn't there
	if err := d.Make(t.Context(), name, 1420); err == nil {
		t.Error("a directory passes for TUN")
	}
	must(t, unix.Unmount("/dev/net", 0))
	must(t, d.Make(t.Context(), name, 1420))
	must(t, d.Remove(t.Context(), name))
	eventually(t, "no file is left open", func() error {
		if now := openFiles(t); now > files {
			return fmt.Errorf("%d files, were %d", now, files)
		}
		return nil
	})
}

func TestNameTaken(t *testing.T) {
	d := start(t)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "vethpeer"}
	must(t, netlink.LinkAdd(link))
	mustSay(t, d.Make(t.Context(), name, 1420), name, "isn't a TUN device", "ip -d link show")
	mustList(t, d)
	must(t, netlink.LinkDel(link))
	must(t, d.Make(t.Context(), name, 1420))
}

func socketOf(device string) string { return filepath.Join(userspace.DefaultUAPIDir, device+".sock") }

// leaveSocket leaves a socket as a process does that was killed.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	listener.SetUnlinkOnClose(false)
	must(t, listener.Close())
}

func configure(device string, config wgtypes.Config) error {
	client, err := wgctrl.New()
	if err != nil {
		return err
	}
	return errors.Join(client.ConfigureDevice(device, config), client.Close())
}

func mustConfigure(t *testing.T, device string, config wgtypes.Config) {
	t.Helper()
	must(t, configure(device, config))
}

func mustDevice(t *testing.T, device string) *wgtypes.Device {
	t.Helper()
	client, err := wgctrl.New()
	must(t, err)
	defer client.Close()
	shown, err := client.Device(device)
	must(t, err)
	return shown
}

func mustLink(t *testing.T, device string) *net.Interface {
	t.Helper()
	link, err := net.InterfaceByName(device)
	must(t, err)
	return link
}

// mustBeGone checks that neither the interface nor the socket is left.
func mustBeGone(t *testing.T, device string) {
	t.Helper()
	if _, err := net.InterfaceByName(device); err == nil {
		t.Errorf("the interface %s is still there", device)
	}
	if _, err := os.Stat(socketOf(device)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of %s is still there: %v", device, err)
	}
}

func mustList(t *testing.T, d *daemon, want ...string) {
	t.Helper()
	got, err := d.List(t.Context())
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("the devices are %v, want %v", got, want)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustSay(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", want)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q, want that it says %q", err, part)
		}
	}
}

func logOf(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

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
