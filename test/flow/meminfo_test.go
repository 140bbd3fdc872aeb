package flow

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMemInfoDrops fills a socket that nobody reads.
func TestMemInfoDrops(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	control := func(what string, f func(fd int) error) {
		t.Helper()
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
			t.Fatal(what, err, inner)
		}
	}
	drops := func() (n uint64) {
		control("reading drops", func(fd int) (err error) { n, err = memInfoDrops(uintptr(fd)); return err })
		return n
	}
	if n := drops(); n != 0 {
		t.Errorf("a new socket has dropped %d", n)
	}
	control("setting the buffer", func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	const sent = 1000
	for range sent {
		if _, err := conn.WriteTo(make([]byte, 100), conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	read := 0
	control("emptying the socket", func(fd int) error {
		for b := make([]byte, 100); ; read++ {
			if _, err := unix.Read(fd, b); err == syscall.EAGAIN {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	if n := drops(); n == 0 || int(n)+read != sent {
		t.Errorf("of %d datagrams %d were read and %d are counted as dropped", sent, read, n)
	}
}
