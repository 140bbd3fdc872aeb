package gossip

import (
	"bytes"
	"net/netip"
	"testing"
)

// FuzzKeyHolder gives any bytes as what somebody with the gossip key sends, in a packet and in a stream: never a panic,
// and what is handed on has nothing compressed in it and claims no more than it brings.
func FuzzKeyHolder(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{checksumKind, 0, 0, 0, 0})
	f.Add([]byte{compoundKind, 255})
	const own = "n/0"
	f.Add([]byte("\x03\x82\xabIncarnation\xce\xff\xff\xff\xff\xa4Node\xa3" + own))
	f.Add([]byte("\x06\x81\xa5Nodes\x01\x82\xa4Name\xa3" + own + "\xabIncarnation\xce\xff\xff\xff\xff"))
	worn := newWorn()
	worn.watch(own, netip.MustParseAddrPort("10.0.0.1:6783"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		given := bytes.Clone(plain)
		if messages, err := judgePacket(partsOf(plain)); err == nil {
			worn.inPacket(partsOf(plain))
			if messages > 1 {
				t.Errorf("%d messages are handed on", messages)
			}
			body := plain
			if len(body) > checksumSize && body[0] == checksumKind {
				body = body[checksumSize:]
			}
			if len(body) > 0 && body[0] == compressedKind {
				t.Error("something compressed is handed on")
			}
		}
		if len(plain) > 0 {
			_, err := judgeStream(plain)
			if _, n := number(plain[1:]); n > len(plain) {
				t.Errorf("a number of %d bytes in %d", n, len(plain))
			}
			if err == nil {
				worn.inStream(plain)
			}
			if err == nil && plain[0] == compressedKind {
				t.Error("a compressed stream is handed on")
			}
		}
		if !bytes.Equal(plain, given) {
			t.Error("it was written to")
		}
	})
}
