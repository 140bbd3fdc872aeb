package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Command prepares a command that runs in all namespaces of a host, as root's command there. It ends
// with ctx, and with the host. The caller may set its standard streams and starts it.
func (c *Cluster) Command(ctx context.Context, host string, command ...string) (*exec.Cmd, error) {
	h, err := c.host(ctx, host)
	if err != nil {
		return nil, err
	}
	if h.PID == 0 {
		return nil, fmt.Errorf("run %q on %s: it is down", strings.Join(command, " "), host)
	}
	args := append([]string{"--target=" + strconv.Itoa(h.PID), "--all", "--"}, command...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	// nsenter waits for its child, so both have to be killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, nil
}

// OnNode runs a command on a node (or another host) and returns its standard output. The error
// holds its standard error.
func (c *Cluster) OnNode(ctx context.Context, node string, command ...string) (string, error) {
	cmd, err := c.Command(ctx, node, command...)
	if err != nil {
		return "", err
	}
	return output(cmd, fmt.Sprintf("run %q on %s", strings.Join(command, " "), node))
}

// Interactive runs a command on a host with this process's standard streams, for a person at a
// terminal.
func (c *Cluster) Interactive(ctx context.Context, host string, command ...string) error {
	cmd, err := c.Command(ctx, host, command...)
	if err != nil {
		return err
	}
	// The terminal's signals go to the command, which decides.
	cmd.SysProcAttr = nil
	cmd.Cancel = func() error { return nil }
	signal.Ignore(syscall.SIGINT)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// Kubectl runs kubectl as cluster-admin and returns its standard output. The error holds its
// standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(c.kubectl(ctx, args...), "kubectl "+strings.Join(args, " "))
}

// KubectlApply runs "kubectl apply -f -" on a manifest.
func (c *Cluster) KubectlApply(ctx context.Context, manifest string) (string, error) {
	cmd := c.kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	return output(cmd, "kubectl apply")
}

func (c *Cluster) kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.tree.Programs(), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

func output(cmd *exec.Cmd, what string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Explain tells a person how to use the cluster.
func (c *Cluster) Explain(w io.Writer) error {
	kubeconfig := c.Kubeconfig()
	if published := filepath.Join(filepath.Dir(c.dir), "kubeconfig"); c.Name() == DefaultName {
		kubeconfig = published
	}
	name := ""
	if c.Name() != DefaultName {
		name = " --name " + c.Name()
	}
	wgcluster := c.tree.Path("build", "cluster-bin", "wgcluster") + name
	_, err := fmt.Fprintf(w, `
The cluster runs, without a pod network: its nodes stay NotReady until one is installed.

  export KUBECONFIG=%[1]s
  %[2]s get nodes                    (or any kubectl)
  %[3]s exec node-1 -- bash          a shell on a node
  %[3]s exec outside -- bash         a shell on a host outside the cluster
  %[3]s exec fabric -- tcpdump -ni fabric    the underlay's packets
  %[3]s load-image FILE              a docker archive for every node
  %[3]s node-add                     one more node
  %[3]s down                         the end
Logs: %[4]s
`, kubeconfig, filepath.Join(c.tree.Programs(), "kubectl"), wgcluster, filepath.Join(c.dir, "logs"))
	return err
}
