package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
)

// Rotate asks the node's agent for a new key, as `weaveguard rotate` does.
func (n *Node) Rotate(t testing.TB) view.RotateAnswer {
	t.Helper()
	answer, err := n.TryRotate(t.Context())
	if err != nil {
		t.Fatalf("asking %s for a new key: %v", n.Name, err)
	}
	return answer
}

// TryRotate is like Rotate, where the agent may refuse.
func (n *Node) TryRotate(ctx context.Context) (view.RotateAnswer, error) {
	return n.api().Rotate(ctx, false)
}

// RotateForce ends the node's rotation that is under way.
func (n *Node) RotateForce(ctx context.Context) (view.RotateAnswer, error) {
	return n.api().Rotate(ctx, true)
}

// HasKey returns an error until the node has the key of a generation and no other, and no rotation is under way.
func (n *Node) HasKey(ctx context.Context, generation uint32) error {
	s, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if len(s.Generations) != 1 || s.Generations[0].Number < generation || s.Rotation.Phase != "idle" || s.Rotation.Queued {
		return fmt.Errorf("%s has the keys %v, and its rotation is %s (queued: %t), waiting for %v", n.Name, s.Generations,
			s.Rotation, s.Rotation.Queued, s.Rotation.Waiting)
	}
	if len(s.Devices) == 0 {
		return fmt.Errorf("%s has no tunnel device", n.Name)
	}
	for _, d := range s.Devices {
		if d.PublicKey != s.Generations[0].PublicKey {
			return fmt.Errorf("%s still has an old key in %s", n.Name, d.Name)
		}
	}
	return nil
}

// AwaitKey waits until the node has a key of this generation, or a later one, alone. It returns how long that took.
func (n *Node) AwaitKey(t testing.TB, generation uint32, deadline time.Duration) time.Duration {
	t.Helper()
	return lab.Eventually(t, deadline, fmt.Sprintf("%s has the key of generation %d alone", n.Name, generation), func() error {
		return n.HasKey(t.Context(), generation)
	})
}

// KeyFile is what the node's key store holds, for tests that know too much.
type KeyFile struct {
	Identity    string
	Generations []struct {
		Number     uint32
		PrivateKey string
	}
	Announced bool
}

// StateFile is the path of a file of the node's /var/lib/weaveguard, from outside of the host.
func (n *Node) StateFile(name string) string {
	return fmt.Sprintf("/proc/%d/root%s/%s", n.InitPID(), contract.StateDir, name)
}

// Keys reads the node's key store.
func (n *Node) Keys(t testing.TB) KeyFile {
	t.Helper()
	raw, err := os.ReadFile(n.StateFile("keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.mesh.LearnKeys(n.Name, raw); err != nil {
		t.Fatal(err)
	}
	var f KeyFile
	if err := json.Unmarshal(raw, &f); err != nil || len(f.Generations) == 0 {
		t.Fatalf("reading the key store of %s: %v", n.Name, err)
	}
	return f
}

// Newest is the number of the newest key that the node's store holds.
func (n *Node) Newest(t testing.TB) uint32 {
	t.Helper()
	gs := n.Keys(t).Generations
	return gs[len(gs)-1].Number
}
