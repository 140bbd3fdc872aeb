package product_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
)

// fault makes a fault under traffic between pods of two nodes, of which nothing may be lost. The fault's function returns how
// long the recovery took.
func (w *world) fault(t *testing.T, order int, name string, do func(t *testing.T) time.Duration) {
	t.Helper()
	running := w.startTraffic(t, pod1, pod2)
	took := do(t)
	w.awaitMesh(t)
	running.goOn(t, w, 1)
	sent := running.stop(t)
	if t.Failed() {
		return
	}
	faults.Record(t, faults.Measurement{
		Order: order, Table: faults.Outages, Fault: name, Lane: faults.Cluster, Allowed: "0 lost", Sent: sent, Recovery: took,
	})
}

// pass returns when so much time has passed since a moment.
func pass(t *testing.T, since time.Time, d time.Duration) {
	t.Helper()
	err := cluster.Poll(t.Context(), d+patience, "some time has passed", func(context.Context) error {
		if left := d - time.Since(since); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// testRollout replaces all agents one after the other, as a new image does.
func (w *world) testRollout(t *testing.T) {
	w.fault(t, 20, "the DaemonSet is rolled out", func(t *testing.T) time.Duration {
		for _, node := range w.nodes {
			w.keepSaid(t, node)
		}
		begin := time.Now()
		w.kubectl(t, "rollout", "restart", "daemonset/weaveguard", "-n", system)
		w.kubectl(t, "rollout", "status", "daemonset/weaveguard", "-n", system, "--timeout=5m")
		return time.Since(begin)
	})
}

// testAllAgents kills all agents at once.
func (w *world) testAllAgents(t *testing.T) {
	w.fault(t, 21, "all agents are killed at once", func(t *testing.T) time.Duration {
		before := w.agentStarts(t)
		for _, node := range w.nodes {
			w.keepSaid(t, node)
			w.on(t, node, "sh", "-c", "kill -KILL "+agentPID)
		}
		begin := time.Now()
		w.eventually(t, "all agents run again", func(context.Context) error {
			for i, now := range w.agentStarts(t) {
				if now == before[i] {
					return fmt.Errorf("the agent of %s doesn't", w.nodes[i])
				}
			}
			return nil
		})
		return time.Since(begin)
	})
}

// readyWithoutAPI is how long an agent that was killed may take until its node is ready again while the API server is away: most
// of it is the kubelet's pause before it starts a container again.
const readyWithoutAPI = 25 * time.Second

// testAPIServerAway keeps the API server from answering, and kills an agent meanwhile, which comes back as a member of the
// same mesh.
func (w *world) testAPIServerAway(t *testing.T) {
	away := 10 * time.Second
	if full.Wanted() {
		away = 10 * time.Minute
	}
	node := w.nodes[0]
	w.fault(t, 22, fmt.Sprintf("the API server is away for %s, and an agent is killed", away), func(t *testing.T) time.Duration {
		w.keepSaid(t, node)
		resume := (&rotations{world: w}).stopAPIServer(t)
		stopped := time.Now()
		pid := func(ctx context.Context) (string, error) { return w.OnNode(ctx, node, "sh", "-c", "echo "+agentPID) }
		old, err := pid(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.on(t, node, "sh", "-c", "kill -KILL "+agentPID)
		w.eventually(t, "the agent runs again, and carries traffic", func(ctx context.Context) error {
			now, err := pid(ctx)
			if err != nil || now == old || strings.TrimSpace(now) == "" {
				return errors.Join(errors.New("there is no new process"), err)
			}
			_, err = w.OnNode(ctx, node, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6785/readyz")
			return err
		})
		took := time.Since(stopped)
		if took > readyWithoutAPI {
			t.Errorf("the agent was ready after %s", took)
		}
		pass(t, stopped, away)
		resume()
		return took
	})
}
