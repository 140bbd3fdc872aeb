package lab_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weaveguard/weaveguard/test/lab"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, map[string]lab.Helper{"wireguard": wireguardMain, "owner": ownerMain}))
}

// wireguardMain is a userspace WireGuard device until it is killed.
func wireguardMain(args []string) int {
	if err := serveWireGuard(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveWireGuard(name string) error {
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
