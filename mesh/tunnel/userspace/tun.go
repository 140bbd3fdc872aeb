package userspace

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	tunPath = "/dev/net/tun"
	// queueLength is how many packets wait for this process at most. With the kernel's 500 a node that is busy for a
	// tenth of a second would lose some of 40 Mbit/s; these are enough for a second.
	queueLength = 5000
)

// createTUN makes a TUN device, down, in the network namespace of the process; it ends when it is closed.
// (tun.CreateTUN does the same, but leaks a file descriptor when it fails, and the agent asks again and again.)
func createTUN(name string, mtu int) (tun.Device, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainOpen(err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(explainAttach(name, err), unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile looks at it to choose the poller
		return nil, errors.Join(fmt.Errorf("making TUN device %s: %w", name, err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), tunPath)
	native, err := tun.CreateTUNFromFile(file, mtu)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making TUN device %s with MTU %d: %w", name, mtu, err), file.Close())
	}
	if err := lengthenQueue(name); err != nil {
		return nil, errors.Join(fmt.Errorf("making TUN device %s with a queue of %d packets: %w", name, queueLength, err), native.Close())
	}
	return alwaysUp(summedTUN{native}), nil
}

// lengthenQueue sets the interface's transmit queue (netdevice(7), SIOCSIFTXQLEN).
func lengthenQueue(name string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint32(queueLength)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFTXQLEN, request)
	}
	return errors.Join(err, unix.Close(socket))
}

// explainOpen says what to do about a node that has no TUN.
func explainOpen(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("WireGuard in userspace needs TUN, and this node has none: opening %s: %w; load the kernel's own "+
			"WireGuard (modprobe wireguard) and restart the agent, or provide TUN (modprobe tun; a container needs the host's %s)",
			tunPath, err, tunPath)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("opening %s: %w; the container of the daemon isn't allowed to use that device", tunPath, err)
	}
	return fmt.Errorf("opening %s: %w", tunPath, err)
}

func explainAttach(name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("making TUN device %s: %w; the daemon needs CAP_NET_ADMIN", name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("making TUN device %s: %w; another process holds a TUN device of that name: end it", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("making TUN device %s: %w; there is an interface of that name that isn't a TUN device: look at it "+
			"with `ip -d link show %s`, and remove it if nothing uses it", name, err, name)
	}
	return fmt.Errorf("making TUN device %s: %w", name, err)
}

// upTUN is a TUN device that tells WireGuard of changes of its MTU, and not of going up and down.
type upTUN struct {
	tun.Device
	events chan tun.Event
}

// alwaysUp keeps a device's WireGuard up whatever the link's state. Else it would bind its port when the link goes
// up, in the background, where a port that is taken is a line in a log and a device that stays dumb; like this
// whoever sets the port gets the error. And a link that goes down and up keeps its sessions.
func alwaysUp(device tun.Device) tun.Device {
	d := &upTUN{Device: device, events: make(chan tun.Event)}
	go func() { // ends when the device is closed
		defer close(d.events)
		for event := range device.Events() {
			if event&tun.EventMTUUpdate != 0 {
				d.events <- tun.EventMTUUpdate
			}
		}
	}()
	return d
}

func (d *upTUN) Events() <-chan tun.Event { return d.events }
