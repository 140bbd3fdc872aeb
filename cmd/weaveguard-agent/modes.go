package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/mesh/weavenet"
)

func newUserspaceCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "userspace",
		Short: "Run WireGuard in userspace, for kernels that have none",
		Long: "userspace makes tunnel devices over TUN when the agent asks for them, and carries their traffic. It is a\n" +
			"process of its own so that the agent can be restarted and upgraded without losing sessions; replacing\n" +
			"this process loses them for a moment. Where the kernel has WireGuard it has nothing to do.",
		Example: "  weaveguard-agent userspace",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, _, err := o.logger()
			if err != nil {
				return err
			}
			return userspace.Serve(cmd.Context(), userspace.Config{Socket: o.userspaceSocket(), Version: contract.Version(), Log: log})
		},
	}
}

func (o *options) userspaceSocket() string { return filepath.Join(o.RunDir, "userspace.sock") }

func (o *options) agentSocket() string { return filepath.Join(o.RunDir, "agent.sock") }

func newCleanupCommand(o *options) *cobra.Command {
	weaveNet := false
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what Weaveguard made in this host's kernel and CNI directories",
		Long: "cleanup removes the tunnel devices, routes, firewall rules, bridge and CNI configuration of Weaveguard from\n" +
			"this host. End the agent and all pods first. Keys stay, and settings of the kernel, on which others may rely.\n\n" +
			"With --weave-net it removes what Weave Net left instead, and nothing of Weaveguard's, whose agent may run: interfaces, rules\n" +
			"of iptables, ipsets, and files. It refuses to as long as Weave Net runs or has pods on this host.",
		Example: "  weaveguard-agent cleanup\n" +
			"  weaveguard-agent cleanup --weave-net",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, _, err := o.logger()
			if err != nil {
				return err
			}
			if weaveNet {
				return o.cleanupWeaveNet(cmd.Context(), cmd.OutOrStdout())
			}
			if err := api.Retire(o.agentSocket(), func() error { return o.cleanup(cmd.Context(), log) }); err != nil {
				return fmt.Errorf("cleaning up: %w", err)
			}
			return nil
		},
	}
	o.registerHost(cmd.Flags())
	cmd.Flags().BoolVar(&weaveNet, "weave-net", false, "remove what Weave Net left, and nothing else")
	return cmd
}

// weaveNetState is where Weave Net keeps its peers and addresses.
const weaveNetState = "/var/lib/weave"

// cleanupWeaveNet removes what Weave Net left, and tells what that was.
func (o *options) cleanupWeaveNet(ctx context.Context, out io.Writer) error {
	done, err := weavenet.Clean(ctx, weavenet.Config{ConfDir: o.CNIConfDir, BinDir: o.CNIBinDir, StateDir: weaveNetState})
	for _, what := range done.Removed {
		fmt.Fprintln(out, "removed:", what)
	}
	for _, what := range done.Left {
		fmt.Fprintln(out, "left:", what)
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		fmt.Fprintln(out, "not seen:", weaveNetState, "of the node, which this pod doesn't show: remove it there")
	}
	if len(done.Removed)+len(done.Left) == 0 && err == nil {
		fmt.Fprintln(out, "there is nothing of Weave Net's")
	}
	if err != nil {
		return fmt.Errorf("removing what Weave Net left: %w", err)
	}
	return nil
}

// cleanup removes what an agent makes on a host, apart from its keys.
func (o *options) cleanup(ctx context.Context, log *slog.Logger) error {
	if err := attach.New(o.attachConfig(log)).Cleanup(ctx); err != nil {
		return err
	}
	_, errRoute := route.New(route.Config{Log: log, SysctlRoot: o.SysctlRoot}).Cleanup(ctx)
	_, errFirewall := firewall.New(firewall.Config{Log: log}).Cleanup(ctx)
	_ = os.Remove(userspace.DefaultUAPIDir) // empty, or it isn't ours alone
	return errors.Join(errRoute, errFirewall)
}
