package gossip_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// A captured state exchange is answered when it is replayed, and changes nothing: it doesn't bring back an older
// record, nor a member that left. With a bit flipped it isn't even answered.
func TestReplayedStream(t *testing.T) {
	nodes := mesh(t, 3)
	nodes[1].Share(map[string][]byte{"absent": []byte("the absent node's record")})
	tap := startTap(t, nodes[0])
	nodes[1].Seek([]gossip.Target{{Addr: tap.addr}})
	eventually(t, "an exchange is captured", func() bool {
		stream := tap.captured()
		return len(stream) > 0 && nodes[0].has("absent", []byte("the absent node's record"))
	})
	nodes[1].Seek(nil)
	stream := tap.captured()
	plain := openStream(t, stream)
	for _, part := range []string{"n3/", "record of n3", "the absent node's record"} {
		if !bytes.Contains(plain, []byte(part)) {
			t.Fatalf("%q isn't in the exchange", part)
		}
		if bytes.Contains(stream, []byte(part)) {
			t.Errorf("%q is on the wire", part)
		}
	}
	nodes[2].stop(t)
	fresh := []byte("fresh")
	nodes[1].announce(t, fresh)
	eventually(t, "the mesh has moved on", func() bool { return !nodes[0].sees("n3") && nodes[0].has("n2", fresh) })

	before := lookAt(nodes[0])
	for range 3 {
		answer := exchange(t, nodes[0], stream)
		if len(answer) == 0 || openStream(t, answer)[0] != pushPullType {
			t.Fatal("a replayed exchange isn't answered, so this test doesn't show what it should")
		}
	}
	before.expect(t, nodes[0])
	const header, step = 18, 7 // type, length, version and nonce; then every seventh bit
	flips := 0
	for bit := 0; bit < len(stream)*8; flips++ {
		answer := exchange(t, nodes[0], flip(stream, bit))
		if len(answer) > 0 && openStream(t, answer)[0] == pushPullType {
			t.Errorf("the exchange with bit %d flipped is answered", bit)
		}
		if bit++; bit > header*8 {
			bit += step - 1
		}
	}
	before.expect(t, nodes[0])
	nodes[1].announce(t, []byte("a good record"))
	eventually(t, "a good record is taken", func() bool { return nodes[0].has("n2", []byte("a good record")) })
	t.Logf("replayed an exchange of %d bytes, and with %d bits flipped", len(stream), flips)
}

// exchange sends a stream and returns what it is answered.
func exchange(t *testing.T, to *node, stream []byte) []byte {
	t.Helper()
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, 4)}}
	conn, err := dialer.Dial("tcp", to.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = conn.Write(stream)
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn) // with a reset, when it closes before it has read all
	return answer
}
