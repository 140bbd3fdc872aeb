package agents

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/weaveguard/weaveguard/test/internal/previous"
)

// Programs are what an agent is started from.
type Programs struct {
	Agent   string // the program
	Plugins string // the directory of the plugins that it installs
}

// programs are what the node's agent is started from.
func (n *Node) programs() Programs {
	if n.Programs != (Programs{}) {
		return n.Programs
	}
	return n.mesh.programs
}

// portmap is the plugin of the CNI project that hosts' ports are by.
const portmap = "github.com/containernetworking/plugins/plugins/meta/portmap"

// Previous are the programs of the version before this one.
func Previous(t testing.TB) Programs {
	t.Helper()
	dir := previous.Build(t, "./cmd/weaveguard-agent", "./cmd/weaveguard-cni", portmap)
	return Programs{Agent: filepath.Join(dir, "weaveguard-agent"), Plugins: pluginDir(t, map[string]string{
		"weaveguard":         filepath.Join(dir, "weaveguard-cni"),
		"weaveguard-portmap": filepath.Join(dir, "portmap"),
	})}
}

// pluginDir is a directory with programs under the names that the image gives to plugins.
func pluginDir(t testing.TB, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, program := range programs {
		if err := os.Link(program, filepath.Join(dir, name)); err != nil {
			data, err := os.ReadFile(program)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}
