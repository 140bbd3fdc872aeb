// Command weaveguard-agent is the agent of one node. It only wires: the parts are in the packages below mesh, keys
// and cni, and here the adapters meet the loop. Its other modes run the userspace WireGuard daemon, and remove
// what Weaveguard made on the host.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

func main() {
	if err := eraseFreed(); err != nil {
		fmt.Fprintf(os.Stderr, "weaveguard-agent: keys that are given up may stay in freed memory: %v\n", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weaveguard-agent: %v\n", err)
		os.Exit(1)
	}
}

// newCommand is the command line: the agent itself, and its other modes.
func newCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "weaveguard-agent",
		Short: "Connect this node's pods to the other nodes' through WireGuard",
		Long: "weaveguard-agent runs on each node. It gossips the node's WireGuard public key and pod CIDRs to the\n" +
			"other nodes, and configures WireGuard, routes, the bridge and the firewall of this one. What it made\n" +
			"stays when it ends, so that an upgrade or a crash costs no packet.",
		Example: "  weaveguard-agent --kubernetes\n" +
			"  weaveguard-agent --peers 192.0.2.1,192.0.2.2 --gossip-key-file /etc/weaveguard/key --pod-cidr 10.32.5.0/24",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       contract.Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(); err != nil {
				return err
			}
			log, level, err := o.logger()
			if err != nil {
				return err
			}
			return run(cmd.Context(), o, log, level)
		},
	}
	o.register(cmd.Flags())
	o.registerHost(cmd.Flags())
	o.registerLog(cmd.PersistentFlags())
	cmd.AddCommand(newUserspaceCommand(&o), newCleanupCommand(&o))
	return cmd
}

// logger writes to standard error, as the flags say. How much, can be changed.
func (o *options) logger() (*slog.Logger, *slog.LevelVar, error) {
	level := &slog.LevelVar{}
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return nil, nil, fmt.Errorf("--log-level is %q: it takes debug, info, warn or error", o.LogLevel)
	}
	handler := slog.HandlerOptions{Level: level}
	switch strings.ToLower(o.LogFormat) {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, &handler)), level, nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, &handler)), level, nil
	}
	return nil, nil, fmt.Errorf("--log-format is %q: it takes text or json", o.LogFormat)
}
