package product_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/faults"
)

// comeback is how long a node whose disk was wiped may be without its peers once its agent runs again.
const comeback = 5 * time.Second

// testWipedDisk takes a node's identity and keys away, and restarts its agent: it comes back as somebody else, its Node
// says so, and its pods are reached again at once.
func (w *world) testWipedDisk(t *testing.T) {
	node := w.nodes[1] // where pod2 is
	before, err := w.status(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	address := w.podIP(t, pod2).String()
	w.keepSaid(t, node)
	others := w.startTraffic(t, pod1, pod3)
	w.on(t, node, "sh", "-c", "rm -rf "+contract.StateDir+"/*")
	w.kubectl(t, "delete", "pod", agent.Name, "-n", system, "--wait=false")
	w.eventually(t, "the agent of "+node+" runs again, as somebody else", func(ctx context.Context) error {
		pod, err := w.agentPod(ctx, node)
		if err != nil || pod.Name == agent.Name {
			return errors.Join(errors.New("there is no new pod yet"), err)
		}
		after, err := w.status(ctx, node)
		if err == nil && (!after.Ready || after.Identity == before.Identity || after.Identity.IsZero()) {
			err = fmt.Errorf("ready %t, identity %s, before %s", after.Ready, after.Identity, before.Identity)
		}
		return err
	})
	w.eventually(t, "pods of "+node+" are reached again", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := w.get(ctx, place{pod1, true}, address, httpPort)
		return err
	})
	reached := time.Now()
	took := reached.Sub(w.agentStarted(t, node))
	t.Logf("pods were reached again %.1f s after the new agent's start", took.Seconds())
	after, err := w.status(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if said := w.nodeObject(t, node).Annotations[contract.AnnotationIdentity]; said != after.Identity.String() {
		t.Errorf("the Node says %q, and its agent is %s", said, after.Identity)
	}
	if g := after.Generations; len(g) != 1 || g[0].Number != 0 || g[0].PublicKey == before.Generations[0].PublicKey {
		t.Errorf("its keys are %+v, and were %+v", g, before.Generations)
	}
	w.awaitMesh(t)
	others.goOn(t, w, 1)
	faults.Record(t, faults.Measurement{
		Order: 23, Table: faults.Outages, Fault: "a node's disk is wiped, and its agent starts", Lane: faults.Cluster,
		Allowed: "back within 5 s of the agent's start; 0 lost between others", Sent: others.stop(t), Recovery: took,
		Within: comeback, Fails: comeback,
	})
	w.speaksForItself(t, node)
}

// speaksForItself fails the test if a node hears that somebody else speaks for another, such as what that left behind.
func (w *world) speaksForItself(t *testing.T, node string) {
	t.Helper()
	for _, other := range w.nodes {
		s, err := w.status(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Problems {
			if p.Subject == "node "+node {
				t.Errorf("%s says: %v", other, p)
			}
		}
	}
}
