package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// kubectl runs kubectl with the operator's own rights.
type kubectl struct {
	namespace, kubeconfig, context string
}

// addFlags adds the flags that are kubectl's.
func (k *kubectl) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&k.namespace, "namespace", "n", "kube-system", "namespace that Weaveguard is installed in")
	flags.StringVar(&k.kubeconfig, "kubeconfig", "", "kubeconfig file for kubectl")
	flags.StringVar(&k.context, "context", "", "context of the kubeconfig for kubectl")
}

// command is a command line of kubectl, to be run.
func (k kubectl) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--namespace", k.namespace}, args...)
	if k.kubeconfig != "" {
		args = append([]string{"--kubeconfig", k.kubeconfig}, args...)
	}
	if k.context != "" {
		args = append([]string{"--context", k.context}, args...)
	}
	return exec.CommandContext(ctx, "kubectl", args...)
}

// run returns what kubectl prints. What goes in goes by the standard input, so no secret is on a command line.
func (k kubectl) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := k.command(ctx, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case errors.As(err, &failed):
		return nil, &kubectlError{hideKeys(withoutLog(stderr.String()))}
	}
	return nil, explainKubectl(err)
}

// explainKubectl says why kubectl couldn't be run.
func explainKubectl(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return &adviceError{"there is no kubectl here",
			"run this where kubectl reaches the cluster; without Kubernetes, name the keyring with --file"}
	}
	return fmt.Errorf("running kubectl: %w", err)
}

// kubectlError is what kubectl said when it failed.
type kubectlError struct{ said string }

func (e *kubectlError) Error() string { return "kubectl: " + e.said }

// remedy is what to do about it.
func (e *kubectlError) remedy() string {
	switch {
	case strings.HasPrefix(e.said, "Error from server (Conflict)"):
		return "run it again"
	case strings.HasPrefix(e.said, "Error from server (Forbidden)"):
		return "ask for the right to do that, or name another user's kubeconfig or context with --kubeconfig or --context"
	}
	return "see that kubectl reaches the cluster from here ($KUBECONFIG, --kubeconfig, --context); without Kubernetes run `weaveguard` on the host " +
		"itself, for the keyring with --file"
}

// logLine begins a line of kubectl's log (klog's format): its level and the date.
var logLine = regexp.MustCompile(`^[EWI][0-9]{4} `)

// withoutLog leaves kubectl's log out of what it said: its last line says why it failed. If there is only log, its last line stays.
func withoutLog(said string) string {
	var kept []string
	last := ""
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if last = line; !logLine.MatchString(line) {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		return last
	}
	return strings.Join(kept, "\n")
}

// secretLike is base64 as long as a key's, or longer.
var secretLike = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=*`)

// hideKeys keeps keys that somebody else's message quotes from being printed.
func hideKeys(text string) string { return secretLike.ReplaceAllString(text, "(hidden)") }
