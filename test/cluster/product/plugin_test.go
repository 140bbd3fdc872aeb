package product_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/report"
	"github.com/weaveguard/weaveguard/test/output"
)

// testPlugin shows that `kubectl weaveguard` runs in the pod of a node's agent, with what a pod may do.
func (w *world) testPlugin(t *testing.T) {
	kubectl := w.pluginCommand(t)
	text, code := kubectl("status", "--node", w.nodes[1], "--check", "-o", "json")
	if status, err := readStatus(w.nodes[1], text); err != nil || code != 0 || status.Node != w.nodes[1] {
		t.Errorf("status of %s ends with %d, %v:\n%s", w.nodes[1], code, err, text)
	}
	if text, code := kubectl("wg", "--node", w.nodes[0]); code != 0 || !saysAll(text, []string{"(" + w.nodes[0] + ")", "(" + w.nodes[1] + ")"}) {
		t.Errorf("wg ends with %d:\n%s", code, text)
	}
	if text, code := kubectl("peers", "nobody"); code != 2 || !strings.Contains(text, "no other node has the name nobody") {
		t.Errorf("peers nobody ends with %d:\n%s", code, text)
	}
	w.pluginPing(t, kubectl)
	w.pluginReport(t, kubectl)
	w.pluginUI(t)
}

// pluginUI shows that the page of a node's agent is there by a forwarded port, for as long as the command runs.
func (w *world) pluginUI(t *testing.T) {
	cmd := w.pluginProgram(t)("ui", "--node", w.nodes[1])
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr output.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }).Stop() // an error says that it has ended
	line, err := bufio.NewReader(out).ReadString('\n')
	address, _, _ := strings.Cut(line, " ")
	if err != nil {
		t.Errorf("ui doesn't say where the page is: %q, %v\n%s", line, err, stderr.String())
	} else if response, err := http.Get(address + "v1/status"); err != nil {
		t.Error(err)
	} else {
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it is read
		if status, errStatus := readStatus(w.nodes[1], string(body)); err != nil || errStatus != nil || status.Node != w.nodes[1] {
			t.Errorf("the page has the status %v, %v, %s", err, errStatus, body)
		}
		w.known.Check(t, "the page's status", body)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ui ends with %v\n%s", err, stderr.String())
	}
}

// pluginPing shows that pods can ping where the node lets everybody, and say what to do where it doesn't.
func (w *world) pluginPing(t *testing.T, kubectl func(...string) (string, int)) {
	allow := func(groups string) {
		for _, node := range w.nodes {
			w.on(t, node, "sysctl", "-qw", "net.ipv4.ping_group_range="+groups)
		}
	}
	defer allow("1 0")
	allow("1 0")
	if text, code := kubectl("ping", "--node", w.nodes[0]); code != 2 || !strings.Contains(text, "net.ipv4.ping_group_range") {
		t.Errorf("ping, where it isn't allowed, ends with %d:\n%s", code, text)
	}
	allow("0 2147483647")
	if text, code := kubectl("ping", "--matrix", "--interval", "20ms"); code != 0 || strings.Count(text, " ms") != len(w.nodes)*(len(w.nodes)-1) {
		t.Errorf("the matrix of pings, where that is allowed, ends with %d:\n%s", code, text)
	} else {
		t.Logf("the times of pings through the tunnels:\n%s", text)
	}
}

// pluginReport shows that a report of a pod is whole, and has no secret.
func (w *world) pluginReport(t *testing.T, kubectl func(...string) (string, int)) {
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	if text, code := kubectl("report", "--node", w.nodes[0], "--file", path); code != 0 {
		t.Fatalf("report ends with %d:\n%s", code, text)
	}
	archive, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	_, files, err := report.Read(archive)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"status.txt": "healthy: 2 of 2 peers are up", "wg.txt": "(" + w.nodes[1] + ")", "links.txt": "weave-wg0", "routes.txt": "proto 213",
		"nftables.txt": "chain ", "sysctls.txt": "net/ipv4/ip_forward = 1", "agent.log": "weaveguard-agent starts",
		"cni/05-weaveguard.conflist": "weaveguard-portmap",
	} {
		i := slices.IndexFunc(files, func(f report.File) bool { return f.Name == name })
		if i < 0 || !strings.Contains(string(files[i].Text), want) {
			t.Errorf("the report's %s lacks %q: %v", name, want, files)
		}
	}
	for _, f := range files {
		w.known.Check(t, f.Name+" of the report", f.Text)
	}
}

// pluginCommand runs `kubectl weaveguard` as an operator does, and returns what it says and its exit status.
func (w *world) pluginCommand(t *testing.T) func(args ...string) (string, int) {
	t.Helper()
	program := w.pluginProgram(t)
	return func(args ...string) (string, int) {
		t.Helper()
		cmd := program(args...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("kubectl weaveguard %s: %v", strings.Join(args, " "), err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
}

// pluginProgram is `kubectl weaveguard`, to be started. It ends with the test.
func (w *world) pluginProgram(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	plugins := t.TempDir()
	if err := os.Symlink(buildProgram(t, "./cmd/weaveguard"), filepath.Join(plugins, "kubectl-weaveguard")); err != nil {
		t.Fatal(err)
	}
	path := root(t).Programs()
	return func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(path, "kubectl"), append([]string{"weaveguard"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+plugins+":"+path+":"+os.Getenv("PATH"), "KUBECONFIG="+w.Kubeconfig())
		return cmd
	}
}
