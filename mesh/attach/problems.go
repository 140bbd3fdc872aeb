package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// Problems returns what keeps pods from being attached by Weaveguard although the files stand: configurations of
// other CNIs that the runtime takes first, and plugins that are nowhere; and, as the last Apply found them, pods on networks
// that this node doesn't have, or with addresses that it doesn't have any more.
func (a *Attach) Problems() []view.Problem {
	var problems []view.Problem
	if left := a.left.Load(); left != nil {
		problems = slices.Clone(*left)
	}
	if a.cfg.PluginDir == "" {
		return problems
	}
	if names := a.missing(); len(names) > 0 {
		problems = append(problems, view.Problem{
			Subject: "CNI plugins",
			Message: fmt.Sprintf("%s is neither in %s nor in %s, so no pod can be attached",
				strings.Join(names, " and "), a.cfg.PluginDir, a.cfg.BinDir),
			Remedy: "give the agent the directory that has them with --plugin-dir, or an empty one (--plugin-dir=) on " +
				"a host without pods",
		})
	}
	return append(problems, a.rivals()...)
}

// rivals returns a problem for each configuration that sorts before ours: a runtime takes the first one.
func (a *Attach) rivals() []view.Problem {
	entries, err := os.ReadDir(a.cfg.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []view.Problem{{
			Subject: a.cfg.ConfDir,
			Message: fmt.Sprintf("other network configurations aren't known: %v", err),
			Remedy:  remedy(err),
		}}
	}
	var problems []view.Problem
	for _, entry := range entries {
		if entry.IsDir() || entry.Name() >= ConflistName || !isConfiguration(entry.Name()) {
			continue
		}
		path := filepath.Join(a.cfg.ConfDir, entry.Name())
		problems = append(problems, view.Problem{
			Subject: path,
			Message: fmt.Sprintf("the container runtime uses this configuration%s and not Weaveguard's %s, because it "+
				"sorts first", networkOf(path), ConflistName),
			Remedy: fmt.Sprintf("remove the other CNI, or move the file away: mv %s %s.disabled", path, path),
		})
	}
	return problems
}

// isConfiguration reports whether runtimes load a file of this name (libcni's ConfFiles).
func isConfiguration(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// networkOf names the network that a configuration file is for, as far as that can be read. It is another CNI's file, and
// may be anything: a usual one has a few hundred bytes, and a name of a few words.
func networkOf(path string) string {
	const maxFile, maxName = 1 << 20, 100
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, maxFile))
	var named struct {
		Name string `json:"name"`
	}
	if err != nil || json.Unmarshal(b, &named) != nil || named.Name == "" || len(named.Name) > maxName {
		return ""
	}
	return fmt.Sprintf(" (network %q)", named.Name)
}

// remedy says what to do about an error of the file system.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "mount the directory into the agent's container writable (a hostPath volume, without readOnly)"
	case errors.Is(err, fs.ErrPermission):
		return "run the agent as root, and check the owner and mode of the directory"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on that file system"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return "move away what is in the place of the file or directory"
	}
	return "check the directory on this node"
}
