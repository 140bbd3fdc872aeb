package gossip_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// answers are the ids that came back to a node.
type answers struct {
	mu  sync.Mutex
	ids map[uint64]int
}

func answersTo(n *node) *answers {
	a := &answers{ids: map[uint64]int{}}
	n.OnAnswer(func(id uint64) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ids[id]++
	})
	return a
}

func (a *answers) count(id uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ids[id]
}

func probe(t testing.TB, from, to *node, size int, id uint64) {
	t.Helper()
	if err := from.Probe(to.addr.Addr(), size, id); err != nil {
		t.Fatal(err)
	}
}

// Probes of every size are answered, without a word in the log, also between nodes of which only one has the new key.
func TestProbesAreAnswered(t *testing.T) {
	young := gossipKey('y')
	for name, rings := range map[string][2][][]byte{
		"one key":       {{meshKey}, {meshKey}},
		"two keys":      {{meshKey, young}, {young, meshKey}},
		"changing keys": {{meshKey, young}, {young, meshKey}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, "a", 1), start(t, "b", 2)
			a.setKeys(t, rings[0]...)
			b.setKeys(t, rings[1]...)
			heard := answersTo(a)
			for id, size := range map[uint64]int{1: 28 + 28, 2: 576, 3: 1500, 4: 9000, 5: 65535} {
				probe(t, a, b, size, id)
				eventually(t, "a probe is answered", func() bool { return heard.count(id) == 1 })
			}
			for _, n := range []*node{a, b} {
				if counters := n.Counters(); len(counters) != 0 {
					t.Errorf("%s refused something: %v", n.name, counters)
				}
			}
		})
	}
}

func TestProbesThatCantBe(t *testing.T) {
	a := start(t, "a", 1)
	for _, size := range []int{-1, 0, 28, 28 + 27, 65536} {
		if err := a.Probe(a.addr.Addr(), size, 1); err == nil {
			t.Errorf("a probe of %d bytes was sent", size)
		}
	}
	if err := a.Probe(netip.IPv6Loopback(), 1500, 1); err == nil {
		t.Error("a probe was sent to an address of another family than gossip's")
	}
	a.stop(t)
	if err := a.Probe(a.addr.Addr(), 1500, 1); err == nil {
		t.Error("a probe was sent after Stop")
	}
}

// question makes a probe as a stranger would.
func question(key []byte, kind byte, claims, size int) []byte {
	b := make([]byte, size)
	b[0], b[1] = 0xd7, kind
	binary.BigEndian.PutUint16(b[2:], uint16(claims))
	code := hmac.New(sha256.New, key)
	code.Write([]byte("weaveguard path probe\x00"))
	code.Write(b[:12])
	copy(b[12:], code.Sum(nil)[:16])
	return b
}

// Only who has the gossip key is answered, with no more bytes than it sent, and at gossip's port alone.
func TestProbesOfStrangers(t *testing.T) {
	broken := question(meshKey, 1, 1000, 1000)
	broken[27]++
	for name, tt := range map[string]struct {
		packet   []byte
		answered bool
		refused  string
	}{
		"a good one":             {packet: question(meshKey, 1, 1000, 1000), answered: true},
		"the smallest":           {packet: question(meshKey, 1, 28, 28), answered: true},
		"of another mesh":        {packet: question(gossipKey('x'), 1, 1000, 1000), refused: "gossip-undecryptable"},
		"with another code":      {packet: broken, refused: "gossip-undecryptable"},
		"cut on its way":         {packet: question(meshKey, 1, 1000, 1000)[:999]},
		"longer than it says":    {packet: question(meshKey, 1, 999, 1000)},
		"of no kind":             {packet: question(meshKey, 3, 1000, 1000)},
		"of no kind, and short":  {packet: question(meshKey, 3, 1000, 28)},
		"an answer":              {packet: question(meshKey, 2, 1000, 28)},
		"an answer with padding": {packet: question(meshKey, 2, 1000, 1000)},
		"that only looks so":     {packet: slices.Repeat([]byte{0xd7}, 1000), refused: "gossip-malformed"},
		"its first byte alone":   {packet: []byte{0xd7}, refused: "gossip-malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, "n1", 1)
			heard := answersTo(n)
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9), Port: contract.GossipPort})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			for _, packet := range [][]byte{tt.packet, question(meshKey, 1, 77, 77)} { // the second one is answered after the first
				if _, err := conn.WriteToUDPAddrPort(packet, n.addr); err != nil {
					t.Fatal(err)
				}
			}
			wants := []int{77}
			if tt.answered {
				wants = []int{len(tt.packet), 77}
			}
			b := make([]byte, 2000)
			for _, want := range wants {
				if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
				size, err := conn.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				if got := int(binary.BigEndian.Uint16(b[2:])); size != 28 || b[0] != 0xd7 || b[1] != 2 || got != want {
					t.Errorf("answered by %d bytes about %d, want 28 about %d", size, got, want)
				}
			}
			if got, want := heard.count(0), map[bool]int{true: 1}[name == "an answer"]; got != want {
				t.Errorf("%d answers were heard, want %d", got, want)
			}
			if tt.refused == "" {
				if counters := n.Counters(); len(counters) != 0 {
					t.Errorf("counted %v", counters)
				}
				return
			}
			eventually(t, "it is counted", func() bool { return n.Counters()[tt.refused] == 1 })
		})
	}
}
