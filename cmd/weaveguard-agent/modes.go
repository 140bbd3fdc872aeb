package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/mesh/view"
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
			return userspace.Serve(cmd.Context(), userspace.Config{Socket: o.userspaceSocket(), Version: view.Version(), Log: log})
		},
	}
}

func (o *options) userspaceSocket() string { return filepath.Join(o.RunDir, "userspace.sock") }

func (o *options) agentSocket() string { return filepath.Join(o.RunDir, "agent.sock") }

func newCleanupCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what Weaveguard made in this host's kernel and CNI directories",
		Long: "cleanup removes the tunnel devices, routes, firewall rules, bridge and CNI configuration of Weaveguard from\n" +
			"this host. End the agent and all pods first. Keys stay, and settings of the kernel, on which others may rely.",
		Example: "  weaveguard-agent cleanup",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, _, err := o.logger()
			if err != nil {
				return err
			}
			if err := api.Retire(o.agentSocket(), func() error { return o.cleanup(cmd.Context(), log) }); err != nil {
				return fmt.Errorf("cleaning up: %w", err)
			}
			return nil
		},
	}
	o.registerHost(cmd.Flags())
	return cmd
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
