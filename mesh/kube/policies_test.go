package kube_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ktesting "k8s.io/client-go/testing"
)

func TestOneEventForEachPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testPolicy("a", "deny"), testPolicy("b", "deny"))
		var agents []*agent
		for i := range 5 {
			agents = append(agents, api.start(t, fmt.Sprintf("n%d", i)))
		}
		if n := agents[0].Snapshot().NetworkPolicies; n != 2 {
			t.Errorf("%d policies, want 2", n)
		}
		api.add(t, testPolicy("a", "allow"))
		settle()
		if n := agents[0].Snapshot().NetworkPolicies; n != 3 {
			t.Errorf("%d policies, want 3", n)
		}
		wantPolicyEvents(t, api, "a", "allow", "deny")
		wantPolicyEvents(t, api, "b", "deny")

		// An Event is made again once it has expired, and not for a policy that is gone.
		if err := api.metadata.Tracker().Delete(policiesResource, "a", "deny"); err != nil {
			t.Fatal(err)
		}
		for _, e := range api.events(t, "a") {
			if err := api.client.Tracker().Delete(eventsResource, "a", e.Name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		wantPolicyEvents(t, api, "a", "allow")
		wantPolicyEvents(t, api, "b", "deny")
		if n := agents[0].Snapshot().NetworkPolicies; n != 2 {
			t.Errorf("%d policies, want 2", n)
		}
	})
}

// In a big cluster not every agent tries for every policy.
func TestPolicyEventsInABigCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		for i := range 1000 {
			node := testNode(fmt.Sprintf("n%d", i))
			node.Annotations = map[string]string{"weaveguard.io/identity": "someone"}
			api.add(t, node)
		}
		for i := range 1000 {
			api.add(t, testPolicy("a", fmt.Sprintf("p%d", i)))
		}
		api.start(t, agentNode)
		creates := 0
		for _, action := range api.client.Actions() {
			if action.Matches("create", "events") {
				creates++
			}
		}
		if creates < 2 || creates > 60 { // on average 20
			t.Errorf("one of 1000 agents tried for %d of 1000 policies", creates)
		}
	})
}

// Only what names a policy is asked for.
func TestPoliciesAreWatchedByMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testPolicy("a", "deny"))
		api.start(t, agentNode)
		for _, action := range api.client.Actions() {
			if action.GetResource().Resource == "networkpolicies" {
				t.Errorf("asked for whole policies: %v", action)
			}
		}
		if !containsAction(api.metadata.Actions(), "watch", "networkpolicies") {
			t.Error("not watched by metadata")
		}
	})
}

func containsAction(actions []ktesting.Action, verb, resource string) bool {
	for _, action := range actions {
		if action.Matches(verb, resource) {
			return true
		}
	}
	return false
}

// wantPolicyEvents wants one Event for each of these policies in the namespace, and no other.
func wantPolicyEvents(t *testing.T, api *api, namespace string, policies ...string) {
	t.Helper()
	want := map[string]int{}
	for _, name := range policies {
		want[name] = 1
	}
	got := map[string]int{}
	for _, e := range api.events(t, namespace) {
		got[e.InvolvedObject.Name]++
		ref := corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: namespace,
			Name: e.InvolvedObject.Name, UID: e.InvolvedObject.UID, ResourceVersion: e.InvolvedObject.ResourceVersion}
		if e.InvolvedObject != ref || e.Type != corev1.EventTypeWarning || e.Reason != "NetworkPolicyNotEnforced" {
			t.Errorf("Event: %+v", e)
		}
		if e.FirstTimestamp.IsZero() || e.Namespace != namespace || len(e.Name) > 63 {
			t.Errorf("Event: %+v", metav1.Object(&e))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Events in %s for %v, want %v", namespace, got, want)
	}
}
