package gossip_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// tap passes streams on to a node, and keeps what the first one brought.
type tap struct {
	addr netip.AddrPort

	mu    sync.Mutex
	first []byte // once it has been answered
}

func startTap(t *testing.T, to *node) *tap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.200:7000")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: netip.MustParseAddrPort("127.0.0.200:7000")}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			passing.Go(func() { p.pass(in, to) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); passing.Wait() })
	return p
}

func (p *tap) pass(in net.Conn, to *node) {
	defer func() { _ = in.Close() }()
	out, err := net.Dial("tcp", to.addr.String())
	if err != nil {
		return
	}
	var brought bytes.Buffer
	var bringing sync.WaitGroup
	bringing.Go(func() { _, _ = io.Copy(out, io.TeeReader(in, &brought)) })
	_, _ = io.Copy(in, out) // until the node has answered and closed
	_ = in.Close()
	_ = out.Close()
	bringing.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == nil {
		p.first = brought.Bytes()
	}
}

func (p *tap) captured() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}
