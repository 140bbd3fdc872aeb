package gossip_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// Strangers who hold hundreds of streams, each from an address of its own, and open them again when they are closed,
// keep neither a member nor a new node out, and cost a bounded number of bytes and log lines.
func TestFloodFromManyAddresses(t *testing.T) {
	victim := start(t, "n1", 1)
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil) // a member that tells whether a join went well
	victim.Seek([]gossip.Target{{Node: "n2", Addr: netip.MustParseAddrPort("127.0.0.2:6783")}})
	eventually(t, "the member is seen", func() bool { return victim.sees("n2") })
	newcomer := start(t, "n3", 3)
	body := make([]byte, 1<<20)
	linesBefore, before := strings.Count(victim.log.String(), "\n"), heap()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var crowd sync.WaitGroup
	for i := range 400 {
		from := fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)
		crowd.Go(func() { hold(ctx, from, victim, body[:i%4/3*len(body)]) })
	}
	eventually(t, "there are more streams than may be", func() bool { return victim.Counters()["gossip-overload"] > 1000 })
	peak, row := heap(), 0
	eventually(t, "a member's state exchange succeeds 10 times in a row", func() bool {
		peak = max(peak, heap())
		if _, err := r.Join([]string{victim.addr.String()}); err != nil {
			t.Logf("a member's join: %v", err)
			row = 0
			return false
		}
		row++
		return row == 10
	})
	newcomer.Seek([]gossip.Target{victim.target()})
	eventually(t, "a node that nobody knows joins", func() bool {
		peak = max(peak, heap())
		return victim.sees("n3")
	})
	cancel()
	crowd.Wait()

	growth := int64(peak) - int64(before)
	lines := strings.Count(victim.log.String(), "\n") - linesBefore
	t.Logf("heap grew by %d KiB, %d lines, counted %v", growth>>10, lines, victim.Counters())
	if growth > 128<<20 { // 100 times 1 MiB a second, were it kept, besides what this test holds itself
		t.Errorf("the heap grew by %d MiB", growth>>20)
	}
	if lines > 100 {
		t.Errorf("%d lines", lines)
	}
}

// hold keeps a stream open from an address, again and again, and in the end closes it. It brings body.
func hold(ctx context.Context, from string, to *node, body []byte) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	header := []byte{streamType, 0, 128, 0, 0, 1}
	for ctx.Err() == nil {
		if conn, err := dialer.DialContext(ctx, "tcp", to.addr.String()); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			_, _ = conn.Write(header)
			_, _ = conn.Write(body)
			_, _ = io.Copy(io.Discard, conn)
			stop()
			_ = conn.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
