package route_test

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The packets of an interface are counted in the direction that they take, and one that isn't there is left out.
func TestTraffic(t *testing.T) {
	t.Parallel()
	a := newNamespace(t)
	tun := makeTun(t, "weave-wg0")
	l := link(t, "weave-wg0")
	up(t, l)
	address, err := netlink.ParseAddr("10.99.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(l, address))
	before, err := a.Traffic(t.Context(), []string{"weave-wg0", "weave-wg1"})
	must(t, err)
	if _, known := before["weave-wg1"]; known || len(before) != 1 {
		t.Errorf("the interfaces are %v, want weave-wg0 alone", before)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer func() { must(t, unix.Close(socket)) }()
	for range 3 {
		must(t, unix.Sendto(socket, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 99, 0, 2}}))
	}
	for taken := 0; taken < 3; { // a TUN device counts what is taken out of it
		buffer := make([]byte, 2000)
		n, err := tun.Read(buffer)
		must(t, err)
		if n > 0 && buffer[0]>>4 == 4 {
			taken++
		}
	}
	// One packet comes by it: IPv4 and UDP, to nobody.
	packet := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1, 0, 9, 0, 9, 0, 8, 0, 0}
	_, err = tun.Write(packet)
	must(t, err)
	after, err := a.Traffic(t.Context(), []string{"weave-wg0"})
	must(t, err)
	sent := after["weave-wg0"].SentPackets - before["weave-wg0"].SentPackets
	received := after["weave-wg0"].ReceivedPackets - before["weave-wg0"].ReceivedPackets
	if received != 1 || sent < 3 { // IPv6 sends of its own accord
		t.Errorf("%d packets were received and %d sent, want 1 and 3", received, sent)
	}
}
