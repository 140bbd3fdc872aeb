// Package bare makes a WireGuard tunnel between two hosts of a lab without Weaveguard, by hand: to try the lab with, and
// to measure against.
package bare

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weaveguard/weaveguard/test/lab"
)

// HelperName and Helper are for lab.Main of programs that make tunnels where the kernel has no WireGuard.
const HelperName = "wireguard"

// Helper is a userspace WireGuard device, named by its first argument, until it is killed.
func Helper(args []string) int {
	if err := serve(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serve(name string) error {
	dev, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return fmt.Errorf("making the TUN device: %w", err)
	}
	socket, err := ipc.UAPIOpen(name)
	if err != nil {
		return errors.Join(fmt.Errorf("opening the socket for wg: %w", err), dev.Close())
	}
	listener, err := ipc.UAPIListen(name, socket)
	if err != nil {
		return errors.Join(fmt.Errorf("listening for wg: %w", err), dev.Close())
	}
	wg := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, name+" "))
	for {
		c, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accepting wg: %w", err)
		}
		go wg.IpcHandle(c)
	}
}

// Tunnel is what two hosts' tunnels have in common.
type Tunnel struct {
	Device string
	Port   uint16 // UDP, at both ends
	MTU    int    // bytes
	Kernel bool   // WireGuard of the kernel
}

// End is one end of a tunnel.
type End struct {
	Host   *lab.Host
	Inner  netip.Addr // inside the tunnel
	Public string     // key
	tunnel Tunnel
}

// Connect makes both ends, with 10.77.0.1 and 10.77.0.2 inside.
func (u Tunnel) Connect(t testing.TB, a, b *lab.Host) (End, End) {
	t.Helper()
	x, y := u.end(t, a, "10.77.0.1"), u.end(t, b, "10.77.0.2")
	x.add(t, y)
	y.add(t, x)
	return x, y
}

func (u Tunnel) end(t testing.TB, h *lab.Host, inner string) End {
	t.Helper()
	if u.Kernel {
		h.MustRun(t, "ip", "link", "add", u.Device, "type", "wireguard")
	} else {
		h.MustStart(t, lab.Command{Helper: HelperName, Args: []string{u.Device}})
	}
	lab.Eventually(t, 10*time.Second, "the device on "+h.Name, func() error {
		_, err := h.Run(t.Context(), "wg", "show", u.Device)
		return err
	})
	e := End{Host: h, Inner: netip.MustParseAddr(inner), tunnel: u}
	private := strings.TrimSpace(h.MustRun(t, "wg", "genkey"))
	e.Public = h.MustRun(t, "sh", "-c", "echo "+private+" | wg pubkey | tr -d '\n'")
	h.MustRun(t, "sh", "-c", fmt.Sprintf("umask 077; echo %s >/run/key; wg set %s private-key /run/key listen-port %d", private, u.Device, u.Port))
	h.MustRun(t, "ip", "addr", "add", inner+"/24", "dev", u.Device)
	h.MustRun(t, "ip", "link", "set", u.Device, "up", "mtu", fmt.Sprint(u.MTU))
	return e
}

func (e End) add(t testing.TB, peer End) {
	t.Helper()
	e.Host.MustRun(t, "wg", "set", e.tunnel.Device, "peer", peer.Public,
		"endpoint", netip.AddrPortFrom(peer.Host.Addr4, e.tunnel.Port).String(), "allowed-ips", peer.Inner.String()+"/32")
}
