package tunnel_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// echo asks the far end without pause and counts the answers. It never has more than one question under way, so
// no buffer can overflow, and what is lost was lost by the tunnel.
type echo struct {
	answers atomic.Int64
	lost    atomic.Int64
	stop    func()
}

const answerTimeout = 2 * time.Second

// startEcho starts an answering far end and an asking near one.
func (s *session) startEcho(t *testing.T, address string) *echo {
	t.Helper()
	conn := s.dialEcho(t, address)
	e := &echo{}
	ended, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-quit:
				return
			default:
			}
			if exchange(conn, n) == nil {
				e.answers.Add(1)
			} else {
				e.lost.Add(1)
			}
		}
	}()
	e.stop = func() {
		close(quit)
		<-ended
	}
	return e
}

// ask asks the far end once.
func (s *session) ask(t *testing.T, address string) error {
	t.Helper()
	return exchange(s.dialEcho(t, address), 0)
}

// dialEcho makes the far end answer at an address, and returns a connection of the near end to it.
func (s *session) dialEcho(t *testing.T, address string) net.Conn {
	t.Helper()
	var answering net.PacketConn
	var asking net.Conn
	err := within(s.far, func() (err error) {
		answering, err = net.ListenPacket("udp", net.JoinHostPort(address, "0"))
		return err
	})
	if err == nil {
		err = within(s.near, func() (err error) {
			asking, err = net.Dial("udp", answering.LocalAddr().String())
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buffer := make([]byte, 1500)
		for {
			n, from, err := answering.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = answering.WriteTo(buffer[:n], from) // if it fails, the question counts as lost
		}
	}()
	t.Cleanup(func() {
		asking.Close()
		answering.Close()
		<-ended
	})
	return asking
}

// exchange sends a question and waits for its answer.
func exchange(conn net.Conn, number int) error {
	question := fmt.Sprintf("question %d", number)
	if _, err := conn.Write([]byte(question)); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		if string(buffer[:n]) == question {
			return nil
		}
	}
}

// await waits for so many more answers.
func (e *echo) await(t *testing.T, more int64) {
	t.Helper()
	want := e.answers.Load() + more
	eventually(t, "the far end answers", func() error {
		if got := e.answers.Load(); got < want {
			return fmt.Errorf("%d answers, waiting for %d, and %d lost", got, want, e.lost.Load())
		}
		return nil
	})
}

func (e *echo) mustHaveLostNothing(t *testing.T) {
	t.Helper()
	e.stop()
	if lost := e.lost.Load(); lost > 0 {
		t.Errorf("%d lost, %d answers", lost, e.answers.Load())
	}
}
