package lab

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Plug makes a port of the fabric for a machine that isn't the lab's own: a TAP device, whose file is that machine's
// network card. The port goes when the file is closed.
func (l *Lab) Plug(name string) (*os.File, error) { return l.plug(name, fabricBridge) }

// plug makes a port of one of the fabric's bridges.
func (l *Lab) plug(name, bridge string) (*os.File, error) {
	var tap *os.File
	err := l.machine.ns.do(func() (err error) {
		tap, err = openTap(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = l.join(name, bridge)
	if err == nil {
		err = l.setUp(name)
	}
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	return tap, nil
}

// openTap makes a TAP device in the thread's network namespace.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // so that closing it ends a read
	if err != nil {
		return nil, fmt.Errorf("making the port %s: %w", name, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the port %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
