// Package imports holds the rule of who may import whom. A package of the product may import only those in the
// rows above its own, and of other modules only what its row names.
package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weaveguard/weaveguard"

// row is one package, with those below it in the tree where there is a slash and dots behind.
type row struct {
	name    string
	modules []string // prefixes of the import paths from other modules
	adapter bool     // adapters never import each other
}

// rows are in order: each may import those above it.
var rows = []row{
	{name: "keys", modules: []string{"golang.zx2c4.com/wireguard/wgctrl/wgtypes", "golang.org/x/sys", "github.com/google/renameio"}},
	{name: "mesh/record", modules: []string{"github.com/fxamacker/cbor"}},
	{name: "mesh/contract"},
	{name: "mesh/view"},
	{name: "mesh/ui"},
	{name: "mesh/aside"},
	{name: "mesh/backoff"},
	{name: "mesh/claim"},
	{name: "mesh/doctor"},
	{name: "mesh/plan"},
	{name: "cni/poll", modules: []string{"golang.org/x/sys"}},
	{name: "cni/store", modules: []string{"golang.org/x/sys", "github.com/google/renameio"}},
	{name: "cni/guard", modules: []string{"github.com/google/nftables", "github.com/mdlayher/netlink", "golang.org/x/sys"}},
	{name: "cni/port", modules: []string{"github.com/vishvananda/netlink", "golang.org/x/sys"}},
	{name: "mesh/gossip", adapter: true, modules: []string{"github.com/hashicorp/memberlist", "github.com/hashicorp/go-msgpack", "github.com/fxamacker/cbor", "golang.org/x"}},
	{name: "mesh/tunnel/userspace", modules: []string{"golang.zx2c4.com/wireguard", "golang.org/x"}},
	{name: "mesh/tunnel", adapter: true, modules: []string{"golang.zx2c4.com/wireguard", "golang.org/x/sys"}},
	{name: "mesh/route", adapter: true, modules: []string{"github.com/vishvananda/netlink", "golang.org/x/sys"}},
	{name: "mesh/firewall", adapter: true, modules: []string{"github.com/google/nftables", "github.com/mdlayher/netlink", "golang.org/x/sys"}},
	{name: "mesh/path", adapter: true},
	{name: "mesh/inspect", adapter: true, modules: []string{"github.com/google/nftables", "github.com/vishvananda/netlink", "github.com/prometheus/procfs", "golang.zx2c4.com/wireguard/wgctrl", "golang.org/x"}},
	{name: "mesh/weavenet", adapter: true, modules: []string{"github.com/google/nftables", "github.com/vishvananda/netlink", "github.com/prometheus/procfs", "golang.org/x/sys"}},
	{name: "mesh/kube", adapter: true, modules: []string{"k8s.io", "sigs.k8s.io/yaml", "golang.org/x/time", "github.com/go-logr/logr"}},
	{name: "mesh/attach", adapter: true, modules: []string{"github.com/fsnotify/fsnotify", "github.com/google/renameio", "github.com/containernetworking/cni", "golang.org/x/sys"}},
	{name: "mesh/netconf", adapter: true, modules: []string{"github.com/containernetworking/cni", "github.com/fsnotify/fsnotify", "github.com/google/renameio"}},
	{name: "mesh/api", adapter: true, modules: []string{"github.com/prometheus", "golang.org/x"}},
	{name: "mesh", modules: []string{"github.com/google/renameio", "golang.org/x/time"}},
	{name: "cni/ipam"},
	{name: "cni/bridge", modules: []string{"github.com/vishvananda", "github.com/containernetworking", "golang.org/x/sys"}},
	{name: "cni", modules: []string{"github.com/containernetworking", "golang.org/x/sys"}},
	{name: "cmd/weaveguard-cni", modules: []string{"github.com/containernetworking"}},
	{name: "cmd/weaveguard", modules: []string{"github.com/spf13", "github.com/containernetworking/cni", "github.com/dustin/go-humanize", "sigs.k8s.io/yaml",
		"golang.zx2c4.com/wireguard/wgctrl", "github.com/vishvananda/netlink", "github.com/google/nftables", "golang.org/x"}},
	{name: "cmd/weaveguard-agent", modules: []string{"github.com/spf13", "k8s.io/api", "k8s.io/apimachinery", "golang.org/x"}},
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,Standard"}, args...)...)
	cmd.Dir = "../.."
	stdout, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(stdout))); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// place finds the row of a package of ours: the exact name, or the longest one that it lies below.
