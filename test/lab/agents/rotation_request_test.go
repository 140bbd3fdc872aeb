package agents_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// What an operator asks for with the CLI, and what comes of it on a disk that can't be written.
func TestRotationRequests(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	n := m.Nodes[0]
	cli := lab.Build(t, "./cmd/weaveguard")
	if out, err := n.Run(t.Context(), cli, "rotate", "--force"); !complains(err, "nothing to force") {
		t.Errorf("rotate --force with nothing under way: %q, %v", out, err)
	}
	if out := n.CLI(t, "rotate", "--wait", "--timeout", rotationDeadline.String()); !strings.Contains(out, "generation 1") {
		t.Errorf("rotate --wait says %q", out)
	}
	if err := n.HasKey(t.Context(), 1); err != nil {
		t.Errorf("after rotate --wait: %v", err)
	}
	before := n.Keys(t)
	n.MustRun(t, "mount", "--bind", contract.StateDir, contract.StateDir)
	n.MustRun(t, "mount", "-o", "remount,bind,ro", contract.StateDir)
	if out, err := n.Run(t.Context(), cli, "rotate"); !complains(err, "read-only") || !complains(err, "stays") {
		t.Errorf("rotate on a read-only disk: %q, %v", out, err)
	}
	says(t, n, "rotation", "read-only", "ask again")
	if s, err := n.Status(t.Context()); err != nil || s.Rotation.Phase != "failed" || len(s.Generations) != 1 {
		t.Errorf("on a read-only disk: %+v, %v", s.Rotation, err)
	}
	n.MustRun(t, "umount", contract.StateDir)
	if after := n.Keys(t); len(after.Generations) != 1 || after.Generations[0] != before.Generations[0] {
		t.Error("the keys changed on a read-only disk")
	}
	n.CLI(t, "rotate", "--wait")
	if err := n.HasKey(t.Context(), 2); err != nil {
		t.Errorf("on a disk that is well again: %v", err)
	}
	if err := m.Nodes[1].Peers(t.Context(), n); err != nil {
		t.Error(err)
	}
}

// complains reports whether a command failed and said this, on however many lines.
func complains(err error, text string) bool {
	return err != nil && strings.Contains(strings.Join(strings.Fields(err.Error()), " "), text)
}

// A key that is older than the schedule says is changed when its agent starts, and none that isn't.
func TestRotationBySchedule(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	old, young := m.Nodes[0], m.Nodes[1]
	for n, age := range map[*agents.Node]time.Duration{old: 721 * time.Hour, young: 600 * time.Hour} {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		makeOlder(t, n, age)
		n.Args = []string{"--rotate-every", "720h"}
		n.StartAgent(t)
	}
	old.AwaitKey(t, 1, rotationDeadline)
	m.WaitUp(t, time.Minute)
	if err := young.HasKey(t.Context(), 0); err != nil || young.Newest(t) != 0 {
		t.Errorf("the young key: generation %d, %v", young.Newest(t), err)
	}
}

// makeOlder makes the key of a node whose agent doesn't run be of an age.
func makeOlder(t *testing.T, n *agents.Node, age time.Duration) {
	t.Helper()
	path := n.StateFile("keys.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	file["madeAt"] = json.RawMessage(fmt.Sprintf("%q", time.Now().Add(-age).UTC().Format(time.RFC3339)))
	if raw, err = json.Marshal(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
