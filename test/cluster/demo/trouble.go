package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	explainTimeout = time.Minute
	logLines       = 8 // of each pod
	eventLines     = 6
)

// explain shows after a failure what helps to find its cause. What can't be had is told too.
func (d *demo) explain(ctx context.Context) {
	if d.cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	d.say("\n%s", d.paint(bold, "What may help to find out why"))
	d.try(ctx, "get", "nodes")
	d.try(ctx, "get", "pods", "-A")
	d.warnings(ctx)
	d.podsSay(ctx)
	logs := d.tree.Path("build", "cluster-logs", "demo")
	if err := d.cluster.SaveLogs(logs); err != nil {
		d.say("\nThe logs of Kubernetes can't be kept: %v", err)
		return
	}
	if relative, err := filepath.Rel(d.tree.Root, logs); err == nil {
		logs = relative
	}
	d.say("\nThe logs of Kubernetes and of all nodes are in %s.", logs)
}

// try runs kubectl and shows what it says, or that it failed.
func (d *demo) try(ctx context.Context, args ...string) {
	out, err := d.cluster.Kubectl(ctx, args...)
	if err != nil {
		out = strings.Join(wrap(err.Error(), width), "\n")
	}
	d.show("$ kubectl "+strings.Join(args, " "), out)
}

// warnings shows the newest events that are warnings.
func (d *demo) warnings(ctx context.Context) {
	args := []string{"get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp", "--no-headers",
		"-o=custom-columns=O:.involvedObject.name,R:.reason,M:.message"}
	out, err := d.cluster.Kubectl(ctx, args...)
	if err != nil {
		out = err.Error()
	}
	var lines []string
	for line := range strings.SplitSeq(lastLines(out, eventLines), "\n") {
		lines = append(lines, strings.Join(wrap("- "+line, width-2), "\n  "))
	}
	d.show("$ kubectl get events -A --field-selector=type=Warning     (the newest)", strings.Join(lines, "\n"))
}

// podsSay shows what each pod of Weaveguard that runs says: an agent its status, and all their last lines of log.
func (d *demo) podsSay(ctx context.Context) {
	pods, err := d.cluster.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=weaveguard",
	})
	if err != nil {
		d.say("\nThe pods aren't known: %v", err)
		return
	}
	for _, p := range pods.Items {
		if running(p) != nil {
			continue // why not is among the events
		}
		if p.Labels["app.kubernetes.io/component"] == "agent" {
			status, err := d.status(ctx, agent{pod: p.Name, node: p.Spec.NodeName})
			d.show(p.Spec.NodeName+"# weaveguard status     (its first lines)", strings.Join(wrap(headline(status, err), width), "\n"))
		}
		d.try(ctx, "logs", "-n", namespace, p.Name, "weave", fmt.Sprintf("--tail=%d", logLines))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
