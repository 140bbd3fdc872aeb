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
		return nil, &kubectlError{hideKeys(strings.TrimSpace(stderr.String()))}
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

// secretLike is base64 as long as a key's, or longer.
var secretLike = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=*`)

// hideKeys keeps keys that somebody else's message quotes from being printed.
func hideKeys(text string) string { return secretLike.ReplaceAllString(text, "(hidden)") }
