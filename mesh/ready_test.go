package mesh_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// A new version that can't make a tunnel here isn't ready, so that a rollout stops at this node; pods can still be attached as before,
// and Kubernetes is told after half a minute only: the network of the agent before stands. So it is with an agent whose work was
// undone and can't be made again.
func TestNotReadyUnlessAllStands(t *testing.T) {
	for _, step := range []string{"made", "routes", "firewall"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a := withPeer(t)
				expect := func(when string, ready, told bool) {
					t.Helper()
					s := a.Status(t.Context())
					probed, problems := a.Ready()
					own := w.cluster.told()
					if s.Ready != ready || probed != ready || own.Ready != told || !w.kernel.open() {
						t.Errorf("%s: status %t, probe %t %v, want %t; Kubernetes is told %t (%s), want %t; can pods be attached: %t", when,
							s.Ready, probed, problems, ready, own.Ready, own.Reason, told, w.kernel.open())
					}
					if !ready && !slices.ContainsFunc(problems, func(p view.Problem) bool { return strings.Contains(p.Message, errBroken.Error()) }) {
						t.Errorf("%s: the problems %v don't say why", when, problems)
					}
				}
				expect("all stands", true, true)
				setFault(w.kernel, step, errBroken)
				w.kernel.forget(step)
				a.pass()
				expect("just now something fails", true, true)
				time.Sleep(40 * time.Second)
				a.pass()
				expect("it fails for long", false, false)
				a.stop()
				a = w.start(t)
				expect("a new agent, which doesn't get further", false, true)
				time.Sleep(40 * time.Second)
				a.pass()
				expect("it doesn't get further for long", false, false)
				setFault(w.kernel, step, nil)
				a.pass()
				expect("it can be made again", true, true)
			})
		})
	}
}

// A node that is closed to new pods, for others have addresses of a former pod CIDR, says so to the scheduler, too.
func TestNotReadyWhileClosed(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	shut := func(yes bool) {
		w.kernel.mu.Lock()
		defer w.kernel.mu.Unlock()
		w.kernel.shut = yes
	}
	shut(true)
	a.pass()
	if s := a.Status(t.Context()); s.Ready || w.cluster.told().Ready {
		t.Errorf("status says %t and Kubernetes is told %t of a node on which no pod can be attached", s.Ready, w.cluster.told().Ready)
	}
	shut(false)
	a.pass()
	if s := a.Status(t.Context()); !s.Ready || !w.cluster.told().Ready {
		t.Errorf("status says %t and Kubernetes is told %t of a node that is open again", s.Ready, w.cluster.told().Ready)
	}
}
