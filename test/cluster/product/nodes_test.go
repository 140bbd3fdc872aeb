package product_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/weaveguard/weaveguard/test/cluster"
)

// agentPID is a node's agent for its shell.
const agentPID = `$(pgrep -xf '/weaveguard-agent --kubernetes .*')`

// agentStarts tells the agents of the nodes at the start apart from any that come later.
func (w *world) agentStarts(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, node := range w.nodes {
		pod, err := w.agentPod(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		var restarts int32
		for _, c := range pod.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
		all = append(all, fmt.Sprintf("%s, %d restarts", pod.Name, restarts))
	}
	return all
}

// testPowerCut stops a node altogether: it keeps its place, and comes back as who it was. A pod there sends without pause
// from its first moment, as others send to pods there, and nothing of it is ever in the clear, but when it boots without an
// agent and with what tells that pods may start.
func (w *world) testPowerCut(t *testing.T) {
	node, others := w.nodes[2], w.nodes[:2]
	const beacon = "beacon"
	heard := w.hear(t, pod1)
	pod := cluster.Pod{Name: beacon, Node: node, Args: []string{"shout", join(w.podIP(t, pod1).String(), blindPort)}}
	if err := errors.Join(w.RunPod(t.Context(), pod), w.WaitPodReady(t.Context(), beacon)); err != nil {
		t.Fatal(err)
	}
	w.awaitMore(t, "the beacon is heard", heard)
	senders := []*blind{w.sendBlindly(t, place{pod1, true}, w.podIP(t, pod3)), w.sendBlindly(t, place{name: others[0]}, w.podIP(t, beacon))}
	under := w.watchUnderlay(t)
	w.allTry(t, senders)
	before, agents := w.mustWG(t, node), w.agentStarts(t)
	if err := w.StopNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.awaitSilent(t, others, node)
	for _, other := range others {
		if err := w.hasPlace(t.Context(), other, node); err != nil {
			t.Errorf("a node that only stopped lost its place: %v", err)
		}
	}
	if err := w.StartNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.awaitMesh(t)
	if after := w.mustWG(t, node); !slices.Equal(after.publicKeys(), before.publicKeys()) {
		t.Errorf("%s had the keys %v before it stopped, and has %v", node, before.publicKeys(), after.publicKeys())
	}
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	// The kubelet gives the pods that were there new sandboxes.
	w.eventually(t, "the pod of "+node+" is reached again", func(ctx context.Context) error {
		address, err := w.PodIP(ctx, pod3)
		if err != nil {
			return err
		}
		s, err := w.get(ctx, place{pod1, true}, address.String(), httpPort)
		if err == nil && s.Hostname != pod3 {
			err = fmt.Errorf("%s answers", s.Hostname)
		}
		return err
	})
	w.awaitMore(t, "the beacon is heard", heard)
	w.allTry(t, senders)
	under.stop(t, w).judge(t, nil, 1)
	w.bootUnguarded(t, node, beacon, w.podIP(t, pod1))
	w.awaitMore(t, "the beacon is heard", heard)
	if err := w.DeletePod(t.Context(), beacon); err != nil {
		t.Fatal(err)
	}
	if now := w.agentStarts(t)[:len(others)]; !slices.Equal(now, agents[:len(others)]) {
		t.Errorf("a peer was away, and agents were started again: they were %v and are %v", agents[:len(others)], now)
	}
}

// awaitSilent waits until the gossip of some nodes has noticed that another is silent.
func (w *world) awaitSilent(t *testing.T, nodes []string, silent string) {
	t.Helper()
	for _, node := range nodes {
		w.eventually(t, node+" misses "+silent, func(ctx context.Context) error {
			status, err := w.status(ctx, node)
			if err != nil {
				return err
			}
			for _, peer := range status.Peers {
				if peer.Node == silent && !peer.Gossip {
					return nil
				}
			}
			return fmt.Errorf("its peers are %+v", status.Peers)
		})
	}
}

// testAgentsEnd ends a node's agent, and stops its kubelet and containerd, so that nobody starts it again. Its pods
// run on, and the node keeps its place.
func (w *world) testAgentsEnd(t *testing.T) {
	node, others := w.nodes[1], []string{w.nodes[0], w.nodes[2]}
	running := w.startTraffic(t, pod1, pod2, pod3) // the second is on that node
	resume := w.endAgent(t, node)
	w.awaitSilent(t, others, node)
	for _, other := range others {
		if err := w.hasPlace(t.Context(), other, node); err != nil {
			t.Errorf("a node whose agent ended lost its place: %v", err)
		}
	}
	running.goOn(t, w, 1)
	if err := resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitMesh(t)
	running.goOn(t, w, 1)
	running.stop(t)
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

// endAgent ends a node's agent, and has nobody start it again until the returned function is called.
func (w *world) endAgent(t *testing.T, node string) (resume func(context.Context) error) {
	t.Helper()
	resume = w.stopKubelet(t, node)
	w.on(t, node, "sh", "-c", "kill -KILL "+agentPID)
	return resume
}

// stopKubelet stops a node's kubelet and containerd until the returned function is called.
func (w *world) stopKubelet(t *testing.T, node string) (resume func(context.Context) error) {
	t.Helper()
	// Both would be started again by the host if they ended; that they don't run is what counts.
	return w.pause(t, node, "$(pidof kubelet containerd)")
}

// pause stops processes of a node, given as its shell finds their PIDs, until the returned function is called.
func (w *world) pause(t *testing.T, node, pids string) (resume func(context.Context) error) {
	t.Helper()
	w.on(t, node, "sh", "-c", "kill -STOP "+pids)
	resume = func(ctx context.Context) error {
		_, err := w.OnNode(ctx, node, "sh", "-c", "kill -CONT "+pids)
		return err
	}
	t.Cleanup(func() { _ = resume(context.Background()) })
	return resume
}

// testAgentRestart deletes an agent's pod: the next one adopts what is there.
func (w *world) testAgentRestart(t *testing.T) {
	const interfaces = `cd /sys/class/net && grep -H . weave/ifindex weave-wg*/ifindex weave/address; cat /proc/net/route | sort`
	node := w.nodes[0]
	running := w.startTraffic(t, pod1, pod2, pod3)
	before, devices := map[string]wgDump{}, w.on(t, node, "sh", "-c", interfaces)
	for _, n := range w.nodes {
		before[n] = w.mustWG(t, n)
	}
	identity := w.nodeObject(t, node).Annotations["weaveguard.io/identity"]
	old, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	w.keepSaid(t, node)
	w.kubectl(t, "delete", "pod", old.Name, "-n", system, "--wait=false")
	w.eventually(t, "another agent runs on "+node, func(ctx context.Context) error {
		pod, err := w.agentPod(ctx, node)
		if err != nil {
			return err
		}
		if pod.Name == old.Name {
			return errors.New("the one before is still there")
		}
		status, err := w.status(ctx, node)
		if err == nil && (!status.Ready || status.Gossip.Members != len(w.nodes)) {
			err = fmt.Errorf("ready: %t; gossip has %d members", status.Ready, status.Gossip.Members)
		}
		return err
	})
	w.awaitMesh(t)
	running.goOn(t, w, 1)
	for _, n := range w.nodes {
		if err := keptSessions(before[n], w.mustWG(t, n)); err != nil {
			t.Errorf("wg on %s: %v", n, err)
		}
	}
	if now := w.on(t, node, "sh", "-c", interfaces); now != devices {
		t.Errorf("devices and routes were\n%s\nand are\n%s", devices, now)
	}
	if now := w.nodeObject(t, node).Annotations["weaveguard.io/identity"]; now != identity || identity == "" {
		t.Errorf("the identity was %q and is %q", identity, now)
	}
	status, err := w.status(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if n := status.Counters.KernelWrites; n != 0 {
		log, _ := w.log(t.Context(), node)
		t.Errorf("the new agent made %d changes to what it found; its log:\n%s", n, log)
	}
	running.stop(t)
}
