// Command wgcluster runs real Kubernetes clusters on this machine, for tests and demonstrations.
// It is also what such a cluster consists of: its supervisor, and the first processes of its hosts.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/cluster/internal/host"
	"github.com/weaveguard/weaveguard/test/cluster/internal/supervisor"
	"github.com/weaveguard/weaveguard/test/family"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if exit, ok := err.(*exec.ExitError); ok {
		os.Exit(exit.ExitCode()) // of a command run by exec, which has said why
	}
	fmt.Fprintf(os.Stderr, "wgcluster: %v\n", err)
	os.Exit(1)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "wgcluster", Short: "Run a real Kubernetes on this machine, each node in namespaces of its own",
		SilenceUsage: true, SilenceErrors: true,
	}
	var name string
	root.PersistentFlags().StringVar(&name, "name", cluster.DefaultName, "name of the cluster in this work tree")
	root.AddCommand(
		buildCommand(), upCommand(&name), nodeAddCommand(&name), loadImageCommand(&name), execCommand(&name),
		downCommand(&name), sweepCommand(),
		superviseCommand(), hostCommand(supervisor.EnterCommand), hostCommand(supervisor.RunCommand),
	)
	return root
}

func buildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Build Kubernetes and the test images, without starting anything", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cluster.Build(cmd.Context(), os.Stderr) },
	}
}

func upCommand(name *string) *cobra.Command {
	var nodes int
	var podCIDR string
	var addresses family.Family
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster without a pod network, and leave it running", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options := cluster.Options{Name: *name, Nodes: nodes, Family: addresses, Detached: true, Log: os.Stderr}
			switch podCIDR {
			case "":
			case "none":
				options.NoPodCIDR = true
			default:
				prefix, err := netip.ParsePrefix(podCIDR)
				if err != nil {
					return fmt.Errorf("--pod-cidr %s: give a prefix like 10.244.0.0/16, or none", podCIDR)
				}
				options.PodCIDR = prefix
			}
			c, err := cluster.Up(cmd.Context(), options)
			if err != nil {
				return err
			}
			return c.Explain(os.Stdout)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of nodes")
	cmd.Flags().Var(&addresses, "family", "addresses of nodes, pods and Services: ipv4, ipv6 or dual")
	cmd.Flags().StringVar(&podCIDR, "pod-cidr", "", fmt.Sprintf(`range that nodes get their podCIDR from, or "none" (default %s, %s)`,
		cluster.DefaultPodCIDR, cluster.DefaultPodCIDR6))
	return cmd
}

func nodeAddCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "node-add", Short: "Add a node and print its name", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(*name)
			if err != nil {
				return err
			}
			node, err := c.AddNode(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Println(node)
			return nil
		},
	}
}

func loadImageCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "load-image FILE", Short: "Import a docker archive on every node, later ones too", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(*name)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), args[0])
		},
	}
}

func execCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec HOST -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a node, or on the hosts outside, control-plane and fabric",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(*name)
			if err != nil {
				return err
			}
			return c.Interactive(cmd.Context(), args[0], args[1:]...)
		},
	}
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End a cluster and remove all that it made", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.Remove(cmd.Context(), *name)
		},
	}
}

func sweepCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sweep", Short: "Remove what clusters left whose supervisor was killed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cluster.Sweep(cmd.Context()) },
	}
}

// superviseCommand is started by package cluster, with the cluster's lock as descriptor 3.
func superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: cluster.SuperviseCommand + " DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The lock is this process's alone, and goes when it does.
			syscall.CloseOnExec(cluster.LockDescriptor)
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			return supervisor.Run(cmd.Context(), args[0], os.Stdin, log)
		},
	}
}

func hostCommand(use string) *cobra.Command {
	return &cobra.Command{
		Use: use + " SPEC", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if use == supervisor.EnterCommand {
				return host.Enter(args[0], supervisor.RunCommand)
			}
			return host.Run(args[0])
		},
	}
}
