package attach_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/output"
)

// host returns the paths of a host, and of an image that has both plugins.
func host(t *testing.T) attach.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := attach.Config{
		ReadyFile: filepath.Join(dir, "run", "cni.json"),
		ConfDir:   filepath.Join(dir, "net.d"),
		BinDir:    filepath.Join(dir, "bin"),
		PluginDir: filepath.Join(dir, "image"),
		StoreDir:  filepath.Join(dir, "run", "cni"),
		Log:       slog.New(slog.DiscardHandler),
	}
	write(t, filepath.Join(cfg.PluginDir, "weaveguard"), "plugin 1")
	write(t, filepath.Join(cfg.PluginDir, "weaveguard-portmap"), "portmap 1")
	return cfg
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func ready() *view.Ready {
	return &view.Ready{
		Bridge:   "weave",
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.32.5.0/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.32.5.1")},
		MTU:      1420,
	}
}

func apply(t *testing.T, a *attach.Attach, ready *view.Ready, writes int) {
	t.Helper()
	got, err := a.Apply(t.Context(), ready)
	if err != nil {
		t.Fatal(err)
	}
	if got != writes {
		t.Errorf("Apply wrote %d files, want %d", got, writes)
	}
}

// state is all files below the host's directories: content, mode and what changes with a write.
type state struct {
	Content  string
	Mode     fs.FileMode
	Inode    uint64
	Modified time.Time
}

func states(t *testing.T, dir string) map[string]state {
	t.Helper()
	all := make(map[string]state)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = state{string(content), fs.FileMode(stat.Mode & 0o7777), stat.Ino, time.Unix(stat.Mtim.Unix())}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const conflist = `{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "0.3.1",
    "0.4.0",
    "1.0.0",
    "1.1.0"
  ],
  "name": "weaveguard",
  "plugins": [
    {
      "type": "weaveguard",
      "capabilities": {
        "ips": true,
        "mac": true
      },
      "dataDir": "RUN/cni",
      "readyFile": "RUN/cni.json"
    },
    {
      "type": "weaveguard-portmap",
      "capabilities": {
        "portMappings": true
      },
      "snat": true
    }
  ]
}
`

func TestApply(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, ready(), 4)

	run := filepath.Dir(cfg.ReadyFile)
	written := states(t, filepath.Dir(run))
	got := make(map[string]state)
	for name, s := range written {
		got[name] = state{Content: s.Content, Mode: s.Mode}
	}
	want := map[string]state{
		"image/weaveguard":             {Content: "plugin 1", Mode: 0o644},
		"image/weaveguard-portmap":     {Content: "portmap 1", Mode: 0o644},
		"bin/weaveguard":               {Content: "plugin 1", Mode: 0o755},
		"bin/weaveguard-portmap":       {Content: "portmap 1", Mode: 0o755},
		"net.d/05-weaveguard.conflist": {Content: strings.ReplaceAll(conflist, "RUN", run), Mode: 0o644},
		"run/cni.json": {
			Content: `{"version":1,"bridge":"weave","subnets":["10.32.5.0/24"],"gateways":["10.32.5.1"],"mtu":1420}` + "\n",
			Mode:    0o644,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}

	apply(t, a, ready(), 0)
	apply(t, attach.New(cfg), ready(), 0) // an agent that starts again
	if diff := cmp.Diff(written, states(t, filepath.Dir(run))); diff != "" {
		t.Errorf("a second Apply touched files (-before +after):\n%s", diff)
	}
}

func TestApplyRepairs(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, ready(), 4)

	bigger := ready()
	bigger.MTU = 8940
	apply(t, a, bigger, 1)
	if got, err := store.ReadReady(cfg.ReadyFile); err != nil || got.MTU != 8940 {
		t.Errorf("the ready file has MTU %d, %v; want 8940", got.MTU, err)
	}
	for name, breakIt := range map[string]func(path string) error{
		"run/cni.json":                 func(path string) error { return os.WriteFile(path, []byte("{"), 0o644) },
		"net.d/05-weaveguard.conflist": os.Remove,
		"bin/weaveguard":               func(path string) error { return os.WriteFile(path, []byte("plugin 0"), 0o755) },
		"bin/weaveguard-portmap":       func(path string) error { return os.Chmod(path, 0o644) },
	} {
		root := filepath.Dir(cfg.BinDir)
		before := states(t, root)[name]
		if err := breakIt(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		apply(t, a, bigger, 1)
		if after := states(t, root)[name]; after.Content != before.Content || after.Mode != before.Mode {
			t.Errorf("%s is %q, mode %v; want what it was before", name, after.Content, after.Mode)
		}
	}
}

// An upgrade replaces a plugin of the same size, also while the runtime runs the old one.
func TestUpgrade(t *testing.T) {
	cfg := host(t)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(cfg.PluginDir, "weaveguard"), string(sleep))
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	installed := filepath.Join(cfg.BinDir, "weaveguard")
	running := exec.CommandContext(t.Context(), installed, "600")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = running.Process.Kill(), running.Wait() })

	sleep[len(sleep)-1]++
	write(t, filepath.Join(cfg.PluginDir, "weaveguard"), string(sleep))
	apply(t, a, ready(), 1)
	if got, err := os.ReadFile(installed); err != nil || string(got) != string(sleep) {
		t.Errorf("the new plugin isn't installed: %v", err)
	}
}

