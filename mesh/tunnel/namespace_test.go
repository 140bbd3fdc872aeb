package tunnel_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"

	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
)

// movingMaker makes devices whose packets come out in another namespace (see wireguard.com/netns).
type movingMaker struct {
	tunnel.Maker
	to netns.NsHandle
}

func (m movingMaker) Make(ctx context.Context, name string, mtu int) error {
	if err := m.Maker.Make(ctx, name, mtu); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetNsFd(link, int(m.to))
}

func (m movingMaker) List(ctx context.Context) ([]string, error) {
	if _, kernel := m.inner().(kernelMaker); !kernel {
		return m.Maker.List(ctx)
	}
	var names []string
	err := within(m.to, func() (err error) {
		names, err = m.Maker.List(ctx)
		return err
	})
	return names, err
}

func (m movingMaker) inner() tunnel.Maker {
	if c, ok := m.Maker.(countedMaker); ok {
		return c.Maker
	}
	return m.Maker
}

var _ tunnel.Maker = (*userspace.Client)(nil)

// newNamespace makes a network namespace that ends with the test.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	if err := onOwnThread(func() (err error) {
		ns, err = netns.New()
		return err
	}); err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// within runs what in a namespace.
func within(ns netns.NsHandle, what func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return what()
	})
}

// onOwnThread runs what on a thread that ends with it, whatever became of its namespaces.
func onOwnThread(what func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- what()
	}()
	return <-done
}

// removeKernelDevices removes what has left the namespace in which it was made, where its ports are still taken.
func removeKernelDevices(t *testing.T, namespaces ...netns.NsHandle) {
	for _, ns := range namespaces {
		err := within(ns, func() error {
			names, err := kernelMaker{}.List(t.Context())
			for _, name := range names {
				err = errors.Join(err, kernelMaker{}.Remove(t.Context(), name))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func clientIn(ns netns.NsHandle) (*wgctrl.Client, error) {
	var client *wgctrl.Client
	err := within(ns, func() (err error) {
		client, err = wgctrl.New()
		return err
	})
	return client, err
}

// configureLink sets a link up and gives it addresses and routes.
func configureLink(t *testing.T, ns netns.NsHandle, name string, addresses, routes []string) {
	t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP(a))}); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range routes {
		destination, err := netlink.ParseIPNet(r)
		if err != nil {
			destination = netlink.NewIPNet(net.ParseIP(r))
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: destination, Scope: netlink.SCOPE_LINK}
		if err := h.RouteAdd(route); err != nil {
			t.Fatalf("route to %s: %v", r, err)
		}
	}
}
