package gossip_test

import (
	"bytes"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// stranger is a socket at the gossip port of an address that no member has.
func stranger(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9), Port: contract.GossipPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	return conn
}

// flood sends packets from a socket, in turn, within about a second.
func flood(t *testing.T, conn *net.UDPConn, to *node, count int, packets ...[]byte) {
	t.Helper()
	const burst = 100
	pace := time.NewTicker(time.Second / time.Duration(count/burst))
	defer pace.Stop()
	for i := range count {
		if i%burst == 0 {
			<-pace.C
		}
		if _, err := conn.WriteToUDPAddrPort(packets[i%len(packets)], to.addr); err != nil {
			t.Fatal(err)
		}
	}
}

// answered asks until a question is answered.
func answered(t *testing.T, from, to *node, heard *answers, id uint64) {
	t.Helper()
	eventually(t, "a member's probe is answered", func() bool {
		probe(t, from, to, 1400, id)
		return heard.count(id) > 0
	})
}

// Somebody captured a question and sends it again and again. What is too much costs no answer, the answers are no more
// bytes than the questions, and they are in nobody else's place.
func TestProbesThatAreReplayed(t *testing.T) {
	nodes := mesh(t, 2)
	heard := answersTo(nodes[0])
	conn, begin := stranger(t), time.Now()
	const sent = 3500
	flood(t, conn, nodes[1], sent, question(meshKey, 1, 28, 28))
	eventually(t, "some of it is too much", func() bool { return nodes[1].Counters()["gossip-overload"] > 0 })
	b, got := make([]byte, 100), 0
	for {
		if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(b)
		if err != nil {
			break
		}
		if got++; n > 28 {
			t.Errorf("a question of 28 bytes is answered with %d", n)
		}
	}
	if most := 256 * (2 + int(time.Since(begin)/time.Second)); got == 0 || got > most {
		t.Errorf("%d of %d probes were answered, want at most %d", got, sent, most)
	}
	answered(t, nodes[0], nodes[1], heard, 1)
}

// An answer that is sent again is heard again, and it is for those who asked to know that they have it. To whoever didn't
// ask it says nothing, and it is never answered.
func TestAnswersThatAreReplayed(t *testing.T) {
	n := start(t, "n1", 1)
	conn, heard := stranger(t), answersTo(n)
	flood(t, conn, n, 200, question(meshKey, 2, 1400, 28))
	eventually(t, "an answer is heard", func() bool { return heard.count(0) > 0 })
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if size, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("an answer was answered with %d bytes", size)
	}
}

// Ten thousand packets in a second that begin as probes do cost neither memory nor log lines, and a member no answer. That
// node isn't taken for another one's fault: only its own address is reported.
func TestFloodOfWhatBeginsAsProbes(t *testing.T) {
	nodes := mesh(t, 2)
	heard := answersTo(nodes[0])
	broken := question(meshKey, 1, 1400, 1400)
	broken[20]++
	lines := func() int { return bytes.Count([]byte(nodes[1].log.String()), []byte("\n")) }
	before, quiet := kept(), lines()
	flood(t, stranger(t), nodes[1], 10000, []byte{0xd7}, slices.Repeat([]byte{0xd7}, 1400), broken, question(gossipKey('x'), 2, 1400, 28))
	eventually(t, "it is counted", func() bool { return nodes[1].Counters()["gossip-overload"] > 0 })
	// memberlist has 64 KiB for each packet that it is about to hand on, so right after the flood there may be some.
	eventually(t, "the flood costs less than 4 MiB", func() bool { return kept() < before+4<<20 })
	if more := lines() - quiet; more > 20 {
		t.Errorf("the flood costs %d log lines:\n%s", more, nodes[1].log)
	}
	for _, p := range nodes[1].Problems() {
		if !strings.HasSuffix(p.Subject, " 127.0.0.9") {
			t.Errorf("problem %v", p)
		}
	}
	answered(t, nodes[0], nodes[1], heard, 1)
	if !nodes[0].sees("n2") || !nodes[1].sees("n1") {
		t.Error("a member is taken for dead")
	}
}

// kept is what the heap has that is in use, in bytes.
func kept() uint64 {
	runtime.GC()
	return heap()
}
