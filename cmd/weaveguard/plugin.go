package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// pluginName is the program's name when it is a plugin of kubectl, which runs it as `kubectl weaveguard`.
const pluginName = "kubectl-weaveguard"

// What a command is annotated with that `kubectl weaveguard` doesn't only run on the node that --node names.
const (
	placeAnnotation = "weaveguard.io/runs"
	placeHere       = "here"     // where kubectl runs; also all commands below it
	placeAnyNode    = "any node" // without --node on some node: it only looks
	placeHost       = "host"     // on the host itself alone: what it works on isn't in the agent's pod
)

// inPlace is the annotation of a command.
func inPlace(place string) map[string]string { return map[string]string{placeAnnotation: place} }

// The agents' pods, as the manifest has them.
const (
	agentSelector  = "app.kubernetes.io/name=weaveguard,app.kubernetes.io/component=agent"
	agentContainer = "weave"
)

// plugin runs commands in the agents' pods.
type plugin struct {
	kubectl kubectl
	node    string // "": any
}

// asPlugin makes a command tree that of `kubectl weaveguard`: its commands run in the pod of an agent.
func (o *options) asPlugin(root *cobra.Command) {
	o.plugin = &plugin{}
	root.Use = pluginName
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl weaveguard"}
	root.Short = "Run weaveguard in the agent's pod of a node"
	root.Long = "kubectl weaveguard runs weaveguard in the agent's pod of a node, by kubectl exec\n" +
		"and so with your own rights. The node is that of --node; without it commands\n" +
		"that only look ask any agent that is ready.\n\n" +
		"Exit status: that of weaveguard in the pod; 2 when it couldn't be run there."
	root.Example = "  kubectl weaveguard status --node worker-2\n" +
		"  kubectl weaveguard peers\n" +
		"  kubectl weaveguard ping --matrix\n" +
		"  kubectl weaveguard ui\n" +
		"  kubectl weaveguard rotate --node worker-2 --wait"
	flags := root.PersistentFlags()
	flags.StringVar(&o.plugin.node, "node", "", "node whose agent is asked")
	_ = root.RegisterFlagCompletionFunc("node", o.plugin.completeNode) // it fails for flags that aren't there
	o.plugin.kubectl.addFlags(flags)
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		root.RemoveCommand(completion) // kubectl's own has that
	}
	o.plugin.take(root)
	o.plugin.addMatrix(root)
	o.plugin.addUI(root)
}

// take makes a command, and those below it, run in a pod.
func (pl *plugin) take(cmd *cobra.Command) {
	if cmd.Annotations[placeAnnotation] == placeHere {
		return
	}
	switch {
	case cmd.Annotations[placeAnnotation] == placeHost:
		cmd.Run, cmd.RunE = nil, onlyOnHost
	case cmd.Runnable() && cmd.HasParent() && cmd.Name() != "help":
		cmd.Run, cmd.RunE = nil, pl.run
	}
	for _, child := range cmd.Commands() {
		pl.take(child)
	}
}

// onlyOnHost refuses a command that has nothing to do in the agent's pod.
func onlyOnHost(cmd *cobra.Command, args []string) error {
	return &adviceError{cmd.Name() + " is about network namespaces of the host, which aren't in the agent's pod",
		"run it on the host itself: `" + strings.Join(append([]string{"weaveguard", cmd.Name()}, args...), " ") + "`"}
}

// run runs a command line in a pod.
func (pl *plugin) run(cmd *cobra.Command, args []string) error {
	if pl.node == "" && cmd.Annotations[placeAnnotation] != placeAnyNode {
		return &adviceError{"it isn't said on which node", "name it: `" + cmd.CommandPath() + " --node NODE`"}
	}
	return pl.exec(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), pl.commandLine(cmd, args)...)
}

// commandLine is what a command was called with, for the pod: without the flags that are kubectl's, and with what is
// known of the screen here.
func (pl *plugin) commandLine(cmd *cobra.Command, args []string) []string {
	line := strings.Fields(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().CommandPath()))
	screen := newScreen(cmd.OutOrStdout())
	colour := colourNever
	if screen.colour {
		colour = colourAlways
	}
	line = append(line, "--color="+string(colour), "--width="+strconv.Itoa(screen.width))
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f == cmd.Root().PersistentFlags().Lookup(f.Name) && f.Name != "socket" { // those of the command itself go with it
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			line = append(line, "--"+f.Name+"="+value)
		}
	})
	if len(args) > 0 {
		line = append(append(line, "--"), args...)
	}
	return line
}

// status is the status of the agent.
func (pl *plugin) status(ctx context.Context) (view.Status, error) {
	var stdout, stderr bytes.Buffer
	if err := pl.exec(ctx, &stdout, &stderr, "status", "-o", "json"); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = errors.New(strings.TrimPrefix(said, voice))
		}
		return view.Status{}, err
	}
	var s view.Status
	if err := json.Unmarshal(stdout.Bytes(), &s); err != nil {
		return view.Status{}, fmt.Errorf("reading the agent's status: %w", err)
	}
	return s, nil
}

// statusError is the exit status of a command that ran elsewhere. What there was to say has been said there.
type statusError struct{ code int }

