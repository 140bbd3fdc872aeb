package gossip

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/hashicorp/memberlist"
)

// onlyBytes is a connection that brings bytes.
type onlyBytes struct {
	net.Conn
	r io.Reader
}

func (o onlyBytes) Read(p []byte) (int, error) { return o.r.Read(p) }
func (o onlyBytes) Close() error               { return nil }
func (o onlyBytes) RemoteAddr() net.Addr       { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// A capped stream hands on what came, byte for byte, or nothing of it, and gives back all that it held.
func FuzzCappedStream(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{10})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{10, 255, 255, 255, 255, 1})
	f.Add([]byte{10, 0, 0, 0, 29, 1, 2, 3})
	f.Add([]byte{10, 0, 0, 0, 45, 0, 2, 3})
	f.Add([]byte{10, 0, 0, 0, 45, 1, 2, 3})
	f.Add(append([]byte{10, 0, 0, 0, 45, 1}, make([]byte, 44)...))
	f.Add([]byte{244, 1, 'x', 10})
	ring, err := memberlist.NewKeyring(nil, make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCaps(inspector{ring: ring}) // of its own: what one input leaves behind would make the next one look new
		stream := c.admit(onlyBytes{r: bytes.NewReader(data)})
		if stream == nil {
			t.Fatal("not admitted")
		}
		got, err := io.ReadAll(stream)
		encrypted := len(data) > 0 && data[0] == encryptedStream
		if encrypted && bytes.HasPrefix(got, undecryptable()) {
			got = nil
		}
		if !bytes.HasPrefix(data, got) || err == nil && len(got) != len(data) && !(encrypted && len(got) == 0) {
			t.Errorf("read %x of %x: %v", got, data, err)
		}
		for range 2 {
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(c.strangers.open) != 0 || c.strangers.size != 0 || len(c.streams) != 0 {
			t.Errorf("left %d streams, %d bytes, %v", len(c.strangers.open), c.strangers.size, c.streams)
		}
	})
}
