package agents_test

import (
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

// A private key in the log of any process of a mesh fails the test that made the mesh, and one that tells nothing passes.
func TestSecretInLogFails(t *testing.T) {
	for _, tells := range []bool{false, true} {
		t.Run(fmt.Sprintf("tells %v", tells), func(t *testing.T) {
			within := &testWithin{TB: t}
			t.Cleanup(within.end)
			m := agents.New(within, 1)
			n := m.Nodes[0]
			n.Start(within)
			lab.Eventually(t, 10*time.Second, "the agent runs", func() error {
				_, err := n.Status(t.Context())
				return err
			})
			if tells {
				key := n.Keys(t).Generations[0].PrivateKey
				if err := n.MustStart(within, lab.Command{Name: "teller", Path: "echo", Args: []string{"key=" + key}}).Wait(); err != nil {
					t.Fatal(err)
				}
			}
			within.end()
			if !tells && len(within.failures) != 0 {
				t.Errorf("the test failed: %q", within.failures)
			}
			if tells && !slices.ContainsFunc(within.failures, func(f string) bool {
				return strings.Contains(f, "teller has the secret private key 0")
			}) {
				t.Errorf("the test's failures are %q", within.failures)
			}
		})
	}
}
