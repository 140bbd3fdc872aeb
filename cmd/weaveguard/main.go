// Command weaveguard is the operator's command line: it asks the agent of this node over its unix socket, and says
// in words what the mesh does and what to do about it. It never changes anything by itself: it asks the agent to, or, to
// attach a network namespace, the CNI plugin. The exception is the gossip keyring, which is the operator's: the agents follow it. It talks to Kubernetes by running
// kubectl, and only for that.
//
// There is one file for each command. All that is printed goes through output.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Exit codes, a contract with scripts.
const (
	exitNo    = 1 // the question was answered with no
	exitError = 2 // it couldn't be answered
)

// errNo says that the answer to what was asked is no. It has been told already.
var errNo = errors.New("no")

const socketEnv = "WEAVEGUARD_SOCKET"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := &options{}
	root := newCommand(o)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNo):
		return exitNo
	}
	message, remedy := explain(err)
	if !o.understood {
		remedy = fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	}
	complain(stderr, message, remedy)
	return exitError
}

// options are what all commands have in common.
type options struct {
	socket     string
	understood bool // the command line was fine
}

func (o *options) client() api.Client { return api.Client{Socket: o.socket} }

func newCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "weaveguard",
		Short: "See what Weaveguard does on this node, and change its key",
		Long: "weaveguard asks the Weaveguard agent of this node what it sees and does, or for\n" +
			"a new key. Run it as root on the node, or in the agent's pod.\n\n" +
			"Exit status: 0 when all went well, 1 when what was asked is answered with no\n" +
			"(as by status --check), 2 when it couldn't be answered, or was refused.",
		Example: "  weaveguard status\n" +
			"  kubectl exec -n kube-system ds/weaveguard -c weave -- weaveguard status",
		PersistentPreRun:   func(*cobra.Command, []string) { o.understood = true },
		SilenceUsage:       true,
		SilenceErrors:      true,
		DisableSuggestions: true,
		CompletionOptions:  cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", defaultWidth)))
	cmd.PersistentFlags().StringVar(&o.socket, "socket", defaultSocket(), "unix socket of the agent, also $"+socketEnv)
	cmd.AddCommand(newStatusCommand(o), newRotateCommand(o), newAttachCommand(o), newDetachCommand(o),
		newForgetCommand(o), newJoinCommand(o),
		newKeyringCommand(), newVersionCommand(o))
	return cmd
}

func defaultSocket() string {
	if socket := os.Getenv(socketEnv); socket != "" {
		return socket
	}
	return view.AgentSocket
}
