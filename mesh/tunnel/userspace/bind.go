package userspace

import (
	"errors"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// wideBind is a device's UDP socket, whose batches pass also where the kernel takes the path for one that carries less.
//
// Packets for one peer go to the kernel as one message that it cuts into datagrams (udp(7), UDP_SEGMENT). When they are
// larger than what it has learnt of the path by ICMP, it refuses the whole message, for as long as ten minutes; one by one it
// takes them, and fragments them. That others can make it learn such things of a path (a node whose pod gets too large an
// answer says so of its own address), or that the path has just become narrower, must lose no packet.
type wideBind struct{ conn.Bind }

// Send sends packets as conn.Bind does.
func (b wideBind) Send(packets [][]byte, to conn.Endpoint) error {
	err := b.Bind.Send(packets, to)
	// EINVAL is what kernels before 6.14 say.
	if len(packets) < 2 || !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	err = nil
	for i := range packets {
		// One that went with the first attempt is a duplicate, which WireGuard drops.
		err = errors.Join(err, b.Bind.Send(packets[i:i+1], to))
	}
	return err
}
