package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func newForgetCommand(o *options) *cobra.Command {
	var force bool
	var output format
	cmd := &cobra.Command{
		Use:   "forget NODE",
		Short: "Let a node go, or in with a new identity (no Kubernetes)",
		Long: "forget takes a node out of the tunnels and routes of this host, and forgets\n" +
			"which identity the node had here. It is for a host that is gone for good, and\n" +
			"for one whose disk was wiped: under its name the first identity that speaks is\n" +
			"taken then. Each host decides by itself, so run it on every one.\n\n" +
			"What the node had said until then counts no more, whoever repeats it. A node\n" +
			"that says something new, as its agent does when it starts, is let in again. So\n" +
			"its agent has to be stopped first. Where somebody else has its keys, change the\n" +
			"gossip key (`weaveguard keyring`): forget keeps nobody out.\n\n" +
			"With Kubernetes, `kubectl delete node NODE` does this.\n\n" +
			"Exit status: 0 when the node is forgotten, also before; 2 when the agent refuses\n" +
			"or couldn't be asked.",
		Example: "  weaveguard forget host-3\n" +
			"  for h in host-1 host-2; do ssh root@$h weaveguard forget host-3; done",
		Args:              exactlyOne("the node to forget"),
		ValidArgsFunction: o.completePeer,
		RunE: func(cmd *cobra.Command, args []string) error {
			noted, err := o.client().Forget(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			return answer(cmd, output, noted, func(p *page) { p.text("", forgotInWords(noted)) })
		},
	}
	addFormatFlag(cmd, &output)
	cmd.Flags().BoolVar(&force, "force", false, "also while the node's agent runs: it is back when it says something new")
	return cmd
}

// forgotInWords says what became of a request.
func forgotInWords(answer view.ForgetAnswer) string {
	if answer.State == view.ForgottenBefore {
		return answer.Node + " was forgotten before, and hasn't said anything since"
	}
	return fmt.Sprintf("%s is forgotten on this host, with its identity %s; run this on the other hosts too", answer.Node, answer.Identity)
}

func newJoinCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "join HOST...",
		Short: "Look for the mesh at further hosts (no Kubernetes)",
		Long: "join names hosts of the mesh to the agent that runs here, by name or address,\n" +
			"beside those of its --peers. One that answers is enough: it knows the others.\n" +
			"The agent keeps them in its state directory, and looks for them after a restart\n" +
			"too. To be let in takes the mesh's gossip key.\n\n" +
			"Exit status: 0 when the agent has noted the hosts, 2 when it refuses them or\n" +
			"couldn't be asked. Whether they answer is in `weaveguard status` soon.",
		Example: "  weaveguard join 192.0.2.4\n" +
			"  weaveguard join host-4.example.org host-5.example.org && weaveguard status",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > api.MaxHosts {
				return fmt.Errorf("name 1 to %d hosts, by name or address", api.MaxHosts)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			noted, err := o.client().Join(cmd.Context(), args)
			if err != nil {
				return err
			}
			return answer(cmd, output, noted, func(p *page) { p.text("", joinedInWords(noted)) })
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}

// joinedInWords says what became of a request.
func joinedInWords(answer view.JoinAnswer) string {
	if len(answer.Added) == 0 {
		return "the agent looks for the mesh there already"
	}
	return fmt.Sprintf("the agent looks for the mesh at %s too: see `weaveguard status`", strings.Join(answer.Added, ", "))
}
