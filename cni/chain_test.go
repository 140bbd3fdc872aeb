package cni_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/weaveguard/weaveguard/cni/store"
)

// serve answers TCP connections in a namespace with an echo, until the test ends.
func serve(t *testing.T, at ns.NetNS, port int) {
	t.Helper()
	var listener net.Listener
	in(t, at, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
}

// echo sends so many bytes over TCP and reads them again.
func echo(t *testing.T, from ns.NetNS, to string, size int) error {
	t.Helper()
	var conn net.Conn
	err := from.Do(func(ns.NetNS) (err error) {
		conn, err = net.DialTimeout("tcp", to, 5*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		_, _ = io.CopyN(conn, zeros{}, int64(size))
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(size) {
		return fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The plugins that come after ours in a list work with what it answers: host ports from outside, from another pod and
// from the pod itself; a limit of what a pod gets; sysctls in the sandbox.
func TestChain(t *testing.T) {
	buildPlugins(t, "meta/portmap", "meta/bandwidth", "meta/tuning")
	s := newStreet(t)
	r := s.runtime("1.0.0", nil,
		map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
		map[string]any{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}},
		map[string]any{"type": "tuning", "sysctl": map[string]string{"net.core.somaxconn": "77"}})
	sandbox := newNS(t)
	a := attachment("chained", sandbox)
	a.CapabilityArgs = map[string]any{
		"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":    map[string]any{"ingressRate": 8_000_000, "ingressBurst": 800_000},
	}
	if _, err := r.add(a); err != nil {
		t.Fatalf("ADD: %v", err)
	}
	if err := r.check(a); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	serve(t, sandbox, 80)
	for from, at := range map[string]ns.NetNS{"outside": s.outside, "another pod": s.victim.ns, "the pod itself": sandbox} {
		if err := echo(t, at, "192.0.2.1:8080", 100); err != nil {
			t.Errorf("the host port from %s: %v", from, err)
		}
	}
	began := time.Now()
	const size = 2 << 20
	if err := echo(t, s.outside, "192.0.2.1:8080", size); err != nil {
		t.Error(err)
	}
	if took, least := time.Since(began), time.Second; took < least { // 2 s, less the burst
		t.Errorf("%d bytes at 8 Mbit/s took %s, want at least %s", size, took, least)
	}
	in(t, sandbox, func() error {
		value, err := os.ReadFile("/proc/sys/net/core/somaxconn")
		if err == nil && strings.TrimSpace(string(value)) != "77" {
			t.Errorf("somaxconn is %s", value)
		}
		return err
	})
	for range 2 {
		if err := r.del(a); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if echo(t, s.outside, "192.0.2.1:8080", 100) == nil {
		t.Error("the host port still leads somewhere")
	}
	host := store.ID{ContainerID: "chained", IfName: "eth0"}.HostInterface()
	for _, left := range s.leftovers() {
		if strings.Contains(left, host) || strings.Contains(left, "chained") {
			t.Errorf("left behind: %s", left)
		}
	}
}