func TestNotReady(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, nil, 0)
	if got := states(t, filepath.Dir(cfg.BinDir)); len(got) != 2 {
		t.Errorf("before the node is ready there are %d files, want those of the image only: %v", len(got), got)
	}
	apply(t, a, ready(), 4)
	apply(t, a, nil, 1)
	if _, err := os.Stat(cfg.ReadyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the ready file: %v, want none", err)
	}
	for _, path := range []string{
		filepath.Join(cfg.ConfDir, attach.ConflistName), filepath.Join(cfg.BinDir, "weaveguard"), // to detach with
	} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	apply(t, a, nil, 0)
	apply(t, a, ready(), 1)
}

// What comes later needs what comes first.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		blocked func(attach.Config) string
		stands  []string // names below the host's directory
		remedy  string
	}{
		{func(c attach.Config) string { return c.BinDir }, nil, "move away"},
		{func(c attach.Config) string { return filepath.Dir(c.ReadyFile) }, []string{"bin/weaveguard", "bin/weaveguard-portmap"}, "move away"},
		{func(c attach.Config) string { return c.ConfDir }, []string{"bin/weaveguard", "bin/weaveguard-portmap", "run/cni.json"}, "move away"},
	} {
		cfg := host(t)
		blocked := tt.blocked(cfg)
		write(t, blocked, "a file in the place of a directory")
		_, err := attach.New(cfg).Apply(t.Context(), ready())
		if err == nil || !strings.Contains(err.Error(), blocked) || !strings.Contains(err.Error(), tt.remedy) {
			t.Errorf("Apply: %v; want an error that names %s and says what to do", err, blocked)
		}
		root := filepath.Dir(cfg.BinDir)
		var stands []string
		for _, name := range []string{"bin/weaveguard", "bin/weaveguard-portmap", "run/cni.json", "net.d/05-weaveguard.conflist"} {
			if _, err := os.Stat(filepath.Join(root, name)); err == nil {
				stands = append(stands, name)
			}
		}
		if diff := cmp.Diff(tt.stands, stands); diff != "" {
			t.Errorf("without %s there are (-want +got):\n%s", blocked, diff)
		}
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	cfg := host(t)
	if err := os.MkdirAll(cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		// The thread has a mount namespace of its own, which ends with it: it isn't unlocked.
		runtime.LockOSThread()
		err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("none", cfg.ConfDir, "tmpfs", unix.MS_RDONLY, ""),
		)
		if err != nil {
			t.Errorf("mounting a read-only directory (this test needs root): %v", err)
		}
		_, err = attach.New(cfg).Apply(t.Context(), ready())
		ended <- err
	}()
	err := <-ended
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), cfg.ConfDir) || !strings.Contains(err.Error(), "hostPath") {
		t.Errorf("Apply: %v; want an error that names %s and says what to do", err, cfg.ConfDir)
	}
}

func TestHostWithoutPods(t *testing.T) {
	cfg := host(t)
	cfg.PluginDir = ""
	a := attach.New(cfg)
	apply(t, a, ready(), 1) // the ready file
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}

func TestPluginsThatAreNowhere(t *testing.T) {
	cfg := host(t)
	cfg.PluginDir = filepath.Join(t.TempDir(), "empty")
	a := attach.New(cfg)
	apply(t, a, ready(), 1) // the ready file; a conflist would name plugins that don't exist
	problems := a.Problems()
	if len(problems) != 1 || !strings.Contains(problems[0].String(), cfg.PluginDir) || !strings.Contains(problems[0].String(), cfg.BinDir) {
		t.Errorf("problems are %v, want one that names both directories", problems)
	}
	write(t, filepath.Join(cfg.BinDir, "weaveguard"), "from a package")
	write(t, filepath.Join(cfg.BinDir, "weaveguard-portmap"), "from a package")
	apply(t, a, ready(), 1) // the conflist
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
}

