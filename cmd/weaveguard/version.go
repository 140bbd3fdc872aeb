package main

import (
	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// versions is what `weaveguard version -o json` prints.
type versions struct {
	Client string `json:"client"`
	Agent  string `json:"agent,omitempty"`
	Error  string `json:"error,omitempty"` // why the agent's isn't known
}

func newVersionCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:         "version",
		Annotations: inPlace(placeHere),
		Short:       "Show the versions of this command and of the agent",
		Long: "version shows the version of this command, and of the agent of this node where\n" +
			"it can be asked.\n\n" +
			"Exit status: 0, also when the agent couldn't be asked.",
		Example: "  weaveguard version\n" +
			"  weaveguard version -o json",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: contract.Version()}
			status, err := o.status(cmd.Context())
			if err != nil {
				v.Error, _ = explain(err)
			} else {
				v.Agent = status.Version
			}
			return answer(cmd, output, v, func(p *page) {
				if err != nil {
					v.Agent = "not known: " + v.Error
				}
				p.facts([][2]string{{"client", v.Client}, {"agent", v.Agent}})
			})
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}
