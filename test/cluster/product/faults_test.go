package product_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
)

// fault makes a fault under traffic between pods of each two nodes, of which nothing may be lost. The fault's function returns
// how long the recovery took.
func (w *world) fault(t *testing.T, order int, name string, do func(t *testing.T) time.Duration) {
	t.Helper()
	running := w.startTraffic(t, pod1, pod2, pod3)
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
		requests := w.countRequests(t)
		begin := time.Now()
		w.kubectl(t, "rollout", "restart", "daemonset/weaveguard", "-n", system)
		w.kubectl(t, "rollout", "status", "daemonset/weaveguard", "-n", system, "--timeout=5m")
		took := time.Since(begin)
		w.awaitMesh(t)
		record(t, 2, "the DaemonSet is rolled out", requests(), startRequests)
		return took
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

// apiServerPort is where the API server listens on the control plane's host.
const apiServerPort = "6443"

// testAPIServerAway keeps the API server from answering, and kills an agent meanwhile, which comes back as a member of the
// same mesh. Then the nodes' connections to the API server are refused, until it is back.
func (w *world) testAPIServerAway(t *testing.T) {
	away := 10 * time.Second
	if full.Wanted() {
		away = 10 * time.Minute
	}
	node, program := w.nodes[0], buildProgram(t, "./cmd/weaveguard")
	w.fault(t, 22, fmt.Sprintf("the API server is away for %s, and an agent is killed", away), func(t *testing.T) time.Duration {
		w.keepSaid(t, node)
		pods, err := w.allPods(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		requests := w.countRequests(t)
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
		w.eventually(t, "the agent is a member of the mesh without the API server", func(ctx context.Context) error {
			text, err := w.OnNode(ctx, node, program, "status", "-o", "json") // kubectl exec would need the API server
			if err != nil {
				return err
			}
			status, err := readStatus(node, text)
			if err != nil {
				return err
			}
			if err := w.isMember(status); err != nil {
				return err
			}
			if text, err = w.OnNode(ctx, node, program, "topology", "-o", "json"); err != nil {
				return err
			}
			return tellsOf(pods, node, text)
		})
		restore := w.refuseAPIServer(t)
		pass(t, stopped, away)
		w.awaitRefused(t, node)
		restore()
		resume()
		w.awaitMesh(t)
		w.eventually(t, "the agent that was killed hears from the API server", func(ctx context.Context) error {
			status, err := w.status(ctx, node)
			if err == nil && status.Kubernetes != "connected" {
				err = fmt.Errorf("it is %s", status.Kubernetes)
			}
			return err
		})
		record(t, 3, fmt.Sprintf("the API server is away for %s, until an agent that was killed meanwhile hears from it", away), requests(), startRequests)
		return took
	})
}

// isMember tells whether a status says that all other nodes are its peers, up and heard in gossip.
func (w *world) isMember(status view.Status) error {
	if len(status.Peers) != len(w.nodes)-1 || status.Gossip.Members != len(w.nodes) {
		return fmt.Errorf("it has %d peers, and gossip %d members", len(status.Peers), status.Gossip.Members)
	}
	for _, peer := range status.Peers {
		if !peer.Up || !peer.Gossip {
			return fmt.Errorf("%s is up: %t, heard in gossip: %t: %s", peer.Node, peer.Up, peer.Gossip, peer.Reason)
		}
	}
	return nil
}

// refuseAPIServer has the control plane's host reset all connections of nodes to the API server, until that is restored.
func (w *world) refuseAPIServer(t *testing.T) (restore func()) {
	t.Helper()
	rule := func(ctx context.Context, what string) error {
		_, err := w.OnNode(ctx, cluster.ControlPlane, "iptables", "--wait", what, "INPUT", "-i", "eth0", "-p", "tcp", "--dport", apiServerPort,
			"-j", "REJECT", "--reject-with", "tcp-reset")
		return err
	}
	if err := rule(t.Context(), "--insert"); err != nil {
		t.Fatal(err)
	}
	restored := false
	t.Cleanup(func() {
		if !restored {
			_ = rule(context.Background(), "--delete") // the test's context has ended by now
		}
	})
	return func() {
		t.Helper()
		if err := rule(t.Context(), "--delete"); err != nil {
			t.Fatal(err)
		}
		restored = true
	}
}

// awaitRefused waits until a node's connection to the API server is refused.
func (w *world) awaitRefused(t *testing.T, node string) {
	t.Helper()
	at, err := w.Address(t.Context(), cluster.ControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "connections to the API server are refused", func(ctx context.Context) error {
		_, err := w.OnNode(ctx, node, "bash", "-c", "exec 3<>/dev/tcp/"+at.String()+"/"+apiServerPort)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("connecting from %s: %v", node, err)
		}
		return nil
	})
}
