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
)

// A request that is noted and can't be removed isn't noted again, but the next one is.
func TestAPIServerAwayBetweenNotingAndRemoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		agent.log.take()
		r.during(func() { api.fail(refused) })
		api.ask(t, "n1", "now")
		time.Sleep(30 * time.Minute)
		r.want(t, 1)
		s := agent.Snapshot()
		wantProblem(t, s, "doesn't answer", "connection refused")
		if s.Reachable {
			t.Error("reachable")
		}
		if n := countPatches(api); n < 10 || n > 50 {
			t.Errorf("%d tries in half an hour", n)
		}

		api.fail(nil)
		r.during(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 1)
		wantNoFuss(t, api, agent)

		r.during(func() { api.fail(refused) })
		api.ask(t, "n1", "now")
		settle()
		r.during(nil)
		withdraw(t, api) // by somebody who reaches the API server
		settle()
		api.ask(t, "n1", "now")
		settle()
		r.want(t, 3)
		api.fail(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 3)
		wantNoFuss(t, api, agent)
	})
}

// That the patch doesn't fit, as somebody else was faster, is neither a problem nor tried again.
func TestRequestIsGoneWhenItIsToBeRemoved(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faster func(*testing.T, *api)
	}{
		{"withdrawn", withdraw},
		{"without any annotation", func(t *testing.T, api *api) {
			api.changeNode(t, "n1", func(n *corev1.Node) { n.Annotations = nil })
		}},
		{"without the Node", deleteNode},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, testNode("n1"))
				r := &rotations{}
				agent := api.startRotating(t, agentNode, r.rotate)
				agent.log.take()
				r.during(func() { tt.faster(t, api) })
				api.ask(t, "n1", "now")
				time.Sleep(time.Hour)
				wantPatches(t, api)
				r.want(t, 1)
				wantNoFuss(t, api, agent)
				if n := countPatches(api); n != 1 {
					t.Errorf("%d tries", n)
				}
			})
		})
	}
}

// Until the watch shows it, that the request is gone is no problem either, nor is the request another one.
func TestRequestIsGoneAndTheWatchLags(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faster func(*testing.T, *api)
	}{
		{"withdrawn", withdraw},
		{"without the Node", deleteNode},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, testNode("n1"))
				watches := api.handWatches()
				r := &rotations{}
				agent := api.startRotating(t, agentNode, r.rotate)
				w := <-watches
				api.ask(t, "n1", "now")
				asked := api.node(t, "n1")
				api.changeNode(t, "n1", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.32.1.0/24"} })
				later := api.node(t, "n1")
				r.during(func() { tt.faster(t, api) })
				w.Modify(asked)
				settle()
				wantNoFuss(t, api, agent)
				w.Modify(later)
				synctest.Wait()
				wantNoFuss(t, api, agent)
				r.want(t, 1)

				later.Annotations, later.ResourceVersion = nil, api.next()
				w.Modify(later)
				time.Sleep(time.Hour)
				wantNoFuss(t, api, agent)
				wantPatches(t, api)
				r.want(t, 1)
			})
		})
	}
}

// A Node that is made again with a request has another one.
func TestRequestOfANodeThatIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		api.startRotating(t, agentNode, r.rotate)
		again := testNode("n1")
		again.UID = "another"
		metav1.SetMetaDataAnnotation(&again.ObjectMeta, requestKey, "now")
		r.during(func() {
			r.during(nil)
			api.fail(refused)
			deleteNode(t, api)
			api.add(t, again)
		})
		api.ask(t, "n1", "now")
		settle()
		api.fail(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 2)
	})
}

// Admission policies refuse with the code of a patch that doesn't fit.
func TestRemovalThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		agent.log.take()
		allow := api.refusePatches()
		api.ask(t, "n1", "now")
		time.Sleep(30 * time.Minute)
		wantProblem(t, agent.Snapshot(), "refuses removing the annotation weaveguard.io/rotate-keys", "denied by a policy")
		if n := countPatches(api); n < 10 || n > 50 {
			t.Errorf("%d tries in half an hour", n)
		}

		allow()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 1)
		wantNoFuss(t, api, agent)

		api.refusePatches()
		api.ask(t, "n1", "now")
		time.Sleep(time.Minute)
		wantProblem(t, agent.Snapshot(), "denied by a policy")
		withdraw(t, api)
		wantChange(t, agent, "the request is withdrawn")
		r.want(t, 2)
		wantNoFuss(t, api, agent)
	})
}

// A value in place of another one is a request of its own, whatever became of the other.
func TestRequestIsOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		r.during(func() { api.ask(t, "n1", "later") })
		api.ask(t, "n1", "now")
		settle()
		wantPatches(t, api, removal("later"))
		r.want(t, 1)

		allow := api.refusePatches()
		for _, value := range []string{"later", "even later", "later"} {
			api.ask(t, "n1", value)
			settle()
		}
		r.during(nil)
		api.ask(t, "n1", "now")
		settle()
		r.want(t, 2)
		allow()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 2)
		times := map[string]int32{}
		for _, e := range api.events(t, metav1.NamespaceDefault) {
			times[e.Message[strings.Index(e.Message, "=")+1:strings.Index(e.Message, " is refused")]] += e.Count
		}
		if len(times) != 2 || times[`"later"`] != 3 || times[`"even later"`] != 1 {
			t.Errorf("Events: %v", times)
		}
		if problems := agent.Snapshot().Problems; len(problems) != 0 {
			t.Errorf("problems: %v", problems)
		}
	})
}

func deleteNode(t *testing.T, api *api) {
	t.Helper()
	if err := api.client.Tracker().Delete(nodesResource, "", agentNode); err != nil {
		t.Error(err)
	}
}

// refusePatches makes patches of Nodes be refused as admission policies do, until allow.
func (a *api) refusePatches() (allow func()) {
	var allowed atomic.Bool
	a.client.PrependReactor("patch", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		err := apierrors.NewForbidden(nodesResource.GroupResource(), agentNode, errors.New("denied by a policy"))
		err.ErrStatus.Reason, err.ErrStatus.Code = metav1.StatusReasonInvalid, 422
		return !allowed.Load(), nil, err
	})
	return func() { allowed.Store(true) }
}

// countPatches returns how many patches of Nodes were tried.
func countPatches(a *api) int {
	n := 0
	for _, action := range a.client.Actions() {
		if action.Matches("patch", "nodes") {
			n++
		}
	}
	return n
}
