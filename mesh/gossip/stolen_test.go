package gossip_test

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// What a member sends that has the gossip key and means ill. MessagePack is written by hand here, since memberlist
// wouldn't send this.

func packed(s string) []byte {
	if len(s) < 32 {
		return append([]byte{0xa0 | byte(len(s))}, s...)
	}
	return append(binary.BigEndian.AppendUint16([]byte{0xda}, uint16(len(s))), s...)
}

func number(n int) []byte { return binary.BigEndian.AppendUint32([]byte{0xce}, uint32(n)) }

// fields is a map, from names to what is packed already.
func fields(pairs ...any) []byte {
	data := []byte{0x80 | byte(len(pairs)/2)}
	for i := 0; i < len(pairs); i += 2 {
		data = slices.Concat(data, packed(pairs[i].(string)), pairs[i+1].([]byte))
	}
	return data
}

func compressed(plain []byte) []byte {
	var buf bytes.Buffer
	w := lzw.NewWriter(&buf, lzw.LSB, 8)
	_, _ = w.Write(plain)
	_ = w.Close()
	return append([]byte{compressType}, fields("Algo", []byte{0}, "Buf", packed(buf.String()))...)
}

func compound(parts ...[]byte) []byte {
	data := []byte{compoundType, byte(len(parts))}
	for _, p := range parts {
		data = binary.BigEndian.AppendUint16(data, uint16(len(p)))
	}
	return append(data, slices.Concat(parts...)...)
}

func exchangeOf(nodes, stateSize int, rest ...[]byte) []byte {
	header := fields("Nodes", number(nodes), "UserStateLen", number(stateSize), "Join", []byte{0xc2})
	return slices.Concat([]byte{pushPullType}, header, slices.Concat(rest...))
}

const address, versions = "\x7f\x00\x00\x09", "\x01\x05\x02\x00\x00\x00"

func aliveMember(name, meta string) []byte {
	return fields("Name", packed(name), "Addr", packed(address), "Port", []byte{9}, "Meta", packed(meta),
		"Incarnation", []byte{1}, "State", []byte{0}, "Vsn", packed(versions))
}

// alive says that a member is there, which announces meta and speaks these versions.
func alive(name, meta, versions string, incarnation int) []byte {
	return append([]byte{aliveType}, fields("Incarnation", number(incarnation), "Node", packed(name), "Addr", packed(address),
		"Port", []byte{9}, "Meta", packed(meta), "Vsn", packed(versions))...)
}

// memberlist would unpack the one to a thousand times its size, again and again, and go down with the others.
func TestPacketsOfAKeyHolder(t *testing.T) {
	message := append([]byte{userType}, "unpacked"...)
	tests := []struct {
		name  string
		plain []byte
	}{
		{"empty", nil},
		{"compressed", compressed(message)},
		{"compressed to nothing", compressed(nil)},
		{"compressed in a checksum", append([]byte{crcType, 0, 0, 0, 0}, compressed(message)...)},
		{"compressed in a compound", compound([]byte{pingType}, compressed(message))},
		{"compound in a compound", compound(compound(message))},
		{"two messages", compound(message, message)},
		{"an empty part", compound(nil)},
		{"a compound without a number", []byte{compoundType}},
		{"a compound without lengths", []byte{compoundType, 255, 0}},
	}
	n := start(t, "n1", 1)
	for i, tt := range tests {
		before := n.Counters()["gossip-malformed"]
		send(t, "udp", fmt.Sprintf("127.0.1.%d", i+1), n, sealPacket(t, tt.plain))
		eventually(t, tt.name+" is refused", func() bool { return n.Counters()["gossip-malformed"] > before })
	}
	send(t, "udp", "127.0.1.100", n, sealPacket(t, append(compound(), make([]byte, 1600)...)))
	eventually(t, "a large packet is refused", func() bool { return n.Counters()["gossip-overload"] == 1 })
	send(t, "udp", "127.0.1.101", n, sealPacket(t, compound(message, []byte{suspectType, 0x80})))
	box := &inbox{node: n}
	eventually(t, "a sound one is taken", func() bool { return box.has("unpacked") })
	if len(box.all) != 1 {
		t.Errorf("taken: %q", box.all)
	}
}

