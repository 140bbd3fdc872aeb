package kube_test

import (
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	ktesting "k8s.io/client-go/testing"
)

// refused is what a dial gives when nobody listens.
var refused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

func TestAPIServerAwayFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		api.fail(refused)
		agent := api.start(t, agentNode)
		time.Sleep(10 * time.Minute)
		if s := agent.Snapshot(); s.Synced || s.Reachable || len(s.Nodes) != 0 || len(s.Problems) == 0 {
			t.Errorf("away: %+v", s)
		}
		wantLog(t, agent, "doesn't answer")

		api.fail(nil)
		time.Sleep(2 * time.Minute)
		wantChange(t, agent, "it answers")
		if s := agent.Snapshot(); !s.Synced || !s.Reachable || len(s.Nodes) != 1 || len(s.Problems) != 0 {
			t.Errorf("back: %+v", s)
		}
		wantLog(t, agent, "answers again", "watching Kubernetes")
	})
}

func TestAPIServerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		var watches []*watch.FakeWatcher
		api.client.PrependWatchReactor("nodes", func(ktesting.Action) (bool, watch.Interface, error) {
			if err := api.isDown(); err != nil {
				return true, nil, err
			}
			w := watch.NewFake()
			watches = append(watches, w)
			return true, w, nil
		})
		agent := api.start(t, agentNode)
		wantLog(t, agent, "watching Kubernetes")
		if !agent.Snapshot().Reachable {
			t.Fatal("not reachable")
		}

		api.fail(refused)
		watches[0].Stop()
		wantChange(t, agent, "it went away")
		time.Sleep(10 * time.Minute)
		s := agent.Snapshot()
		if s.Reachable || !s.Synced || len(s.Nodes) != 1 {
			t.Errorf("away: %+v", s)
		}
		if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].String(), "connection refused") ||
			!strings.Contains(s.Problems[0].Remedy, "KUBERNETES_SERVICE_HOST") {
			t.Errorf("problems: %v", s.Problems)
		}
		wantLog(t, agent, "doesn't answer")

		api.fail(nil)
		time.Sleep(2 * time.Minute)
		if s := agent.Snapshot(); !s.Reachable || len(s.Problems) != 0 {
			t.Errorf("back: %+v", s)
		}
		wantLog(t, agent, "answers again")
	})
}

func TestForbiddenWatch(t *testing.T) {
	for _, tt := range []struct {
		resource  string
		reachable bool
	}{
		{"nodes", false},
		{"networkpolicies", true}, // the mesh doesn't need them
	} {
		t.Run(tt.resource, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, testNode("n1"))
				deny := func(action ktesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "", errors.New("no such rule"))
				}
				api.client.PrependReactor("list", tt.resource, deny)
				api.metadata.PrependReactor("list", tt.resource, deny)
				agent := api.start(t, agentNode)
				time.Sleep(10 * time.Minute)
				s := agent.Snapshot()
				if s.Reachable != tt.reachable || s.Synced != tt.reachable {
					t.Errorf("reachable %t, synced %t, want %t", s.Reachable, s.Synced, tt.reachable)
				}
				if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, "no such rule") ||
					!strings.Contains(s.Problems[0].Remedy, "apply the manifest") {
					t.Errorf("problems: %v", s.Problems)
				}
				want := []string{"refuses a request"}
				if tt.reachable {
					want = append(want, "watching Kubernetes")
				}
				wantLog(t, agent, want...)
			})
		})
	}
}

func TestEventsOnOwnNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		agent := api.start(t, agentNode)
		for range 3 {
			agent.Event("Warning", "PathMTU", "the path to n2 carries 1400 bytes only")
			settle()
		}
		events := api.events(t, metav1.NamespaceDefault)
		if len(events) != 1 {
			t.Fatalf("%d Events, want one that is counted", len(events))
		}
		e := events[0]
		if e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != agentNode || e.InvolvedObject.UID != "uid-n1" {
			t.Errorf("regarding %+v", e.InvolvedObject)
		}
		if e.Count != 3 || e.Type != corev1.EventTypeWarning || e.Reason != "PathMTU" || e.Source.Host != agentNode {
			t.Errorf("Event: %+v", e)
		}
		for range 1000 { // never waits, and never floods
			agent.Event("Normal", "Flood", time.Now().String())
		}
		time.Sleep(time.Minute)
		if n := len(api.events(t, metav1.NamespaceDefault)); n > 30 {
			t.Errorf("%d Events", n)
		}
	})
}

// wantLog wants that just these lines were logged since the last time, in any order.
func wantLog(t *testing.T, agent *agent, want ...string) {
	t.Helper()
	got := agent.log.take()
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for _, part := range want {
		if !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, part) }) {
			t.Errorf("no line has %q:\n%s", part, strings.Join(got, "\n"))
		}
	}
}
