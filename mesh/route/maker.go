package route

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"golang.org/x/sys/unix"
)

// KernelMaker makes and removes tunnel devices of the kernel's WireGuard. Its zero value is ready for use.
type KernelMaker struct{}

// Make makes the tunnel device name with an MTU in bytes, down and without a key; one that exists is adopted as it
// is. An interface of that name and another kind is an error, and left alone.
func (KernelMaker) Make(ctx context.Context, name string, mtu int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !contract.IsDeviceName(name) {
		return fmt.Errorf("%q isn't the name of a tunnel device: it is %s and a digit from 0 to %d", name,
			contract.DevicePrefix, contract.MaxDevices-1)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if err == nil || !errors.Is(err, unix.EEXIST) {
		return explain(fmt.Sprintf("making the tunnel device %s", name), err)
	}
	links, err := readLinks()
	if err != nil {
		return err
	}
	if link := links.byName[name]; link != nil && kind(link) != kindWireGuard {
		return fmt.Errorf("the interface %s exists and isn't WireGuard but %s: remove it (`ip link delete %s`) or "+
			"rename it", name, describe(links.host(link)), name)
	}
	return nil
}

// Remove removes the tunnel device name; one that doesn't exist is no error.
func (KernelMaker) Remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	links, err := readLinks()
	if err != nil {
		return err
	}
	link := links.byName[name]
	if link == nil {
		return nil
	}
	if !contract.IsDeviceName(name) || kind(link) != kindWireGuard {
		return fmt.Errorf("the interface %s isn't a WireGuard device of Weaveguard but %s: it stays", name,
			describe(links.host(link)))
	}
	if err := netlink.LinkDel(link); err != nil && !gone(err) {
		return fmt.Errorf("removing the tunnel device %s: %w", name, err)
	}
	return nil
}

// List returns the names of the kernel's tunnel devices of ours, sorted.
func (KernelMaker) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := readLinks()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range links.names() {
		if contract.IsDeviceName(name) && kind(links.byName[name]) == kindWireGuard {
			names = append(names, name)
		}
	}
	return names, nil
}

// HasKernelWireGuard reports whether the kernel can make WireGuard devices. It tries, with a device of a
// throw-away name, which may load the kernel's module. It returns an error when it couldn't find out.
func HasKernelWireGuard(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return false, fmt.Errorf("naming a device for the WireGuard probe: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wgprobe" + hex.EncodeToString(random)
	probe := &netlink.Wireguard{LinkAttrs: attrs}
	err := netlink.LinkAdd(probe)
	if unsupported(err) {
		return false, nil
	}
	if err != nil {
		return false, explain("probing the kernel for WireGuard", err)
	}
	if err := netlink.LinkDel(probe); err != nil {
		return true, fmt.Errorf("removing the device %s of the WireGuard probe: %w", attrs.Name, err)
	}
	return true, nil
}

// unsupported reports that the kernel doesn't know a kind of device.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.EPROTONOSUPPORT)
}

func explain(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case unsupported(err):
		return fmt.Errorf("%s: the kernel has no WireGuard (module wireguard): load it, or let Weaveguard use "+
			"userspace WireGuard: %w", doing, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: the capability NET_ADMIN is missing: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
