package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
)

func TestGC(t *testing.T) {
	n := newNode(t)
	sandboxes := make(map[string]ns.NetNS)
	for _, c := range []string{"valid", "stale", "gone"} {
		sandboxes[c] = newNS(t)
		n.add(c, sandboxes[c], nil)
	}
	other := newNS(t)
	n.add("other", other, map[string]any{"name": "another-network"})
	before := n.leftovers()
	if _, err := n.run(call{verb: "GC", stdin: n.config(nil)}); err != nil {
		t.Fatal(err)
	}
	if after := n.leftovers(); len(after) != len(before) {
		t.Errorf("GC without a list of what is valid left %v of %v", after, before)
	}
	closeNS(sandboxes["gone"])
	_, err := n.run(call{verb: "GC", stdin: n.config(map[string]any{
		"cni.dev/valid-attachments": []map[string]string{{"containerID": "valid", "ifname": "eth0"}, {"containerID": "stale", "ifname": "net1"}},
	})})
	if err != nil {
		t.Fatal(err)
	}
	n.del("valid", "")
	if found := n.leftovers(); len(found) != 3 { // interface, attachment and address of the other network
		t.Errorf("GC left %v, want what is of another network", found)
	}
	n.fails(call{verb: "GC", stdin: n.config(map[string]any{"cniVersion": "1.0.0"})}, 1, "cniVersion")
}

// However many attachments GC collects, it has few processes that remove devices at a time.
func TestGCHasFewProcesses(t *testing.T) {
	const attachments, few = 40, 8
	n := newNode(t)
	for i := range attachments {
		n.add(fmt.Sprint("c", i), newNS(t), nil)
	}
	cmd := n.command(call{verb: "GC", stdin: n.config(map[string]any{"cni.dev/valid-attachments": []any{}})})
	if err := n.ns.Do(func(ns.NetNS) error { return cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for most := 0; ; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			n.wantNoLeftovers()
			if most > few {
				t.Errorf("it had %d processes at a time that remove devices", most)
			}
			return
		default:
			most = max(most, children(cmd.Process.Pid))
		}
	}
}

// children counts the running children of a process.
func children(parent int) int {
	count := 0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		pids, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(pids)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err == nil && !strings.Contains(string(stat), ") Z ") { // a zombie costs nothing but its number
				count++
			}
		}
	}
	return count
}