// memberlist would allocate by what a stream claims, 112 MiB for some bytes.
func TestStreamsOfAKeyHolder(t *testing.T) {
	message := append([]byte{userType}, fields("UserMsgLen", number(5))...)
	tests := []struct {
		name  string
		plain []byte
	}{
		{"compressed", compressed(append(message, "bytes"...))},
		{"a million nodes", exchangeOf(1<<20, 0)},
		{"a million nodes in a large one", exchangeOf(1<<20, 0, make([]byte, 2<<20))},
		{"a large state", exchangeOf(0, 20<<20)},
		{"large metadata", exchangeOf(1, 0, fields("Name", packed("n2/0011223344556677"), "Meta", []byte{0xdb, 0x3f, 0, 0, 0}), make([]byte, 100))},
		{"a long list", exchangeOf(1, 0, fields("Vsn", []byte{0xdd, 0x3f, 0, 0, 0}), make([]byte, 100))},
		{"deep lists", exchangeOf(1, 0, fields("X", bytes.Repeat([]byte{0x91}, 1<<16)))},
		{"a negative state", exchangeOf(0, -1)},
		{"a large message", append([]byte{userType}, fields("UserMsgLen", number(20<<20))...)},
		{"numbers in a list", []byte{pushPullType, 0x93, 0xce, 0, 16, 0, 0, 0, 0xc2}},
		{"no header", []byte{pushPullType}},
	}
	n := start(t, "n1", 1)
	own := n.memberName() // which is looked for in what is taken
	for _, claim := range [][]byte{{0xdb, 0x3f, 0, 0, 0}, {0xdd, 0x3f, 0, 0, 0}} {
		for _, field := range []string{"Vsn", "Meta", "X"} {
			node := fields("Name", packed(own), field, claim)
			tests = append(tests, struct {
				name  string
				plain []byte
			}{fmt.Sprintf("of this member, %s %x", field, claim), exchangeOf(1, 0, node, make([]byte, 100))})
		}
	}
	for _, tt := range tests {
		counted, before := n.Counters()["gossip-malformed"], allocated()
		const times = 10
		for range times {
			stream := sealStream(t, tt.plain)
			before += uint64(8 * len(stream)) // what this test and reading it need
			exchange(t, n, stream)
		}
		if got := n.Counters()["gossip-malformed"] - counted; got != times {
			t.Errorf("%s: %d of %d are refused", tt.name, got, times)
		}
		if after := allocated(); after > before+32<<20 {
			t.Errorf("%s: %d MiB were allocated", tt.name, (after-before)>>20)
		}
	}
	exchange(t, n, sealStream(t, append(message, "bytes"...)))
	box := &inbox{node: n}
	eventually(t, "a sound one is taken", func() bool { return box.has("bytes") })
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// Who is called answers, and memberlist would panic when there is nothing in the answer.
func TestAnswersOfAKeyHolder(t *testing.T) {
	for _, answer := range [][]byte{sealStream(t, nil), sealStream(t, compressed(nil)), sealStream(t, exchangeOf(1<<20, 0))} {
		listener, err := net.Listen("tcp", "127.0.0.9:6783")
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write(answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
				calls.Add(1)
			}
		}()
		n := start(t, "n1", 1)
		n.Seek([]gossip.Target{{Addr: netip.MustParseAddrPort("127.0.0.9:6783")}})
		eventually(t, "it calls again", func() bool { return calls.Load() == 2 })
		if len(n.Members()) != 1 {
			t.Errorf("members %v", n.Members())
		}
		n.stop(t)
		_ = listener.Close()
		<-done
	}
}

