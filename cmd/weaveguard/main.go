// Command weaveguard is the operator's command line: it asks the agent of this node over its unix socket, and says
// in words what the mesh does and what to do about it. It never changes anything by itself: it asks the agent to, or, to
// attach a network namespace, the CNI plugin. The exception is the gossip keyring, which is the operator's: the agents follow
// it. It talks to Kubernetes by running kubectl: for the keyring, and when it is kubectl's plugin, to run in the agents' pods.
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
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/contract"
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
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line, which begins with the program's name, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := &options{stdout: newScreen(stdout), stderr: newScreen(stderr)}
	root := newCommand(o)
	if filepath.Base(args[0]) == pluginName {
		o.asPlugin(root)
	}
	root.SetArgs(args[1:])
	root.SetOut(o.stdout)
	root.SetErr(o.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var elsewhere *statusError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNo):
		return exitNo
	case errors.As(err, &elsewhere):
		return elsewhere.code
	}
	message, remedy := explain(inOwnWords(cmd, err))
	if !o.understood && remedy == "" {
		remedy = fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	}
	complain(o.stderr, message, remedy)
	return exitError
}

// options are what all commands have in common.
type options struct {
	socket         string
	colour         colouring
	width          int
	stdout, stderr *screen
	understood     bool    // the command line was fine
	plugin         *plugin // nil: the agent is on this node
}

func (o *options) client() api.Client { return api.Client{Socket: o.socket} }

// status asks the agent, wherever it is.
func (o *options) status(ctx context.Context) (view.Status, error) {
	if o.plugin != nil {
		return o.plugin.status(ctx)
	}
	return o.client().Status(ctx)
}

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
		PersistentPreRun: func(*cobra.Command, []string) {
			o.understood = true
			o.stdout.set(o.colour, o.width)
			o.stderr.set(o.colour, o.width)
		},
		SilenceUsage:       true,
		SilenceErrors:      true,
		DisableSuggestions: true,
		CompletionOptions:  cobra.CompletionOptions{DisableDefaultCmd: true}, // it has one of its own
	}
	cmd.SetUsageTemplate(strings.NewReplacer(".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", defaultWidth),
		" for more information about a command.", " tells more.").Replace(cmd.UsageTemplate()))
	cmd.PersistentFlags().StringVar(&o.socket, "socket", defaultSocket(), "unix socket of the agent, also $"+socketEnv)
	o.colour = colourAuto
	cmd.PersistentFlags().Var(&o.colour, "color", "auto, always or never; auto: on a terminal, unless $NO_COLOR is set")
	complete(cmd, "color", string(colourAuto), string(colourAlways), string(colourNever))
	cmd.PersistentFlags().IntVar(&o.width, "width", 0, "columns of the output")
	complete(cmd, "width")
	_ = cmd.PersistentFlags().MarkHidden("width") // there is one; it is for `kubectl weaveguard`
	cmd.AddCommand(
		newStatusCommand(o), newPeersCommand(o), newTopologyCommand(o), newPodsCommand(o), newUICommand(o), newRoutesCommand(o), newPingCommand(o), newWGCommand(o),
		newDoctorCommand(o), newReportCommand(o),
		newRotateCommand(o), newKeyringCommand(), newLogLevelCommand(o), newAttachCommand(o), newDetachCommand(o), newJoinCommand(o), newForgetCommand(o),
		newVersionCommand(o), newCompletionCommand(),
	)
	cmd.InitDefaultHelpCmd()
	if help, _, err := cmd.Find([]string{"help"}); err == nil {
		help.Example = "  weaveguard help status"
		help.Run, help.RunE = nil, helpOn
	}
	completeNoFiles(cmd)
	return cmd
}

func defaultSocket() string {
	if socket := os.Getenv(socketEnv); socket != "" {
		return socket
	}
	return contract.AgentSocket
}
