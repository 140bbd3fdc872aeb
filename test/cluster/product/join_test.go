package product_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/test/cluster"
)

const (
	// joinedWithin is how long after its agent's start a new node is a peer of all others, at most.
	joinedWithin = 5 * time.Second
	// goneWithin is how long after its Node's deletion a node is gone from all others, at most.
	goneWithin = 10 * time.Second
)

// testJoinAndDelete has a fourth node join, deletes its Node while its agent runs on, has it made again, and cuts its power:
// the first two in the middle of rotations of another node, and all without a loss between the others.
func (w *world) testJoinAndDelete(t *testing.T) {
	running := w.startTraffic(t, pod1, pod2, pod3)
	var node string
	t.Cleanup(func() {
		if node == "" {
			return
		}
		// The test's context has ended by now. It isn't there any more if all went well.
		if nodes, err := w.Nodes(context.Background()); err != nil || slices.Contains(nodes, node) {
			if err := errors.Join(err, w.RemoveNode(context.Background(), node)); err != nil {
				t.Error(err)
			}
		}
	})
	joined := t.Run("a fourth node joins", func(t *testing.T) {
		h := w.holdRotation(t, w.nodes[0], w.nodes[1])
		var err error
		if node, err = w.AddNode(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.learnNode(t, node)
		w.testJoined(t, node)
		h.goesOn(t)
		h.release(t)
		w.awaitRotated(t, w.nodes[0], h.before)
	})
	if !joined {
		return
	}
	t.Run(noSecretSaid, w.testSecrets) // later there is no asking its agent
	t.Run("a deleted Node is gone from the others, and its pods send nothing in the clear", func(t *testing.T) {
		h := w.holdRotation(t, w.nodes[0], node)
		var left *orphan
		w.testLeaksOfDeleted(t, node, "web-4", func() {
			left = w.orphaned(t, node)
			w.testDeleted(t, node)
		})
		w.awaitRotated(t, w.nodes[0], h.before) // nobody is left who held it
		w.awaitWG(t)
		h.release(t)
		t.Run("it is made again, with another address and pod CIDR", func(t *testing.T) {
			under := w.watchUnderlay(t)
			w.testMadeAgain(t, left, running)
			under.stop(t, w).judge(t, nil, 1)
		})
	})
	if err := w.RemoveNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	running.goOn(t, w, beyond)
	running.stop(t)
}

// testJoined waits until a new node has its place among the others, whose agents go on.
func (w *world) testJoined(t *testing.T, node string) {
	agents := w.agentStarts(t)
	w.awaitJoined(t, node)
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.runPods(t, map[string]string{"web-4": node})
	w.awaitPeers(t, node, len(w.nodes)) // a ping that comes before the session may be lost
	to := w.podIP(t, "web-4")
	for _, pod := range []string{pod1, pod2, pod3} {
		for _, err := range w.try(t.Context(), path{from: place{pod, true}, to: to, asFrom: w.podIP(t, pod), answers: "web-4"}) {
			t.Errorf("%s to web-4: %v", pod, err)
		}
	}
	if now := w.agentStarts(t); !slices.Equal(now, agents) {
		t.Errorf("agents were started again: they were %v and are %v", agents, now)
	}
}

// testDeleted deletes a Node, and waits until nothing is left of it.
func (w *world) testDeleted(t *testing.T, node string) {
	cidr, address := w.pods[node].String(), w.address[node]
	if err := w.Client().CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	err := cluster.Poll(t.Context(), goneWithin, "nothing is left of "+node, func(ctx context.Context) error {
		var all []error
		for _, other := range w.nodes {
			all = append(all, w.hasNothing(ctx, other, address, cidr))
		}
		return errors.Join(all...)
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("nothing was left of it after %.1f s", time.Since(deleted).Seconds())
	// It was its Node's deletion that did it: the agent there still gossips.
	if status, err := w.status(t.Context(), w.nodes[0]); err != nil || status.Gossip.Members != len(w.nodes)+1 {
		t.Errorf("gossip has %d members, %v; want also that of the deleted node", status.Gossip.Members, err)
	}
}

// awaitJoined waits until all others have a new node as their peer, and compares that with its agent's start.
func (w *world) awaitJoined(t *testing.T, node string) {
	t.Helper()
	joined := map[string]time.Time{}
	w.eventually(t, node+" is a peer of all others", func(ctx context.Context) error {
		for _, other := range w.nodes {
			if _, has := joined[other]; has {
				continue
			}
			if err := w.hasPlace(ctx, other, node); err != nil {
				return err
			}
			joined[other] = time.Now()
		}
		return nil
	})
	started := w.agentStarted(t, node)
	for other, at := range joined {
		took := at.Sub(started)
		if took > joinedWithin {
			t.Errorf("%s had %s as its peer %s after the start of its agent, want at most %s", other, node, took, joinedWithin)
		}
		t.Logf("%s had %s as its peer %.1f s after the start of its agent", other, node, took.Seconds())
	}
}

// agentStarted is when a node's agent said its first word.
func (w *world) agentStarted(t *testing.T, node string) time.Time {
	t.Helper()
	log, err := w.log(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(log, "\n")
	if !strings.Contains(first, "weaveguard-agent starts") {
		t.Fatalf("the log of %s begins with %q", node, first)
	}
	return timeOf(t, first)
}
