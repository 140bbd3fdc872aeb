package attach

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const pluginMode = 0o755

func plugins() []string { return []string{plugin, portmapPlugin} }

// stamp tells whether a file may have changed since it was read.
type stamp struct {
	inode    uint64
	size     int64
	modified time.Time
	mode     fs.FileMode
}

// pair is a plugin in the image and on the host.
type pair struct{ source, target stamp }

// installPlugins copies the plugins whose content differs, and returns how many.
func (a *Attach) installPlugins(ctx context.Context) (int, error) {
	if a.cfg.PluginDir == "" {
		return 0, nil
	}
	writes := 0
	for _, name := range plugins() {
		written, err := a.installPlugin(name)
		if err != nil {
			return writes, fmt.Errorf("installing the plugin %s in %s: %w; %s", name, a.cfg.BinDir, err, remedy(err))
		}
		if written {
			writes++
			a.cfg.Log.DebugContext(ctx, "CNI plugin installed", "path", filepath.Join(a.cfg.BinDir, name))
			view.Changed(ctx, "installing "+filepath.Join(a.cfg.BinDir, name))
		}
	}
	return writes, nil
}

func (a *Attach) installPlugin(name string) (written bool, err error) {
	from, to := filepath.Join(a.cfg.PluginDir, name), filepath.Join(a.cfg.BinDir, name)
	source, err := stampOf(from)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // see missing
	}
	if err != nil {
		return false, err
	}
	target, err := stampOf(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil && a.seen[name] == (pair{source, target}) {
		return false, nil
	}
	same := err == nil && source.size == target.size && target.mode == pluginMode
	if same {
		if same, err = sameContent(from, to); err != nil {
			return false, err
		}
	}
	if !same {
		if err := copyFile(from, to); err != nil {
			return false, err
		}
		if target, err = stampOf(to); err != nil {
			return true, err
		}
	}
	a.seen[name] = pair{source, target}
	return !same, nil
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	s := stamp{size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s, nil
}

func sameContent(a, b string) (bool, error) {
	sumA, err := digest(a)
	if err != nil {
		return false, err
	}
	sumB, err := digest(b)
	return bytes.Equal(sumA, sumB), err
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return hash.Sum(nil), nil
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return replaceFile(to, pluginMode, f)
}

// replaceFile makes the file appear, or change, at once and wholly, and makes its directory if need be.
func replaceFile(path string, mode fs.FileMode, content io.Reader) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The temporary file has a dot before its name and digits behind: runtimes don't take it for a configuration.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	return nil
}

// missing returns the plugins that are neither on the host nor to be had.
func (a *Attach) missing() []string {
	var names []string
	for _, name := range plugins() {
		_, sourceErr := os.Stat(filepath.Join(a.cfg.PluginDir, name))
		_, targetErr := os.Stat(filepath.Join(a.cfg.BinDir, name))
		if errors.Is(sourceErr, fs.ErrNotExist) && errors.Is(targetErr, fs.ErrNotExist) {
			names = append(names, name)
		}
	}
	return names
}

// removePlugins also removes what an agent that was killed while it copied left behind.
func (a *Attach) removePlugins() error {
	var errs []error
	for _, name := range plugins() {
		left, err := filepath.Glob(filepath.Join(a.cfg.BinDir, "."+name+"[0-9]*"))
		errs = append(errs, err)
		for _, path := range append(left, filepath.Join(a.cfg.BinDir, name)) {
			_, err := remove(path)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