// A member that always has news doesn't keep the agent's loop busy.
func TestNewsWithoutEnd(t *testing.T) {
	n := start(t, "n1", 1)
	before, began := n.changes.Load(), time.Now()
	exchanges := 0
	for ; time.Since(began) < 2*time.Second; exchanges++ {
		state := slices.Concat([]byte{1}, []byte{5}, fmt.Appendf(nil, "%05d", exchanges), []byte{6}, []byte("record"))
		exchange(t, n, sealStream(t, exchangeOf(0, len(state), state)))
	}
	told := n.changes.Load() - before
	if most := int64(time.Since(began)/(50*time.Millisecond)) + 2; told > most {
		t.Errorf("told of news %d times, at most %d", told, most)
	}
	if len(n.Heard()) < 100 {
		t.Fatalf("heard of %d nodes by %d exchanges, so this test doesn't show what it should", len(n.Heard()), exchanges)
	}
	last := n.changes.Load()
	exchange(t, n, sealStream(t, exchangeOf(0, 10, []byte("\x01\x01n\x06record"))))
	eventually(t, "further news is told", func() bool { return n.changes.Load() > last })
}

// A member can make up others, not more than there is room for.
func TestMadeUpMembers(t *testing.T) {
	n := start(t, "n1", 1)
	large := alive("n2/0011223344556677", string(make([]byte, 513)), versions, 1)
	send(t, "udp", "127.0.1.1", n, sealPacket(t, large))
	eventually(t, "one with too much metadata is refused", func() bool { return n.Counters()["gossip-metadata-size"] == 1 })
	const room, surplus = 2 * 8192, 2000
	var members []byte
	for i := range room + surplus {
		members = append(members, aliveMember(fmt.Sprintf("n3/%016x", i), "")...)
	}
	began := time.Now()
	exchange(t, n, sealStream(t, exchangeOf(room+surplus, 0, members)))
	eventually(t, "surplus is refused", func() bool { return n.Counters()["gossip-too-many-nodes"] > surplus/2 })
	took := time.Since(began)
	if got := n.Counters()["gossip-too-many-nodes"]; got > surplus+1 || got < surplus-uint64(took/(100*time.Millisecond))-1 {
		t.Errorf("%d are refused, of %d more than there is room for", got, surplus)
	}
}

// A member that is said to speak another version of the protocol would end all state exchanges of all others.
func TestMadeUpVersions(t *testing.T) {
	nodes := mesh(t, 2)
	for i, versions := range []string{"\x05\x05\x05\x00\x00\x00", "\x01\x01\x01\x00\x00\x00", "\x01\x05\x02\x01\x01\x01"} {
		stranger := alive(fmt.Sprintf("n9/%016x", i), "", versions, 1)
		for _, n := range nodes {
			before := n.Counters()["gossip-protocol"]
			send(t, "udp", fmt.Sprintf("127.0.1.%d", i+1), n, sealPacket(t, stranger))
			eventually(t, fmt.Sprintf("versions %x are refused", versions), func() bool { return n.Counters()["gossip-protocol"] > before })
		}
	}
	newcomer := start(t, "n3", 3)
	newcomer.Seek([]gossip.Target{nodes[0].target()})
	eventually(t, "a new node joins", func() bool { return nodes[0].sees("n3") && nodes[1].sees("n3") })
}

// Somebody says that a member left, and then that it is where he is. The member keeps its name, and is heard.
func TestMembersNameIsTaken(t *testing.T) {
	nodes := mesh(t, 3)
	victim := nodes[2]
	name := victim.memberName()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range 100 { // the member objects each time
		left := append([]byte{deadType}, fields("Incarnation", number(100*i+100), "Node", packed(name), "From", packed(name))...)
		here := alive(name, "what the victim never said", versions, 100*i+101)
		for _, packet := range [][]byte{left, here} {
			for _, n := range nodes[:2] {
				send(t, "udp", "127.0.1.1", n, sealPacket(t, packet))
			}
			<-pace.C
		}
	}
	for _, n := range nodes[:2] {
		if n.Counters()["gossip-conflict"] == 0 {
			t.Errorf("nothing was refused: %v", n.Counters())
		}
	}
	fresh := []byte("fresh")
	victim.announce(t, fresh)
	for _, n := range nodes[:2] {
		eventually(t, "what the member says is heard", func() bool { return n.sees("n3") && n.has("n3", fresh) })
		if n.has("n3", []byte("what the victim never said")) {
			t.Error("what somebody else says in its name is heard")
		}
	}
}
