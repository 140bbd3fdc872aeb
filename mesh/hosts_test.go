package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
)

// directory is a fake name server.
type directory struct {
	mu    sync.Mutex
	known map[string][]netip.Addr
}

func (n *directory) set(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = map[string][]netip.Addr{}
	}
	n.known[name] = nil
	for _, a := range addresses {
		n.known[name] = append(n.known[name], netip.MustParseAddr(a))
	}
}

func (n *directory) lookUp(_ context.Context, name string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addresses := n.known[name]; addresses != nil {
		return addresses, nil
	}
	return nil, errors.New("no such host")
}

func newHosts(n *directory, path string, configured ...string) *mesh.Hosts {
	return mesh.NewHosts(mesh.HostsConfig{
		Configured: configured, Path: path, Lookup: n.lookUp, Changed: func() {}, Every: 10 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
	})
}

func wantAddresses(t *testing.T, h *mesh.Hosts, want string) {
	t.Helper()
	if got := fmt.Sprint(h.Addresses()); got != want {
		t.Errorf("the addresses are %s, want %s", got, want)
	}
}

// Hosts that are joined are looked at at once, and after a restart.
func TestJoin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "hosts")
	n := &directory{}
	n.set("h2", "192.0.2.2", "fd00::2")
	h := newHosts(n, path, "192.0.2.1")
	if err := h.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer, err := h.Join(t.Context(), []string{"h2", "192.0.2.3", "192.0.2.1", "h2"})
	if err != nil || !slices.Equal(answer.Added, []string{"h2", "192.0.2.3"}) || !slices.Equal(answer.Hosts, []string{"192.0.2.3", "h2"}) {
		t.Errorf("join says %+v, %v", answer, err)
	}
	wantAddresses(t, h, "[192.0.2.1 192.0.2.3 192.0.2.2 fd00::2]")
	if answer, err := h.Join(t.Context(), []string{"h2"}); err != nil || len(answer.Added) != 0 || answer.Added == nil {
		t.Errorf("a second time it says %+v, %v", answer, err)
	}
	h = newHosts(n, path)
	if err := h.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, h, "[192.0.2.3 192.0.2.2 fd00::2]")
}

// None is joined unless all can be.
func TestJoinRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := &directory{}
	h := newHosts(n, filepath.Join(dir, "hosts"))
	for host, says := range map[string]string{
		"nobody": "no such host", "": "isn't the name", "a b": "isn't the name", "10.0.0.1:6783": "isn't the name", "127.0.0.1": "another host can have",
		"fe80::1%eth0": "another host can have", "192.0.2": "isn't the name", "-x": "isn't the name", "a\nb": "isn't the name", "#a": "isn't the name",
	} {
		if _, err := h.Join(t.Context(), []string{"192.0.2.9", host}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("joining %q: %v, want %q", host, err, says)
		}
	}
	wantAddresses(t, h, "[]")
	if _, err := os.Stat(filepath.Join(dir, "hosts")); err == nil {
		t.Error("something is written")
	}
	var many []string
	for i := range 257 {
		many = append(many, fmt.Sprintf("198.51.%d.%d", i/200, i%200+1))
	}
	if _, err := h.Join(t.Context(), many); err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("joining %d hosts: %v", len(many), err)
	}
	wantAddresses(t, h, "[]")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h = newHosts(n, filepath.Join(file, "hosts"))
	if _, err := h.Join(t.Context(), []string{"192.0.2.9"}); err == nil || !strings.Contains(err.Error(), "no host is joined") {
		t.Errorf("without a disk: %v", err)
	}
	wantAddresses(t, h, "[]")
}

// What an operator wrote into the file counts, and what can't be a host doesn't hide the rest.
func TestHostsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("# ours\n192.0.2.2 # the second\n\n1.2.3\n192.0.2.2\n\x00\n  192.0.2.1"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHosts(&directory{}, path)
	if err := h.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, h, "[192.0.2.1 192.0.2.2]")
}

// A host whose name nobody knows yet is found later, and followed when it moves; what was found stays while nobody answers.
// The agent looks for it there, and says when a name isn't known.
func TestHostsAreLookedUpAgain(t *testing.T) {
	t.Parallel()
	n := &directory{}
	w := newWorld(t)
	w.plain()
	w.config.Hosts = mesh.NewHosts(mesh.HostsConfig{
		Configured: []string{"h2", "192.0.2.1"}, Path: filepath.Join(t.TempDir(), "hosts"), Lookup: n.lookUp, Changed: w.config.Latch.Set,
		Every: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err := w.config.Hosts.Find(t.Context()); err == nil || !strings.Contains(err.Error(), `"h2": no such host`) {
		t.Errorf("finding says %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.config.Hosts.Run(ctx) }()
	a := w.start(t)
	has := func(what, problem string, want ...string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			s := a.pass()
			var seeds []string
			for _, seed := range w.air.sought() {
				seeds = append(seeds, seed.Address.String())
			}
			said := fmt.Sprint(s.Problems)
			if slices.Equal(seeds, want) && strings.Contains(said, problem) && (problem != "" || len(s.Problems) == 0) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the agent looks at %q and says %s, want %q and %q", what, seeds, said, want, problem)
			}
		}
	}
	// 192.0.2.1 is this host's own.
	has("the name isn't known", "host h2")
	n.set("h2", "192.0.2.7")
	has("it is", "", "192.0.2.7")
	n.set("h2", "192.0.2.8")
	has("it has moved", "", "192.0.2.8")
	n.set("h2")
	has("nobody knows it any more", "host h2", "192.0.2.8")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
