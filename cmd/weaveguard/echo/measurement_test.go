package echo

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// Only an answer to an own request, in time, and from whom was asked, counts, and once.
func TestWhatCounts(t *testing.T) {
	asked := netip.MustParseAddr("10.32.2.1")
	for name, c := range map[string]struct {
		from   string
		kind   ipv4.ICMPType
		cookie byte // what is added to the first byte of it
		number uint32
		after  time.Duration
		cut    int // bytes at the end
		want   int
	}{
		"the answer":          {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, want: 1},
		"another host's":      {from: "10.32.3.1", kind: ipv4.ICMPTypeEchoReply},
		"a request":           {from: "10.32.2.1", kind: ipv4.ICMPTypeEcho},
		"another program's":   {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, cookie: 1},
		"one not asked for":   {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, number: 1},
		"too late":            {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, after: time.Minute},
		"cut off":             {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, cut: dataLength - cookieLength},
		"cut off in its head": {from: "10.32.2.1", kind: ipv4.ICMPTypeEchoReply, cut: dataLength + 5},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMeasurement([]Target{{Address: asked}}, Options{Count: 1, Timeout: time.Second})
			sent := time.Now()
			m.unanswered[0] = request{0, sent}
			data := make([]byte, dataLength)
			copy(data, m.cookie[:])
			data[0] += c.cookie
			binary.BigEndian.PutUint32(data[cookieLength:], c.number)
			message := icmp.Message{Type: c.kind, Body: &icmp.Echo{Data: data}}
			packet, err := message.Marshal(nil)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				m.take(packet[:len(packet)-c.cut], netip.MustParseAddr(c.from), sent.Add(time.Millisecond+c.after))
			}
			if got := m.end()[0].Received; got != c.want {
				t.Errorf("%d count, want %d", got, c.want)
			}
		})
	}
}
