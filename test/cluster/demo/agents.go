package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const namespace = metav1.NamespaceSystem

const agentLabels = "app.kubernetes.io/name=weaveguard,app.kubernetes.io/component=agent"

// agent is the pod of an agent.
type agent struct{ pod, node string }

// await waits for the nodes first, and then for the agents: a node is Ready once pods can be attached there.
func (d *demo) await(ctx context.Context) (string, error) {
	if err := d.until(ctx, "all nodes are Ready", d.nodesReady); err != nil {
		return "", err
	}
	d.row("%d of %d nodes are Ready after %.1f s", len(d.nodes), len(d.nodes), d.now().Sub(d.begun).Seconds())
	if err := d.until(ctx, "all agents see each other", d.agentsUp); err != nil {
		return "", err
	}
	return fmt.Sprintf("each of the %d agents says that %d of %[2]d peers are up", len(d.agents), len(d.nodes)-1), nil
}

// noNetwork is what the container runtime says of a node without a CNI configuration.
const noNetwork = "cni plugin not initialized"

// withoutNetwork checks that no node is Ready, and that it is for want of a network.
func (d *demo) withoutNetwork(ctx context.Context) error {
	list, err := d.cluster.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range list.Items {
		ready := cluster.Condition(node, corev1.NodeReady)
		if ready.Status != corev1.ConditionFalse || !strings.Contains(ready.Message, noNetwork) {
			return fmt.Errorf("node %s is expected to say %q, and says %q", node.Name, noNetwork, ready.Message)
		}
	}
	return nil
}

// nodesReady checks that all nodes are. What keeps the agents from running is told first: it is the cause.
func (d *demo) nodesReady(ctx context.Context) error {
	list, err := d.cluster.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, node := range list.Items {
		if ready := cluster.Condition(node, corev1.NodeReady); ready.Status != corev1.ConditionTrue {
			errs = append(errs, fmt.Errorf("node %s isn't Ready: %s", node.Name, ready.Message))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	if _, err := d.findAgents(ctx); err != nil {
		return err
	}
	return errors.Join(errs...)
}

func (d *demo) agentsUp(ctx context.Context) error {
	agents, err := d.findAgents(ctx)
	if err != nil {
		return err
	}
	d.agents = agents
	var errs []error
	for _, a := range agents {
		if status, err := d.status(ctx, a, "--check"); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", a.node, headline(status, err)))
		}
	}
	return errors.Join(errs...)
}

// findAgents finds the agents, one on each node, in the order of the nodes. It is an error when one doesn't run, and a
// hopeless one when it never will.
func (d *demo) findAgents(ctx context.Context) ([]agent, error) {
	pods, err := d.cluster.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentLabels})
	if err != nil {
		return nil, err
	}
	byNode := map[string]corev1.Pod{}
	for _, p := range pods.Items {
		byNode[p.Spec.NodeName] = p
	}
	var agents []agent
	for _, node := range d.nodes {
		p, found := byNode[node]
		if !found {
			return nil, fmt.Errorf("node %s has no pod of the DaemonSet weaveguard", node)
		}
		if err := running(p); err != nil {
			return nil, fmt.Errorf("pod %s on %s doesn't run: %w", p.Name, node, err)
		}
		agents = append(agents, agent{pod: p.Name, node: node})
	}
	return agents, nil
}

// running says why a pod of one container doesn't run, in short.
func running(p corev1.Pod) error {
	for _, c := range p.Status.ContainerStatuses {
		w := c.State.Waiting
		switch {
		case c.State.Running != nil:
			return nil
		case w == nil:
		case strings.Contains(w.Reason, "Image"): // ErrImagePull, ErrImageNeverPull, InvalidImageName, ...
			return hopeless{fmt.Errorf("%s: the node doesn't have the image %s, and there is no registry", w.Reason, c.Image)}
		case w.Message == "":
			return errors.New(w.Reason)
		default:
			return fmt.Errorf("%s: %s", w.Reason, w.Message)
		}
	}
	return fmt.Errorf("it is %s", p.Status.Phase)
}

// status is what `weaveguard status` says in an agent's pod.
func (d *demo) status(ctx context.Context, a agent, args ...string) (string, error) {
	return d.cluster.Kubectl(ctx, append(statusCommand(a), args...)...)
}

func statusCommand(a agent) []string {
	return []string{"exec", "-n", namespace, a.pod, "-c", "weave", "--", "weaveguard", "status"}
}

// headline is the first paragraph of a status, as one line; without one, the error.
func headline(status string, err error) string {
	if status == "" && err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(status, "\n\n")
	return strings.Join(strings.Fields(first), " ")
}

// look shows what an operator would look at.
func (d *demo) look(ctx context.Context) (string, error) {
	a := d.agents[0]
	shown, err := d.cluster.OnNode(ctx, a.node, "wg", "show")
	if err != nil {
		return "", err
	}
	if got := strings.Count(shown, "latest handshake:"); got < len(d.nodes)-1 {
		return "", fmt.Errorf("wg show on %s lists %d peers with a handshake, want %d:\n%s", a.node, got, len(d.nodes)-1, shown)
	}
	status, err := d.status(ctx, a, "--check")
	if err != nil {
		return "", fmt.Errorf("the agent of %s: %s", a.node, headline(status, err))
	}
	d.show(a.node+"# wg show", shown)
	d.show("$ kubectl "+strings.Join(statusCommand(a), " "), status)
	fmt.Fprintln(d.out)
	return "the node has a session with each of the others", nil
}
