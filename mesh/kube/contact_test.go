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

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// refused is what a dial gives when nobody listens.
var refused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

func TestAPIServerAwayFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		api.fail(refused)
		agent := api.start(t, agentNode)
		time.Sleep(10 * time.Minute)
		s := agent.Snapshot()
		if s.Synced || s.Reachable || len(s.Nodes) != 0 {
			t.Errorf("away: %+v", s)
		}
		wantProblem(t, s, "connection refused", "KUBERNETES_SERVICE_HOST")
		wantLog(t, agent)

		api.fail(nil)
		time.Sleep(2 * time.Minute)
		wantChange(t, agent, "it answers")
		if s := agent.Snapshot(); !s.Synced || !s.Reachable || len(s.Nodes) != 1 || len(s.Problems) != 0 {
			t.Errorf("back: %+v", s)
		}
		wantLog(t, agent, "watching Kubernetes")
	})
}

func TestAPIServerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		watches := make(chan *watch.FakeWatcher, 10)
		api.client.PrependWatchReactor("nodes", func(ktesting.Action) (bool, watch.Interface, error) {
			if err := api.isDown(); err != nil {
				return true, nil, err
			}
			w := watch.NewFake()
			watches <- w
			return true, w, nil
		})
		agent := api.start(t, agentNode)
		wantLog(t, agent, "watching Kubernetes")
		if !agent.Snapshot().Reachable {
			t.Fatal("not reachable")
		}

		api.fail(refused)
		(<-watches).Stop()
		wantChange(t, agent, "it went away")
		time.Sleep(10 * time.Minute)
		s := agent.Snapshot()
		if s.Reachable || !s.Synced || len(s.Nodes) != 1 {
			t.Errorf("away: %+v", s)
		}
		wantProblem(t, s, "connection refused", "KUBERNETES_SERVICE_HOST")
		wantLog(t, agent)

		api.fail(nil)
		time.Sleep(2 * time.Minute)
		if s := agent.Snapshot(); !s.Reachable || len(s.Problems) != 0 {
			t.Errorf("back: %+v", s)
		}
		wantLog(t, agent)
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
				wantProblem(t, s, "no such rule", "apply the manifest")
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

// wantProblem wants just one problem, with these parts, and that it is only a warning: the mesh goes on.
func wantProblem(t *testing.T, s kube.Snapshot, parts ...string) {
	t.Helper()
	if len(s.Problems) != 1 || !s.Problems[0].Warning {
		t.Fatalf("problems: %v, want one", s.Problems)
	}
	for _, part := range parts {
		if !strings.Contains(s.Problems[0].String(), part) {
			t.Errorf("problem %q lacks %q", s.Problems[0], part)
		}
	}
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