func place(path string) int {
	name := strings.TrimPrefix(path, module+"/")
	for name != "" {
		if i := slices.IndexFunc(rows, func(r row) bool { return r.name == name }); i >= 0 {
			return i
		}
		cut := strings.LastIndex(name, "/")
		if cut < 0 {
			return -1
		}
		name = name[:cut]
	}
	return -1
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for _, p := range list(t, "./keys/...", "./mesh/...", "./cni/...", "./cmd/...") {
		at := place(p.ImportPath)
		if at < 0 {
			t.Errorf("%s has no row: give it one", p.ImportPath)
			continue
		}
		seen[at] = true
		for _, imported := range p.Imports {
			if why := forbidden(at, imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
	for i, r := range rows {
		if !seen[i] {
			t.Errorf("the row of %s has no package", r.name)
		}
	}
}

// forbidden says why the row at may not import a package, or nothing.
func forbidden(at int, imported string) string {
	if imported == module || strings.HasPrefix(imported, module+"/") {
		to := place(imported)
		switch {
		case to == at:
			return ""
		case to < 0:
			return "it isn't a package of the product"
		case to > at:
			return "it is in a row below"
		case rows[at].adapter && rows[to].adapter:
			return "adapters never import each other"
		case rows[to].name == "mesh/tunnel/userspace" && !strings.HasPrefix(rows[at].name, "cmd/"):
			return "only a command may wire it in"
		}
		return ""
	}
	if !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
		return "" // the standard library
	}
	for _, prefix := range rows[at].modules {
		if imported == prefix || strings.HasPrefix(imported, prefix+"/") {
			return ""
		}
	}
	return "its row doesn't name that module"
}

// What the container runtime starts for each pod, and what operators run by hand, must stay small.
func TestSmallProgramsLinkNoClientGo(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "./cmd/weaveguard-cni", "./cmd/weaveguard") {
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "k8s.io/") || strings.HasPrefix(dep, "github.com/hashicorp/memberlist") {
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
		}
	}
}

// Of this module the plugin links what attaches pods, and the names that it shares with the agent, and nothing of the CNI project's
// plugins: what else it had, each pod would wait for (docs/decisions/0025-the-plugin-searches-by-itself.md).
func TestPluginLinksLittle(t *testing.T) {
	t.Parallel()
	const module = "github.com/weaveguard/weaveguard/"
	for _, p := range list(t, "./cmd/weaveguard-cni") {
		for _, dep := range p.Deps {
			own, ok := strings.CutPrefix(dep, module)
			if strings.HasPrefix(dep, "github.com/containernetworking/plugins") {
				t.Errorf("%s links %s", p.ImportPath, dep)
			}
			if ok && own != "cni" && !strings.HasPrefix(own, "cni/") && own != "mesh/contract" {
				t.Errorf("%s links %s", p.ImportPath, own)
			}
		}
	}
}

// The product speaks to the kernel by itself: it never runs ip, wg, nft or anything else. The operator's CLI alone runs
// something: kubectl, with the operator's own rights, and journalctl, for the agent's log in a report.
func TestProductRunsNoPrograms(t *testing.T) {
	t.Parallel()
	const cli = "github.com/weaveguard/weaveguard/cmd/weaveguard"
	for _, p := range list(t, "./keys/...", "./mesh/...", "./cni/...", "./cmd/...") {
		// What a package gives to tests is no part of the product.
		if slices.Contains(p.Imports, "os/exec") && !strings.HasSuffix(p.ImportPath, "test") && p.ImportPath != cli {
			t.Errorf("%s imports os/exec", p.ImportPath)
		}
	}
}