func (e *statusError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// exec runs weaveguard in the pod of the node. It returns an statusError when that, or kubectl, fails and has said why.
func (pl *plugin) exec(ctx context.Context, stdout, stderr io.Writer, args ...string) error {
	pod, err := pl.pod(ctx)
	if err != nil {
		return err
	}
	return pl.execIn(ctx, pod, nil, stdout, stderr, args...)
}

// execIn is like exec, in a certain pod, and with a standard input, or none.
func (pl *plugin) execIn(ctx context.Context, pod agentPod, stdin io.Reader, stdout, stderr io.Writer, args ...string) error {
	line := []string{"exec", pod.Metadata.Name, "--container", agentContainer}
	if stdin != nil {
		line = append(line, "--stdin")
	}
	cmd := pl.kubectl.command(ctx, append(append(line, "--", "weaveguard"), args...)...)
	cmd.Stdin = stdin
	ended := &terminations{out: stderr}
	cmd.Stdout, cmd.Stderr = stdout, ended
	if s, ok := stdout.(*screen); ok {
		cmd.Stdout = s.Writer // kubectl itself writes to the file, if it is one
	}
	err := cmd.Run()
	ended.flush()
	var failed *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ended.code != 0:
		return &statusError{ended.code}
	case errors.As(err, &failed):
		return &statusError{exitError}
	}
	return explainKubectl(err)
}

// log is the end of the log of an agent.
func (pl *plugin) log(ctx context.Context, pod agentPod) ([]byte, error) {
	return pl.kubectl.run(ctx, nil, "logs", pod.Metadata.Name, "--container", agentContainer, "--tail", logLines)
}

// terminations passes on what kubectl says, but for its log, and the line by which it tells how a command ended.
type terminations struct {
	out  io.Writer
	line []byte // that isn't whole yet
	code int    // the exit status, once it is told
}

var terminated = regexp.MustCompile(`^command terminated with exit code ([0-9]+)\s*$`)

func (t *terminations) Write(text []byte) (int, error) {
	t.line = append(t.line, text...)
	for {
		end := bytes.IndexByte(t.line, '\n')
		if end < 0 {
			return len(text), nil
		}
		t.pass(t.line[:end+1])
		t.line = t.line[end+1:]
	}
}

func (t *terminations) pass(line []byte) {
	if match := terminated.FindSubmatch(line); match != nil {
		t.code, _ = strconv.Atoi(string(match[1])) // digits
		return
	}
	if logLine.Match(line) {
		return // its last line is enough
	}
	_, _ = t.out.Write(line) // there is nowhere left to complain to
}

// flush passes on what has no end of line.
func (t *terminations) flush() {
	if len(t.line) > 0 {
		t.pass(t.line)
	}
}

// agentPod is what is needed of an agent's pod.
type agentPod struct {
	Metadata struct{ Name string }
	Spec     struct{ NodeName string }
	Status   struct {
		Phase      string
		Conditions []struct{ Type, Status string }
	}
}

func (p agentPod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// pods are the agents' pods, those that are ready first, then by node.
func (pl *plugin) pods(ctx context.Context) ([]agentPod, error) {
	out, err := pl.kubectl.run(ctx, nil, "get", "pods", "--selector", agentSelector, "--output", "json")
	if err != nil {
		return nil, fmt.Errorf("looking for the agents' pods: %w", err)
	}
	var list struct{ Items []agentPod }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("looking for the agents' pods: kubectl printed something else: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, &adviceError{"there is no agent's pod in the namespace " + pl.kubectl.namespace,
			"apply Weaveguard's manifest, or name its namespace with --namespace"}
	}
	rank := func(p agentPod) int {
		switch {
		case p.ready():
			return 0
		case p.Status.Phase == "Running":
			return 1
		}
		return 2
	}
	slices.SortFunc(list.Items, func(a, b agentPod) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Spec.NodeName, b.Spec.NodeName), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	return list.Items, nil
}

// pod is the one to run in. One that isn't ready can be asked why.
func (pl *plugin) pod(ctx context.Context) (agentPod, error) {
	pods, err := pl.pods(ctx)
	if err != nil {
		return agentPod{}, err
	}
	i := slices.IndexFunc(pods, func(p agentPod) bool { return pl.node == "" || p.Spec.NodeName == pl.node })
	if i < 0 {
		return agentPod{}, unknown("node with an agent", pl.node, nodesOf(pods), "kubectl get nodes")
	}
	if pod := pods[i]; pod.Status.Phase != "Running" {
		message := fmt.Sprintf("the agent's pod %s on the node %s doesn't run: it is %s", pod.Metadata.Name, pod.Spec.NodeName, pod.Status.Phase)
		if pl.node == "" {
			message = "no agent's pod runs: " + pod.Metadata.Name + " is " + pod.Status.Phase
		}
		return agentPod{}, &adviceError{message,
			fmt.Sprintf("see `kubectl -n %s describe pod %s`", pl.kubectl.namespace, pod.Metadata.Name)}
	}
	return pods[i], nil
}

func nodesOf(pods []agentPod) []string {
	var nodes []string
	for _, p := range pods {
		nodes = append(nodes, p.Spec.NodeName)
	}
	slices.Sort(nodes)
	return nodes
}

// completeNode completes the name of a node that has an agent.
func (pl *plugin) completeNode(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	pods, err := pl.pods(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nodesOf(pods), cobra.ShellCompDirectiveNoFileComp
}
