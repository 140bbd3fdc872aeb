package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func TestTransferBothWays(t *testing.T) {
	listener := listen(t)
	go serveTCP(t.Context(), listener)
	const size = 3*blockSize + 5
	results := map[bool]tcpResult{}
	for _, fetch := range []bool{false, true} {
		result, err := transfer{Bytes: size, Fetch: fetch}.run(t.Context(), listener.Addr().String())
		if err != nil {
			t.Fatalf("fetch %t: %v", fetch, err)
		}
		if result.Bytes != size || !strings.HasPrefix(result.Remote, "127.0.0.1:") {
			t.Errorf("fetch %t: got %+v", fetch, result)
		}
		results[fetch] = result
	}
	if results[true].SHA256 != results[false].SHA256 {
		t.Errorf("checksums of the same payload differ: %v", results)
	}
}

func TestTransferSeesDamage(t *testing.T) {
	listener := listen(t)
	go func() { // a server that lost a byte
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buffer := make([]byte, 1<<16)
		_, _ = conn.Read(buffer)
		_, _ = conn.Write([]byte(`{"bytes":99,"sha256":"00"}` + "\n"))
		_, _ = conn.Read(buffer)
	}()
	if result, err := (transfer{Bytes: 100}).run(t.Context(), listener.Addr().String()); err == nil {
		t.Errorf("a damaged transfer passed: %+v", result)
	}
}

func TestEcho(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go serveEcho(conn)
	result, err := echoes{count: 5, size: 9000, wait: time.Second}.run(t.Context(), conn.LocalAddr().String())
	if err != nil || result.Received != 5 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestEchoSeesLoss(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // and nobody echoes
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	result, err := echoes{count: 1, size: 64, wait: 10 * time.Millisecond}.run(t.Context(), conn.LocalAddr().String())
	if err == nil || result.Received != 0 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestGet(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(servePage))
	defer web.Close()
	result, err := get(t.Context(), web.URL)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status != http.StatusOK || result.Marker != marker || result.Hostname == "" {
		t.Errorf("got %+v", result)
	}
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if result, err := get(ctx, missing.URL); err == nil || result.Status != http.StatusNotFound {
		t.Errorf("got %+v, %v for a page that isn't there", result, err)
	}
}
