package kube_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

func testOwn() kube.Own {
	return kube.Own{Identity: keys.PublicIdentity{1}, PublicKey: keys.PublicKey{2}, KeyGeneration: 3, Ready: true, Message: "fine"}
}

func TestReportWritesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := testNode("n1")
		node.Annotations = map[string]string{"someone": "else's", "weaveguard.io/endpoint": "198.51.100.1"}
		api := newAPI(t, node, testNode("n2"))
		agent := api.start(t, agentNode)
		if got := api.accepted(); len(got) != 0 {
			t.Fatalf("written before anything was reported: %v", got)
		}
		for range 5 {
			agent.Report(testOwn())
			settle()
		}
		wantPatches(t, api,
			` {"metadata":{"annotations":{"weaveguard.io/identity":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",`+
				`"weaveguard.io/key-generation":"3","weaveguard.io/public-key":"AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}}`,
			`status {"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"`)
		got := api.node(t, "n1")
		if len(got.Annotations) != 5 || len(got.Status.Conditions) != 2 {
			t.Errorf("the Node became %v, %v", got.Annotations, got.Status.Conditions)
		}
		c := condition(t, got)
		if c.Reason != "WeaveguardReady" || c.Message != "fine" || c.LastTransitionTime.IsZero() || c.LastHeartbeatTime.IsZero() {
			t.Errorf("condition: %+v", c)
		}
	})
}

func TestReportWritesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		agent := api.start(t, agentNode)
		own := testOwn()
		agent.Report(own)
		settle()
		api.accepted()

		own.KeyGeneration = 4
		agent.Report(own)
		settle()
		wantPatches(t, api, ` {"metadata":{"annotations":{"weaveguard.io/key-generation":"4"}}}`)

		since := condition(t, api.node(t, "n1")).LastTransitionTime
		own.Message = "still fine"
		agent.Report(own)
		settle()
		wantPatches(t, api, `"message":"still fine"`)
		if now := condition(t, api.node(t, "n1")).LastTransitionTime; now != since {
			t.Errorf("a new message moved the transition from %v to %v", since, now)
		}

		own.Ready = false
		agent.Report(own)
		settle()
		wantPatches(t, api, `"status":"True"`)
		if now := condition(t, api.node(t, "n1")); !now.LastTransitionTime.After(since.Time) || now.Reason != "WeaveguardNotReady" {
			t.Errorf("condition: %+v", now)
		}

		// An agent that starts again finds all as it should be.
		again := api.start(t, agentNode)
		again.Report(own)
		settle()
		wantPatches(t, api)
	})
}

// Where a rotation is goes into the same patch as the rest, and a moment is the same one however it is expressed.
func TestReportWritesRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		agent := api.start(t, agentNode)
		own := testOwn()
		own.Rotation = "establishing: n2 hasn't answered"
		own.KeyRotatedAt = time.Now() // with a monotonic clock reading
		agent.Report(own)
		settle()
		patches := api.accepted()
		at := own.KeyRotatedAt.UTC().Format("2006-01-02T15:04:05Z")
		if len(patches) != 2 || !strings.Contains(patches[0], `"weaveguard.io/identity"`) ||
			!strings.Contains(patches[0], `"weaveguard.io/key-rotated-at":"`+at+`"`) ||
			!strings.Contains(patches[0], `"weaveguard.io/rotation":"establishing: n2 hasn't answered"`) {
			t.Fatalf("patches at %s: %q", at, patches)
		}

		second := own.KeyRotatedAt.Truncate(time.Second)
		same := []time.Time{second, second.Add(time.Second - 1), second.In(time.FixedZone("", 3600)), {}}
		for _, at := range same {
			own.KeyRotatedAt = at
			agent.Report(own)
			settle()
		}
		wantPatches(t, api)

		own.Rotation = "idle"
		agent.Report(own)
		settle()
		wantPatches(t, api, ` {"metadata":{"annotations":{"weaveguard.io/rotation":"idle"}}}`)

		own.Rotation = "" // not said: it isn't taken back either
		agent.Report(own)
		own.KeyRotatedAt = second
		own.Rotation = "idle"
		api.start(t, agentNode).Report(own)
		settle()
		wantPatches(t, api)

		api.changeNode(t, "n1", func(n *corev1.Node) { n.Annotations["weaveguard.io/key-rotated-at"] = "forged" })
		settle()
		wantPatches(t, api, `{"metadata":{"annotations":{"weaveguard.io/key-rotated-at":"`+at+`"}}}`)
	})
}

