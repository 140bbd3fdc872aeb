package vm_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/vm"
)

// TestSystemd has a real systemd run the services of plain hosts, confined as their units say, over the kernel's WireGuard, and where
// tests run in full in userspace too. The machine's files have to have systemd.
func TestSystemd(t *testing.T) {
	what := "kernel"
	if full.Wanted() {
		what = "all"
	}
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	for _, pkg := range []string{
		"./cmd/weaveguard-agent", "./cmd/weaveguard", "./cmd/weaveguard-cni", "github.com/containernetworking/plugins/plugins/meta/portmap",
	} {
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(programs, filepath.Base(pkg)), pkg)
		build.Dir, build.Env = root, append(build.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var said strings.Builder
	script := filepath.Join(root, "test", "vm", "testdata", "systemd.sh")
	code, err := vm.Run(ctx, vm.Options{Log: &said}, []string{"bash", script, programs, filepath.Join(root, "deploy", "systemd"), what})
	if err != nil || code != 0 || !strings.Contains(said.String(), "all is well") {
		t.Errorf("exit code %d, %v\n%s", code, err, said.String())
	}
}
