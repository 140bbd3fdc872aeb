package gossip_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// A captured packet shows nothing, and changes nothing, as it is or with any bit flipped.
func TestReplayedPackets(t *testing.T) {
	sniffer, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(sniffer) }()
	nodes := mesh(t, 2)
	fresh := []byte("a fresh record")
	nodes[1].announce(t, fresh)
	eventually(t, "the fresh record spreads", func() bool { return nodes[0].has("n2", fresh) })

	var packets [][]byte // the UDP payloads to the first node: gossip, and a probe each second
	buf := make([]byte, 65536)
	eventually(t, "some packets are captured", func() bool {
		for {
			n, _, err := unix.Recvfrom(sniffer, buf, 0)
			if err != nil {
				return len(packets) >= 3
			}
			header := int(buf[0]&15) * 4
			port := binary.BigEndian.Uint16(buf[header+2:])
			if int(port) == int(view.GossipPort) && bytes.Equal(buf[16:20], []byte{127, 0, 0, 1}) && n > header+8 {
				packets = append(packets, bytes.Clone(buf[header+8:n]))
			}
		}
	})
	longest := packets[0]
	for _, p := range packets {
		for _, secret := range [][]byte{fresh, []byte("record of"), []byte("n1/"), []byte("n2/"), meshKey} {
			if bytes.Contains(p, secret) {
				t.Errorf("%q is in a packet", secret)
			}
		}
		if len(p) > len(longest) {
			longest = p
		}
	}

	heard, members := nodes[0].Heard(), nodes[0].Members()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 1, 3)}, net.UDPAddrFromAddrPort(nodes[0].addr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, p := range packets {
		_, _ = conn.Write(p)
	}
	refused := func() uint64 {
		c := nodes[0].Counters()
		return c["gossip-malformed"] + c["gossip-undecryptable"]
	}
	before := refused()
	for bit := range len(longest) * 8 {
		flipped := bytes.Clone(longest)
		flipped[bit/8] ^= 1 << (bit % 8)
		_, _ = conn.Write(flipped)
		time.Sleep(1500 * time.Microsecond) // below the limit of packets
	}
	eventually(t, "every flipped packet is refused", func() bool { return refused()-before >= uint64(len(longest)*8) })
	if got := nodes[0].Heard(); !reflect.DeepEqual(got, heard) {
		t.Errorf("heard %v, before %v", got, heard)
	}
	if got := nodes[0].Members(); !reflect.DeepEqual(got, members) {
		t.Errorf("members %v, before %v", got, members)
	}
	t.Logf("replayed %d packets, and one of %d bytes with each bit flipped", len(packets), len(longest))
}
