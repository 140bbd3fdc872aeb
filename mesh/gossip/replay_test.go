package gossip_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// A captured packet of each kind shows nothing, and changes nothing, as it is or with any bit flipped.
func TestReplayedPackets(t *testing.T) {
	sniffer, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(sniffer) }()
	nodes := mesh(t, 3)
	const message = "a message"
	var packets [][]byte           // all to the first node
	kinds := make(map[byte][]byte) // one of each kind
	capture := func(want ...byte) bool {
		for _, p := range captured(sniffer, nodes[0]) {
			packets = append(packets, p)
			if kind := openPacket(t, p)[0]; len(p) > len(kinds[kind]) {
				kinds[kind] = p
			}
		}
		return !slices.ContainsFunc(want, func(kind byte) bool { return kinds[kind] == nil })
	}
	round := 0
	eventually(t, "news of one node and of several is captured", func() bool {
		round++
		for _, n := range nodes[1 : 2+round%2] {
			fresh := fmt.Appendf(nil, "fresh record %d", round)
			n.announce(t, fresh)
			eventually(t, "it spreads", func() bool { return nodes[0].has(n.name, fresh) })
		}
		return capture(aliveType, compoundType)
	})
	eventually(t, "a message and a probe are captured", func() bool {
		nodes[1].send(t, "n1", message) // alone in its packet once there is no news
		return capture(userType, pingType)
	})
	for _, p := range packets {
		for _, secret := range [][]byte{[]byte("fresh"), []byte("record of"), []byte(message), []byte("n1/"), []byte("n2/"), meshKey} {
			if bytes.Contains(p, secret) {
				t.Errorf("%q is in a packet", secret)
			}
		}
	}

	before := lookAt(nodes[0])
	inject(t, nodes[0], "127.0.1.3", packets)
	refused := func() uint64 {
		c := nodes[0].Counters()
		return c["gossip-malformed"] + c["gossip-undecryptable"]
	}
	refusedBefore, flips, host := refused(), 0, 0
	var flipping sync.WaitGroup
	for _, p := range kinds {
		flips += len(p) * 8
		for part := range slices.Chunk(flipped(p), 600) {
			host++
			from := fmt.Sprintf("127.0.2.%d", host)
			flipping.Go(func() { inject(t, nodes[0], from, part) })
		}
	}
	flipping.Wait()
	eventually(t, "every flipped packet is refused", func() bool { return refused()-refusedBefore >= uint64(flips) })
	before.expect(t, nodes[0])
	for _, m := range nodes[0].Messages() {
		if string(m) != message {
			t.Errorf("a message that nobody sent: %q", m)
		}
	}
	nodes[1].announce(t, []byte("a good record"))
	eventually(t, "a good record is taken", func() bool { return nodes[0].has("n2", []byte("a good record")) })
	t.Logf("replayed %d packets, and one of each of %d kinds with each bit flipped, %d in all", len(packets), len(kinds), flips)
}

// captured returns the payloads of the packets to a node's gossip port since the last call.
func captured(sniffer int, to *node) [][]byte {
	var packets [][]byte
	address := to.addr.Addr().AsSlice()
	for buf := make([]byte, 65536); ; {
		n, _, err := unix.Recvfrom(sniffer, buf, 0)
		if err != nil {
			return packets
		}
		header := int(buf[0]&15) * 4
		port := binary.BigEndian.Uint16(buf[header+2:])
		if port == contract.GossipPort && bytes.Equal(buf[16:20], address) && n > header+8 {
			packets = append(packets, bytes.Clone(buf[header+8:n]))
		}
	}
}

// inject sends packets from an address, half as fast as one may: two that share a counter don't lose any.
func inject(t *testing.T, to *node, from string, packets [][]byte) {
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(to.addr))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	pace := time.NewTicker(2200 * time.Microsecond)
	defer pace.Stop()
	for _, p := range packets {
		<-pace.C
		_, _ = conn.Write(p)
	}
}

// flipped returns data with each bit flipped in turn.
func flipped(data []byte) [][]byte {
	var all [][]byte
	for bit := range len(data) * 8 {
		all = append(all, flip(data, bit))
	}
	return all
}

func flip(data []byte, bit int) []byte {
	changed := bytes.Clone(data)
	changed[bit/8] ^= 1 << (bit % 8)
	return changed
}

// look is what a node knows of the mesh.
type look struct {
	heard   []gossip.Heard
	members []gossip.Member
}

func lookAt(n *node) look { return look{n.Heard(), n.Members()} }

func (before look) expect(t *testing.T, n *node) {
	t.Helper()
	now := lookAt(n)
	if !reflect.DeepEqual(now.heard, before.heard) {
		t.Errorf("%s heard %v, before %v", n.name, now.heard, before.heard)
	}
	if !reflect.DeepEqual(now.members, before.members) {
		t.Errorf("%s has the members %v, before %v", n.name, now.members, before.members)
	}
}
