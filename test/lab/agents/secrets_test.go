package agents_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// testWithin is a test that ends, and may fail, within another.
type testWithin struct {
	testing.TB
	cleanups []func()
	failures []string
}

func (w *testWithin) Cleanup(f func()) { w.cleanups = append(w.cleanups, f) }

func (w *testWithin) Errorf(format string, args ...any) {
	w.failures = append(w.failures, fmt.Sprintf(format, args...))
}

// end runs what a test's end does.
func (w *testWithin) end() {
	for _, f := range slices.Backward(w.cleanups) {
		f()
	}
	w.cleanups = nil
}

// A private key in the log of any process of a mesh, or in an error, fails the test that made the mesh, and one that tells
// nothing passes.
func TestSecretFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		tell func(n *agents.Node, key string) error
		want string
	}{
		"nowhere": {tell: func(*agents.Node, string) error { return nil }},
		"log": {
			tell: func(n *agents.Node, key string) error {
				return n.MustStart(t, lab.Command{Name: "teller", Path: "echo", Args: []string{"key=" + key}}).Wait()
			},
			want: "teller has the secret private key 0",
		},
		"error": {
			tell: func(n *agents.Node, key string) error {
				if _, err := n.RunAgent(t.Context(), "--gossip-key-file", key); err == nil {
					return errors.New("the agent runs with a file that isn't there")
				}
				return nil
			},
			want: "the agent on h1 has the secret private key 0",
		},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			within := &testWithin{TB: t}
			t.Cleanup(within.end)
			m := agents.New(within, 1)
			n := m.Nodes[0]
			n.Start(within)
			lab.Eventually(t, 10*time.Second, "the agent runs", func() error {
				s, err := n.Status(t.Context())
				if err == nil && s.Identity.IsZero() {
					err = fmt.Errorf("it is starting: %v", s.Problems)
				}
				return err
			})
			if err := c.tell(n, n.Keys(t).Generations[0].PrivateKey); err != nil {
				t.Fatal(err)
			}
			within.end()
			if c.want == "" && len(within.failures) != 0 {
				t.Errorf("the test failed: %q", within.failures)
			}
			if c.want != "" && !slices.ContainsFunc(within.failures, func(f string) bool { return strings.Contains(f, c.want) }) {
				t.Errorf("the test's failures are %q", within.failures)
			}
		})
	}
}
