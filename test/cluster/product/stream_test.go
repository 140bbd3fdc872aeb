package product_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// streamPort is that of the first TCP connection in a pod; each further one has the next.
const streamPort = 7100

// connection says where a stream goes.
type connection struct {
	name         string
	from, to     netns.NsHandle
	dial, listen netip.AddrPort // they differ where it goes through a Service
	pace         int            // bytes a second
}

// stream is a TCP connection that carries bytes in one direction at a moderate rate.
type stream struct {
	connection
	stopping atomic.Bool
	received atomic.Int64
	sum      [2]hash.Hash // of what was sent, and of what was received
	results  [2]<-chan error
	accepted atomic.Pointer[net.TCPConn]
}

// connect adds a stream.
func (f *traffic) connect(t *testing.T, c connection) {
	t.Helper()
	s := &stream{connection: c, sum: [2]hash.Hash{sha256.New(), sha256.New()}}
	listening := make(chan struct{})
	s.results[1] = inNetns(c.to, func() error { return s.receive(listening) })
	<-listening
	s.results[0] = inNetns(c.from, s.send)
	t.Cleanup(func() { s.stopping.Store(true) })
	f.streams = append(f.streams, s)
}

// receive takes one connection. It closes listening once somebody can connect, or never will.
func (s *stream) receive(listening chan<- struct{}) error {
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(s.listen))
	close(listening)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	conn, err := listener.AcceptTCP()
	if err != nil {
		return err
	}
	defer conn.Close()
	s.accepted.Store(conn)
	_, err = io.Copy(io.MultiWriter(s.sum[1], counter{&s.received}), conn)
	return err
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func (s *stream) send() error {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(s.dial))
	if err != nil {
		return err
	}
	defer conn.Close()
	const perSecond = 100
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	block := []byte(strings.Repeat(string(markers[0]), s.pace/perSecond/len(markers[0])))
	for number := 0; !s.stopping.Load(); number++ {
		copy(block, fmt.Sprintf("%020d", number)) // each block differs
		if _, err := conn.Write(block); err != nil {
			return err
		}
		s.sum[0].Write(block)
		<-tick.C
	}
	return conn.CloseWrite()
}

// ended tells whether one of the ends is done, which none is before the stream is finished.
func (s *stream) ended() bool { return len(s.results[0])+len(s.results[1]) > 0 }

// finish ends the stream, and returns how many bytes came. All that was sent must have come.
func (s *stream) finish() (int64, error) {
	s.stopping.Store(true)
	err := <-s.results[0]
	if conn := s.accepted.Load(); err != nil && conn != nil {
		_ = conn.Close() // it may never hear of the other end
	}
	if err := errors.Join(err, <-s.results[1]); err != nil {
		return s.received.Load(), err
	}
	if sent, came := s.sum[0].Sum(nil), s.sum[1].Sum(nil); string(sent) != string(came) {
		return s.received.Load(), fmt.Errorf("what came has the checksum %x, what was sent %x", came, sent)
	}
	return s.received.Load(), nil
}
