package gossip_test

import (
	"crypto/rand"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// memberlist panics on an encrypted stream with nothing in it, and so would the agent.
func TestEmptyEncryptedStream(t *testing.T) {
	n := start(t, "n1", 1)
	send(t, "tcp", "127.0.1.1", n, sealStream(t, nil))
	eventually(t, "it is counted", func() bool { return n.Counters()["gossip-malformed"] == 1 })
}

// Whoever can reach the port, and has no key, costs a bounded number of streams, bytes and log lines.
func TestFlood(t *testing.T) {
	nodes := mesh(t, 3)
	victim := nodes[0]
	body := append([]byte{10, 0, 128, 0, 0, 1}, make([]byte, 1<<20)...)
	linesBefore := strings.Count(victim.log.String(), "level=WARN")
	before := heap()
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() { pour(t, victim, stop) })
	var conns []net.Conn
	for i := range 1000 {
		dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.1.1")}}
		conn, err := dialer.Dial("tcp", victim.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
		switch i % 3 {
		case 1: // claims 20 MiB
			_, _ = conn.Write([]byte{10, 1, 64, 0, 0, 1})
		case 2: // claims what is allowed, and brings much of it
			flood.Go(func() {
				_ = conn.SetDeadline(time.Now().Add(4 * time.Second))
				_, _ = conn.Write(body)
			})
		}
	}
	peak := uint64(0)
	fresh := []byte("fresh")
	nodes[1].announce(t, fresh)
	began := time.Now()
	var spread time.Duration
	for time.Since(began) < 4*time.Second {
		peak = max(peak, heap())
		if spread == 0 && victim.has("n2", fresh) && nodes[2].has("n2", fresh) {
			spread = time.Since(began)
		}
		for i := 0; i < len(conns); i += 3 { // slowly
			_, _ = conns[i].Write([]byte{10})
		}
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	flood.Wait()
	growth := int64(peak) - int64(before)
	lines := strings.Count(victim.log.String(), "level=WARN") - linesBefore
	t.Logf("heap grew by %d KiB, %d warnings, spread in %v, counted %v", growth>>10, lines, spread, victim.Counters())
	// 333 times 1 MiB, were it taken, besides what this test holds itself.
	if growth > 128<<20 {
		t.Errorf("the heap grew by %d MiB", growth>>20)
	}
	if lines > 20 {
		t.Errorf("%d warnings", lines)
	}
	if spread == 0 {
		t.Error("a new record didn't spread")
	}
	if victim.Counters()["gossip-overload"] < 900 {
		t.Errorf("counted %v", victim.Counters())
	}
	for _, n := range nodes {
		for _, other := range nodes {
			if !n.sees(other.name) {
				t.Errorf("%s lost %s", n.name, other.name)
			}
		}
	}
}

// pour sends 10,000 packets of garbage a second.
func pour(t *testing.T, to *node, stop <-chan struct{}) {
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP("127.0.1.2")}}
	conn, err := dialer.Dial("udp", to.addr.String())
	if err != nil {
		t.Error(fmt.Errorf("pouring: %w", err))
		return
	}
	defer func() { _ = conn.Close() }()
	garbage := make([]byte, 300)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			for range 100 {
				_, _ = rand.Read(garbage)
				_, _ = conn.Write(garbage)
			}
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
