package mesh_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Keys and cache that somebody removes under a running agent are told of at once, stay away for a while, as somebody may want that,
// and come back without anything else that happens; told and counted as a repair.
func TestRemovedFilesComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dir := t.TempDir()
		store, err := keys.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		w.self.store, w.config.Keys, w.config.CachePath = store, store, filepath.Join(dir, contract.CacheFile)
		w.cluster.set(w.self.node())
		a := w.start(t)
		defer a.stop()
		files := []string{filepath.Join(dir, keys.FileName), w.config.CachePath}
		before := map[string]string{}
		for _, path := range files {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			before[path] = string(raw)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		s := a.pass()
		if !slices.ContainsFunc(s.Problems, func(p view.Problem) bool {
			return strings.Contains(p.Message, files[0]) && strings.Contains(p.Message, files[1]) && p.Warning
		}) {
			t.Errorf("problems %v, want one about %v", s.Problems, files)
		}
		time.Sleep(20 * time.Second)
		for _, path := range files {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s is back at once", path)
			}
		}
		time.Sleep(15 * time.Second)
		for _, path := range files {
			if raw, err := os.ReadFile(path); err != nil || string(raw) != before[path] {
				t.Errorf("%s has %q, %v; want %q", path, raw, err, before[path])
			}
		}
		s = a.pass()
		if len(s.Problems) > 0 || s.Counters.RepairsByKind["key store"] < 1 || s.Counters.RepairsByKind["view cache"] != 1 {
			t.Errorf("problems %v, repairs %v", s.Problems, s.Counters.RepairsByKind)
		}
		if log := w.log.String(); strings.Count(log, "repaired: somebody changed") != 1 || !strings.Contains(log, "writing "+files[0]) {
			t.Errorf("the log doesn't tell of the repair once:\n%s", log)
		}
	})
}
