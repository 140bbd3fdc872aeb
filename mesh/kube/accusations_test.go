package kube_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// However many agents accuse somebody, the Node that is spoken for gets one Event of each topic in ten minutes.
func TestAccusationsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"), testNode("victim"))
		var agents []*agent
		for i := range 5 {
			agents = append(agents, api.start(t, fmt.Sprintf("n%d", i+1)))
		}
		for range 3 {
			for i, a := range agents {
				a.Accuse("victim", "pin", fmt.Sprintf("what agent %d says", i))
				a.Accuse("victim", "old", "an old record")
				a.Accuse("nobody", "pin", "a Node that isn't there")
			}
			time.Sleep(20 * time.Second)
		}
		events := api.events(t, metav1.NamespaceDefault)
		if len(events) != 2 {
			t.Fatalf("%d Events, want 2: %+v", len(events), events)
		}
		for _, e := range events {
			if e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != "victim" || e.InvolvedObject.UID != "uid-victim" ||
				e.Type != corev1.EventTypeWarning || e.Reason != kube.ReasonRecordRefused || !strings.HasPrefix(e.Name, "weaveguard-refused.") {
				t.Errorf("Event: %+v", e)
			}
		}
		time.Sleep(10 * time.Minute)
		agents[0].Accuse("victim", "pin", "still")
		settle()
		if n := len(api.events(t, metav1.NamespaceDefault)); n != 3 {
			t.Errorf("%d Events after ten minutes, want one more", n)
		}
	})
}

// Whoever speaks in a thousand names makes an agent write a handful of Events.
func TestAccusationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		for i := range 1000 {
			api.add(t, testNode(fmt.Sprintf("victim-%d", i)))
		}
		a := api.start(t, agentNode)
		for i := range 1000 {
			a.Accuse(fmt.Sprintf("victim-%d", i), "pin", "no")
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := len(api.events(t, metav1.NamespaceDefault)); n == 0 || n > 25 {
			t.Errorf("%d Events in two minutes, want a few", n)
		}
	})
}
