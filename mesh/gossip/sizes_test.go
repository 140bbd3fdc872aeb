package gossip

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever dials limits the segments of both ends, also where the interfaces carry far more, as lo does.
func TestSegmentsFitEveryPath(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn
		}
	}()
	lease := &lease{transport: &transport{capped: &capped{caps: &caps{}}}, ctx: context.Background()}
	dialled, err := lease.DialTimeout(listener.Addr().String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dialled.Close() }()
	far := <-accepted
	defer func() { _ = far.Close() }()
	for end, conn := range map[string]net.Conn{"dialled": dialled.(*stream).Conn, "accepted": far} {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		if errControl := raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }); errControl != nil || err != nil {
			t.Fatal(errControl, err)
		}
		if size > maxSegment || size < maxSegment-40 { // options are in it
			t.Errorf("the %s end sends segments of %d bytes, want %d", end, size, maxSegment)
		}
	}
}
