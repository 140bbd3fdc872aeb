package attach_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/attach"
)

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// load applies cfg, and loads the conflist as runtimes with a libcni of today do.
func load(t *testing.T, cfg attach.Config) *libcni.NetworkConfigList {
	t.Helper()
	if _, err := attach.New(cfg).Apply(t.Context(), ready()); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.NetworkConfFromFile(filepath.Join(cfg.ConfDir, attach.ConflistName))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRuntimesTakeTheConflist(t *testing.T) {
	list := load(t, host(t))
	if list.Name != "weaveguard" || list.CNIVersion != "1.1.0" || len(list.Plugins) != 2 {
		t.Fatalf("libcni sees network %q, version %s, %d plugins", list.Name, list.CNIVersion, len(list.Plugins))
	}
	if got := list.Plugins[0].Network.Type; got != "weaveguard" {
		t.Errorf("the first plugin is %s", got)
	}
	second := list.Plugins[1].Network
	if second.Type != "weaveguard-portmap" || !second.Capabilities["portMappings"] {
		t.Errorf("the second plugin is %s with %v", second.Type, second.Capabilities)
	}
	// A libcni before 1.3 reads this version and no other.
	var old struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(list.Bytes, &old); err != nil || old.CNIVersion != "1.0.0" {
		t.Errorf("an old libcni sees version %q, %v; want 1.0.0", old.CNIVersion, err)
	}
}

// A conflist on a usual host leaves the plugin its defaults.
func TestConflistNamesUnusualPathsOnly(t *testing.T) {
	cfg := host(t)
	unusual := load(t, cfg)
	for _, path := range []string{cfg.ReadyFile, cfg.StoreDir} {
		if !strings.Contains(string(unusual.Plugins[0].Bytes), path) {
			t.Errorf("the plugin isn't told of %s: %s", path, unusual.Plugins[0].Bytes)
		}
	}

	cfg = host(t) // its ready file stays where a test may write
	cfg.StoreDir = store.DefaultDir
	usual := load(t, cfg)
	if strings.Contains(string(usual.Plugins[0].Bytes), "dataDir") {
		t.Errorf("the plugin is told of its own default: %s", usual.Plugins[0].Bytes)
	}
}

// The log has a line for debugging for what was opened, and none when nothing changed.
func TestLog(t *testing.T) {
	var log strings.Builder
	cfg := host(t)
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	if got := strings.Count(log.String(), "\n"); got != 4 {
		t.Errorf("%d lines, want one for each file:\n%s", got, log.String())
	}
	apply(t, a, ready(), 0)
	if got := strings.Count(log.String(), "\n"); got != 4 {
		t.Errorf("a pass without a change logged:\n%s", log.String())
	}
	if _, err := os.Stat(cfg.ReadyFile); err != nil {
		t.Error(err)
	}
}
