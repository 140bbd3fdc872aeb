package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
)

// Favour has the container on a node that runs a command go before all else on the machine's processors. It
// is for what carries packets that a test counts: without processor time its queues overflow, which looks
// like a lossy network. (Niceness doesn't help: it counts within a container only.)
func (c *Cluster) Favour(ctx context.Context, node string, command ...string) error {
	state, err := c.state(ctx)
	if err != nil {
		return err
	}
	hierarchies, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	top := state.Spec.Group()
	weighted := false
	for _, h := range hierarchies {
		dir := cgroups.Find(h.Dir(filepath.Join(top, node)), func(pid int) bool { return runs(pid, command) })
		if dir == "" {
			return fmt.Errorf("no process on %s runs %q", node, command)
		}
		has, err := h.Favour(top, dir)
		if err != nil {
			return fmt.Errorf("favour %q on %s: %w", command, node, err)
		}
		weighted = weighted || has
	}
	if !weighted {
		return fmt.Errorf("favour %q on %s: no cgroup hierarchy gives out processor time", command, node)
	}
	return nil
}

// runs tells whether a process was started by a command.
func runs(pid int, command []string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && string(line) == strings.Join(command, "\x00")+"\x00"
}