func TestReportIsLevelTriggered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n2"))
		agent := api.start(t, agentNode)
		agent.Report(testOwn())
		settle()
		wantPatches(t, api) // there is no Node yet

		api.add(t, testNode("n1"))
		settle()
		wantPatches(t, api, "weaveguard.io/identity", "NetworkUnavailable")

		api.changeNode(t, "n1", func(n *corev1.Node) { n.Annotations["weaveguard.io/public-key"] = "forged" })
		settle()
		wantPatches(t, api, ` {"metadata":{"annotations":{"weaveguard.io/public-key":"AgAA`)

		api.changeNode(t, "n1", func(n *corev1.Node) { n.Status.Conditions = nil })
		settle()
		wantPatches(t, api, "NetworkUnavailable")

		node := testNode("n1") // made again, as when somebody deletes the Node of a kubelet that runs
		node.UID = "another"
		if err := api.client.Tracker().Delete(nodesResource, "", "n1"); err != nil {
			t.Fatal(err)
		}
		settle()
		wantPatches(t, api)
		api.add(t, node)
		settle()
		wantPatches(t, api, "weaveguard.io/identity", "NetworkUnavailable")
	})
}

// Somebody who undoes everything at once gets an answer, but not a flood.
func TestReportNeverFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		agent := api.start(t, agentNode)
		agent.Report(testOwn())
		settle()
		api.accepted()
		for range 300 {
			api.changeNode(t, "n1", func(n *corev1.Node) { n.Annotations["weaveguard.io/public-key"] = "forged" })
			time.Sleep(time.Second)
		}
		if n := len(api.accepted()); n < 50 || n > 80 {
			t.Errorf("%d writes in 300 s", n)
		}
	})
}

func TestReportRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		agent := api.start(t, agentNode)
		var tries atomic.Int64
		var allow atomic.Bool
		api.client.PrependReactor("patch", "nodes", func(action ktesting.Action) (bool, runtime.Object, error) {
			if action.GetSubresource() != "" {
				return false, nil, nil
			}
			tries.Add(1)
			return !allow.Load(), nil, apierrors.NewForbidden(nodesResource.GroupResource(), "n1", errors.New("denied by a policy"))
		})
		agent.Report(testOwn())
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, "NetworkUnavailable") // the other write isn't held up
		if n := tries.Load(); n < 10 || n > 50 {
			t.Errorf("%d tries in half an hour", n)
		}
		s := agent.Snapshot()
		if !s.Reachable || len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, "denied by a policy") {
			t.Errorf("snapshot: %+v", s)
		}

		allow.Store(true)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, "weaveguard.io/identity")
		if s := agent.Snapshot(); len(s.Problems) != 0 {
			t.Errorf("snapshot: %+v", s)
		}
	})
}

// wantPatches wants that just these patches were accepted since the last time, and none denied; each is given by a
// part of it.
func wantPatches(t *testing.T, api *api, want ...string) {
	t.Helper()
	got := api.accepted()
	if len(api.denied) != 0 {
		t.Errorf("attempted: %v", api.denied)
	}
	if len(got) != len(want) {
		t.Fatalf("patches: %q, want %q", got, want)
	}
	for i, patch := range got {
		if !strings.Contains(patch, want[i]) {
			t.Errorf("patch %s lacks %s", patch, want[i])
		}
	}
}

func condition(t *testing.T, node *corev1.Node) corev1.NodeCondition {
	t.Helper()
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c
		}
	}
	t.Fatalf("no condition NetworkUnavailable: %v", node.Status.Conditions)
	return corev1.NodeCondition{LastTransitionTime: metav1.Now()}
}

// What is refused isn't tried at each change of the Node, but at its time; at once when there is something else to write.
func TestReportIsTriedAgainAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		var tries atomic.Int32
		api.client.PrependReactor("patch", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
			tries.Add(1)
			return true, nil, errors.New("refused on purpose")
		})
		agent := api.start(t, agentNode)
		own := testOwn()
		agent.Report(own)
		time.Sleep(time.Minute)
		before := tries.Load()
		for i := range 60 {
			api.changeNode(t, "n1", func(n *corev1.Node) { n.Annotations = map[string]string{"beat": strings.Repeat("x", i+1)} })
			time.Sleep(time.Second)
		}
		if n := tries.Load() - before; n > 6 { // two patches each time
			t.Errorf("%d tries in a minute in which only the Node changed", n)
		}
		before = tries.Load()
		own.Message = "other"
		agent.Report(own)
		settle()
		if tries.Load() == before {
			t.Error("another report waits")
		}
	})
}
