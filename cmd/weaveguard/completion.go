package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// shells are those that completion is written for, in cobra's words.
func shells() []string { return []string{"bash", "zsh", "fish"} }

func newCompletionCommand() *cobra.Command {
	return &cobra.Command{
		Use:         "completion " + strings.Join(shells(), "|"),
		Annotations: inPlace(placeHere),
		Short:       "Print a script by which a shell completes commands and names",
		Long: "completion prints a script for a shell, which then completes commands, flags,\n" +
			"and what they take: names of nodes, for instance, are asked of the agent. Bash\n" +
			"needs the package bash-completion.\n\n" +
			"kubectl completes `kubectl weaveguard` when there is a script on the PATH named\n" +
			"kubectl_complete-weaveguard: `exec kubectl weaveguard __complete \"$@\"`.\n\n" +
			"Exit status: 0, or 2 for a shell that isn't known.",
		Example: "  source <(weaveguard completion bash)\n" +
			"  weaveguard completion bash > /etc/bash_completion.d/weaveguard\n" +
			"  weaveguard completion zsh > \"${fpath[1]}/_weaveguard\"\n" +
			"  weaveguard completion fish > ~/.config/fish/completions/weaveguard.fish",
		Args:      cobra.MatchAll(exactlyOne("a shell: "+alternatives(shells())), oneOf(shells())),
		ValidArgs: shells(),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return printed(0, root.GenBashCompletionV2(out, true))
			case "zsh":
				return printed(0, root.GenZshCompletion(out))
			}
			return printed(0, root.GenFishCompletion(out, true))
		},
	}
}

// oneOf refuses a first argument that isn't one of some words.
func oneOf(words []string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		for _, word := range words {
			if args[0] == word {
				return nil
			}
		}
		return fmt.Errorf("%q isn't one of %s", args[0], alternatives(words))
	}
}

// completeNoFiles has the shell offer no names of files for arguments of a command and of those below it, where nothing
// else is offered: no command takes any.
func completeNoFiles(cmd *cobra.Command) {
	if cmd.ValidArgs == nil && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, child := range cmd.Commands() {
		completeNoFiles(child)
	}
}