func TestRivals(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	for name, content := range map[string]string{
		"10-weave.conflist":             `{"name":"weave"}`, // sorts after ours
		"02-old.conflist.disabled":      `{"name":"old"}`,
		".05-weaveguard.conflist123456": `{"name":"weaveguard"}`,
		"README":                        "text",
	} {
		write(t, filepath.Join(cfg.ConfDir, name), content)
	}
	if problems := a.Problems(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	first := filepath.Join(cfg.ConfDir, "00-multus.conf")
	second := filepath.Join(cfg.ConfDir, "03-broken.json")
	write(t, first, `{"name":"multus-net"}`)
	write(t, second, `{`)
	problems := a.Problems()
	if len(problems) != 2 {
		t.Fatalf("problems are %v, want two", problems)
	}
	if p := problems[0]; p.Subject != first || !strings.Contains(p.Message, `"multus-net"`) || !strings.Contains(p.Remedy, "mv "+first) {
		t.Errorf("the first problem is %v; want path, network and remedy", p)
	}
	if p := problems[1]; p.Subject != second {
		t.Errorf("the second problem is %v; want %s", p, second)
	}
}

// put stores an attachment, and returns what names it.
func put(t *testing.T, dir string) store.ID {
	t.Helper()
	return attached(t, dir, "c1", "10.32.5.2").ID
}

func lock(t *testing.T, s *store.Store) *store.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tx, err := s.Lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestAttachmentsAndCleanup(t *testing.T) {
	cfg := host(t)
	a := attach.New(cfg)
	if got, err := a.Attachments(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("before anything was attached: %v, %v", got, err)
	}
	if _, err := os.Stat(cfg.StoreDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made the store: %v", err)
	}
	apply(t, a, ready(), 4)
	id := put(t, cfg.StoreDir)
	got, err := a.Attachments(t.Context())
	if err != nil || len(got) != 1 || got[0].ID != id {
		t.Fatalf("attachments are %v, %v; want %v", got, err, id)
	}

	before := states(t, filepath.Dir(cfg.BinDir))
	if err := a.Cleanup(t.Context()); !errors.Is(err, attach.ErrAttached) || !strings.Contains(err.Error(), "drain") {
		t.Errorf("Cleanup with a pod attached: %v, want ErrAttached and what to do", err)
	}
	after := states(t, filepath.Dir(cfg.BinDir))
	delete(before, "run/cni.json") // alone is gone
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("with a pod attached Cleanup changed (-want +got):\n%s", diff)
	}

	s, err := store.Open(cfg.StoreDir)
	if err != nil {
		t.Fatal(err)
	}
	tx := lock(t, s)
	if err := errors.Join(tx.Remove(id), tx.Unlock()); err != nil {
		t.Fatal(err)
	}
	apply(t, a, ready(), 1)
	write(t, filepath.Join(cfg.BinDir, ".weaveguard4711"), "left by a killed agent")
	write(t, filepath.Join(cfg.BinDir, "bridge"), "another's")
	write(t, filepath.Join(cfg.ConfDir, "10-weave.conflist"), "another's")
	for range 2 {
		if err := a.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for name := range states(t, filepath.Dir(cfg.BinDir)) {
		names = append(names, name)
	}
	want := []string{"bin/bridge", "image/weaveguard", "image/weaveguard-portmap", "net.d/10-weave.conflist"}
	if diff := cmp.Diff(want, sorted(names)); diff != "" {
		t.Errorf("after Cleanup there are (-want +got):\n%s", diff)
	}
}

// Somebody who removes our files again and again costs the log nothing here: who calls Apply tells of it, within bounds.
func TestRepairsArentLogged(t *testing.T) {
	t.Parallel()
	cfg := host(t)
	var log output.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	for range 10 {
		for _, path := range []string{cfg.ReadyFile, filepath.Join(cfg.ConfDir, attach.ConflistName), filepath.Join(cfg.BinDir, "weaveguard")} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		ctx, changes := view.WithChanges(t.Context())
		if writes, err := a.Apply(ctx, ready()); writes != 3 || err != nil || len(changes.Texts) != 3 {
			t.Fatalf("%d writes, %v, told %v", writes, err, changes.Texts)
		}
	}
	if log.String() != "" {
		t.Errorf("the log has\n%s", log.String())
	}
}
