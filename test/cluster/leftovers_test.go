package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster"
)

// clusterState is what these tests need to know of a cluster's state file.
type clusterState struct {
	SupervisorPID int
	Hosts         []struct{ PID int }
}

func stateOf(t *testing.T, c *cluster.Cluster) clusterState {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(c.Kubeconfig()), "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state clusterState
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(err)
	}
	return state
}

func supervisorOf(t *testing.T, c *cluster.Cluster) int { return stateOf(t, c).SupervisorPID }

// traces are the namespaces that a cluster's hosts live in: "net:[4026531840]" and so on. They are held open until the test ends, so
// that nobody else gets one of that number.
func traces(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	var all []string
	for _, host := range stateOf(t, c).Hosts {
		if host.PID == 0 {
			continue
		}
		for _, kind := range []string{"net", "mnt", "pid_for_children"} {
			path := fmt.Sprintf("/proc/%d/ns/%s", host.PID, kind)
			name, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			held, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = held.Close() })
			all = append(all, name)
		}
	}
	if len(all) < 3*4 {
		t.Fatalf("the cluster has only the namespaces %v", all)
	}
	return all
}

// expectNothing waits until nothing is left of a cluster: no process, namespace, mount, cgroup or
// file.
func expectNothing(t *testing.T, name string, namespaces []string) {
	t.Helper()
	err := cluster.Poll(t.Context(), time.Minute, "nothing is left of cluster "+name, func(context.Context) error {
		var left []string
		left = append(left, processesOf(name, namespaces)...)
		left = append(left, mountsOf(name)...)
		left = append(left, groupsOf(name)...)
		dirs, _ := filepath.Glob("../../build/cluster/" + name)
		left = append(left, dirs...)
		if len(left) > 0 {
			return fmt.Errorf("left: %s", strings.Join(left, "; "))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// processesOf finds processes by what they run, and by the namespaces that they live in.
func processesOf(name string, namespaces []string) []string {
	var found []string
	proc, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range proc {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		command := strings.ReplaceAll(string(cmdline), "\x00", " ")
		lives := strings.Contains(command, "/build/cluster/"+name+"/")
		for _, kind := range []string{"net", "mnt", "pid"} {
			ns, _ := os.Readlink(filepath.Join(dir, "ns", kind))
			lives = lives || slices.Contains(namespaces, ns)
		}
		if lives {
			found = append(found, fmt.Sprintf("process %s (%s)", filepath.Base(dir), command))
		}
	}
	return found
}

func mountsOf(name string) []string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/build/cluster/"+name+"/") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	return found
}

func groupsOf(name string) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), "weaveguard-test-"+name+"-") {
			found = append(found, "cgroup "+path)
			return fs.SkipDir
		}
		return nil
	})
	return found
}
