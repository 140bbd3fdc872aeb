package product_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/flow"
)

// settle is how long the last datagrams may take to arrive.
const settle = 10 * time.Second

// Ports of the flows in pods.
const (
	datagramPort = 7000
	streamPort   = 7001
)

// traffic runs between two pods in both directions until it is stopped: numbered datagrams, and a TCP connection.
type traffic struct {
	there, back *end // of the datagrams
	stream      *stream
}

// startTraffic returns once datagrams and stream run.
func (w *world) startTraffic(t *testing.T, from, to string) *traffic {
	t.Helper()
	a, b := w.netnsOf(t, from), w.netnsOf(t, to)
	target := w.podIP(t, to)
	f := &traffic{
		back:   startEnd(t, b, flow.DatagramConfig{Local: netip.AddrPortFrom(target, datagramPort), Rate: 500, Size: 1000}),
		there:  startEnd(t, a, flow.DatagramConfig{Peer: netip.AddrPortFrom(target, datagramPort), Rate: 500, Size: 1000}),
		stream: startStream(t, a, b, netip.AddrPortFrom(target, streamPort)),
	}
	var hello flow.HelloAnswer
	w.eventually(t, "datagrams pass between "+from+" and "+to, func(context.Context) error {
		f.there.ask(t, flow.CommandHello, &hello)
		if !hello.Heard {
			return errors.New("no answer comes back")
		}
		return nil
	})
	f.there.ask(t, flow.CommandStart, &struct{}{})
	f.back.ask(t, flow.CommandStart, &struct{}{})
	w.awaitProgress(t, f)
	return f
}

// awaitProgress waits until a good part of the traffic was sent after the call.
func (w *world) awaitProgress(t *testing.T, f *traffic) {
	t.Helper()
	var before, now flow.SentAnswer
	f.there.ask(t, flow.CommandSent, &before)
	received := f.stream.received.Load()
	w.eventually(t, "traffic goes on", func(context.Context) error {
		f.there.ask(t, flow.CommandSent, &now)
		bytes := f.stream.received.Load() - received
		if now.Sent < before.Sent+500 || bytes < 1<<20 {
			return fmt.Errorf("%d datagrams were sent, and %d bytes of the stream received", now.Sent-before.Sent, bytes)
		}
		return nil
	})
}

// stop ends the traffic: nothing of it may be lost.
func (f *traffic) stop(t *testing.T, w *world) {
	t.Helper()
	var there, back flow.SentAnswer
	f.there.ask(t, flow.CommandStop, &there)
	f.back.ask(t, flow.CommandStop, &back)
	for _, direction := range []struct {
		name string
		sent uint64
		to   *end
	}{{"there", there.Sent, f.back}, {"back", back.Sent, f.there}} {
		var came flow.CountAnswer
		err := cluster.Poll(t.Context(), settle, "all datagrams came", func(context.Context) error {
			direction.to.ask(t, fmt.Sprintf("%s %d", flow.CommandCount, direction.sent), &came)
			if lost := direction.sent - came.Received; lost != 0 {
				return fmt.Errorf("%s: %d of %d datagrams are lost, at most %d in a row; %d of them at the receiving socket",
					direction.name, lost, direction.sent, came.LongestGap, came.SocketDrops)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	sent, err := f.stream.finish()
	if err != nil {
		t.Errorf("the TCP connection: %v", err)
	}
	t.Logf("%d and %d datagrams, none lost, and %d MB over one TCP connection", there.Sent, back.Sent, sent/1e6)
}

// netnsOf opens the network namespace of a pod.
func (w *world) netnsOf(t *testing.T, pod string) netns.NsHandle {
	t.Helper()
	name, err := w.Exec(t.Context(), pod, "readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if link, err := os.Readlink(file); err != nil || link != strings.TrimSpace(name) {
			continue
		}
		handle, err := netns.GetFromPath(file)
		if err != nil {
			continue // the process has just ended
		}
		t.Cleanup(func() { _ = handle.Close() })
		return handle
	}
	t.Fatalf("no process of this machine is in the network namespace of pod %s, %s", pod, name)
	return -1
}

// inNetns starts a goroutine whose sockets are in a network namespace. The thread that it uses ends with it.
func inNetns(ns netns.NsHandle, do func() error) <-chan error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		if err := netns.Set(ns); err != nil {
			result <- fmt.Errorf("enter the pod's network namespace: %w", err)
			return
		}
		result <- do()
	}()
	return result
}

// end is one end of a flow of datagrams, in a pod's network namespace.
type end struct {
	commands io.WriteCloser
	answers  *json.Decoder
}

func startEnd(t *testing.T, ns netns.NsHandle, config flow.DatagramConfig) *end {
	t.Helper()
	config.Filler = markers[0]
	commands, in := io.Pipe()
	out, answers := io.Pipe()
	result := inNetns(ns, func() error {
		err := flow.Datagrams(config, commands, answers)
		return errors.Join(err, answers.CloseWithError(io.EOF))
	})
	e := &end{commands: in, answers: json.NewDecoder(out)}
	t.Cleanup(func() {
		_ = e.commands.Close()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
	e.hear(t, &struct{}{})
	return e
}

func (e *end) ask(t *testing.T, command string, answer any) {
	t.Helper()
	if _, err := fmt.Fprintln(e.commands, command); err != nil {
		t.Fatal(err)
	}
	e.hear(t, answer)
}

func (e *end) hear(t *testing.T, answer any) {
	t.Helper()
	if err := e.answers.Decode(answer); err != nil {
		t.Fatalf("hear from the end of a flow: %v", err)
	}
}

// stream is a TCP connection that carries bytes in one direction at a moderate rate.
type stream struct {
	stopping atomic.Bool
	received atomic.Int64
	sum      [2]hash.Hash // of what was sent, and of what was received
	results  [2]<-chan error
}

// startStream connects from one pod to another.
func startStream(t *testing.T, from, to netns.NsHandle, at netip.AddrPort) *stream {
	t.Helper()
	s := &stream{sum: [2]hash.Hash{sha256.New(), sha256.New()}}
	listening := make(chan struct{})
	s.results[1] = inNetns(to, func() error {
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		close(listening)
		if err != nil {
			return err
		}
		defer listener.Close()
		if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.Copy(io.MultiWriter(s.sum[1], counter{&s.received}), conn)
		return err
	})
	<-listening
	s.results[0] = inNetns(from, func() error { return s.send(at) })
	t.Cleanup(func() { s.stopping.Store(true) })
	return s
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func (s *stream) send(to netip.AddrPort) error {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	const every, size = 10 * time.Millisecond, 40_000 // 4 MB/s
	tick := time.NewTicker(every)
	defer tick.Stop()
	block := []byte(strings.Repeat(string(markers[0]), size/len(markers[0])))
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

// finish ends the stream, and returns how many bytes came. All that was sent must have come.
func (s *stream) finish() (int64, error) {
	s.stopping.Store(true)
	if err := errors.Join(<-s.results[0], <-s.results[1]); err != nil {
		return s.received.Load(), err
	}
	if sent, came := s.sum[0].Sum(nil), s.sum[1].Sum(nil); string(sent) != string(came) {
		return s.received.Load(), fmt.Errorf("what came has the checksum %x, what was sent %x", came, sent)
	}
	return s.received.Load(), nil
}
