package cni_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// installed is what the agent puts on a node for the container runtime.
type installed struct{ conflist, plugins string }

// install makes a node ready as the agent does.
func (n *node) install() installed {
	n.Helper()
	n.guardNode()
	buildPlugins(n, "meta/portmap")
	dir := n.TempDir()
	image := filepath.Join(dir, "image")
	for name, source := range map[string]string{"weaveguard": "weaveguard", "weaveguard-portmap": "portmap"} {
		if out, err := exec.Command("install", "-D", filepath.Join(binDir, source), filepath.Join(image, name)).CombinedOutput(); err != nil {
			n.Fatalf("%v: %s", err, out)
		}
	}
	config := attach.Config{
		ReadyFile: filepath.Join(dir, "cni.json"), ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"),
		PluginDir: image, StoreDir: n.dataDir, Log: slog.New(slog.DiscardHandler),
	}
	ready := &view.Ready{
		Bridge: contract.BridgeName, MTU: 1420,
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.32.5.0/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.32.5.1")},
	}
	if _, err := attach.New(config).Apply(n.Context(), ready); err != nil {
		n.Fatal(err)
	}
	return installed{conflist: filepath.Join(config.ConfDir, attach.ConflistName), plugins: config.BinDir}
}

// attached is a result as libcni gives it, in the version that the runtime asked for.
type attached struct {
	CNIVersion string
	IPs        []struct{ Address netip.Prefix }
}

// The agent's conflist by the libcni of containerd 1.6, and by the newest: each attaches, checks and detaches by it, in the
// latest version of the spec that it knows.
func TestRuntimesOldAndNew(t *testing.T) {
	tests := []struct {
		name, version string
		run           func(t *testing.T, n *node, i installed, sandbox ns.NetNS) []byte
	}{
		{"containerd 1.6", "1.0.0", byOldLibcni},
		{"the newest", "1.1.0", byNewLibcni},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			out := tt.run(t, n, n.install(), newNS(t))
			var result attached
			if err := json.Unmarshal(out, &result); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if result.CNIVersion != tt.version || len(result.IPs) != 1 || result.IPs[0].Address.Addr() != netip.MustParseAddr("10.32.5.2") {
				t.Errorf("the result is %s, want version %s and an address", out, tt.version)
			}
			n.wantNoLeftovers()
		})
	}
}

func byOldLibcni(t *testing.T, n *node, i installed, sandbox ns.NetNS) []byte {
	program := filepath.Join(t.TempDir(), "oldlibcni")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../test/oldlibcni"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the old libcni: %v\n%s", err, out)
	}
	var out, complaint bytes.Buffer
	err := n.ns.Do(func(ns.NetNS) error {
		cmd := exec.Command(program, "-conflist", i.conflist, "-plugins", i.plugins, "-cache", t.TempDir(), "-netns", sandbox.Path())
		cmd.Stdout, cmd.Stderr = &out, &complaint
		return cmd.Run()
	})
	if err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	return out.Bytes()
}

func byNewLibcni(t *testing.T, n *node, i installed, sandbox ns.NetNS) []byte {
	list, err := libcni.NetworkConfFromFile(i.conflist)
	if err != nil {
		t.Fatal(err)
	}
	r := &runtime{node: n, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{i.plugins}, t.TempDir(), nil)}
	a := attachment("new", sandbox)
	result, err := r.add(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.check(a); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := r.del(a); err != nil {
			t.Error(err)
		}
	}
	out, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
