package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	leaveSocket(t, stale)
	for _, tt := range []struct {
		socket string
		cause  error
		want   []string
	}{
		{filepath.Join(dir, "none.sock"), os.ErrNotExist, []string{"no agent runs", "DaemonSet", "systemctl"}},
		{stale, syscall.ECONNREFUSED, []string{"nothing listens", "DaemonSet", "systemctl"}},
	} {
		_, err := api.Client{Socket: tt.socket}.Status(t.Context())
		var agentErr *api.AgentError
		if !errors.As(err, &agentErr) || !errors.Is(err, tt.cause) || agentErr.Remedy == "" {
			t.Fatalf("Status on %s: %v; want an AgentError with a remedy, from %v", tt.socket, err, tt.cause)
		}
		for _, want := range append(tt.want, tt.socket) {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
	}
}

func TestClientWithoutRights(t *testing.T) {
	dir, err := os.MkdirTemp("", "weaveguard-api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // anyone may look in: the socket itself must refuse
		t.Fatal(err)
	}
	cfg := config(t, sample())
	cfg.Socket = filepath.Join(dir, "agent.sock")
	start(t, cfg)
	nobody := exec.CommandContext(t.Context(), "/proc/self/exe")
	nobody.Dir = "/"
	nobody.Env = append(os.Environ(), askEnv+"="+cfg.Socket)
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := nobody.CombinedOutput()
	if err != nil {
		t.Fatalf("running a client as nobody (this test needs root): %v: %s", err, out)
	}
	if want := "only root may ask the agent (" + cfg.Socket + "); run it as root"; !strings.Contains(string(out), want) {
		t.Errorf("the client said %q, want %q", out, want)
	}
}

// serveOn answers on the socket as an agent of another version does.
func serveOn(t *testing.T, socket string, handler http.HandlerFunc) {
	t.Helper()
	listener := listenAt(t, socket)
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
}

func TestClientOfOtherVersion(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	serveOn(t, socket, http.NotFound)
	client := api.Client{Socket: socket}
	_, statusErr := client.Status(t.Context())
	_, rotateErr := client.Rotate(t.Context(), false)
	for what, err := range map[string]error{"Status": statusErr, "Rotate": rotateErr} {
		if err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "same version") {
			t.Errorf("%s: %v; want the 404 and what to do", what, err)
		}
	}
}

func TestClientReadsNoOtherAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	serveOn(t, socket, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "rotated") })
	answer, err := api.Client{Socket: socket}.Rotate(t.Context(), false)
	var agentErr *api.AgentError
	if !errors.As(err, &agentErr) || !strings.Contains(agentErr.Remedy, "same version") || answer != (view.RotateAnswer{}) {
		t.Errorf("Rotate: %v, %v; want no answer, and an AgentError with what to do", answer, err)
	}
}
