package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The reference in docs/cli.md is written from the commands themselves. After a change of theirs, write it anew with:
// go test ./cmd/weaveguard -run TestReference -update
func TestReference(t *testing.T) {
	t.Setenv(socketEnv, "")
	path := filepath.Join("..", "..", "docs", "cli.md")
	want := reference(newCommand(&options{}))
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s isn't what the commands say now: write it anew, with go test ./cmd/weaveguard -run TestReference -update", path)
	}
}

const referenceBegin = `# The command line

<!-- Written from the commands by go test ./cmd/weaveguard -run TestReference -update: change it there. -->

`

// reference is the page about a command and all below it.
func reference(root *cobra.Command) []byte {
	var page bytes.Buffer
	page.WriteString(referenceBegin)
	page.WriteString(prose(root.Long))
	page.WriteString("\n`kubectl weaveguard` runs these commands in the agents' pods: see [below](#kubectl-weaveguard).\n")
	page.WriteString("\n| | |\n| --- | --- |\n")
	all := visible(root)
	for _, cmd := range all[1:] {
		fmt.Fprintf(&page, "| [`%s`](#%s) | %s |\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cmd.Short)
	}
	for _, cmd := range all {
		fmt.Fprintf(&page, "\n## %s\n\n", cmd.CommandPath())
		if cmd != root {
			fmt.Fprintf(&page, "%s.\n\n```\n%s\n```\n\n%s\n", cmd.Short, cmd.UseLine(), prose(cmd.Long))
		}
		fmt.Fprintf(&page, "```\n%s\n```\n", unindented(cmd.Example))
		flags := cmd.NonInheritedFlags()
		if cmd == root {
			flags = cmd.PersistentFlags()
		}
		if usages := strings.TrimRight(flags.FlagUsagesWrapped(defaultWidth), "\n"); usages != "" {
			title := "Flags"
			if cmd.HasSubCommands() {
				title = "Flags, also of the commands below it"
			}
			fmt.Fprintf(&page, "\n%s:\n\n```\n%s\n```\n", title, usages)
		}
	}
	plugin := asPlugin()
	fmt.Fprintf(&page, "\n## %s\n\n%s.\n\n%s\n```\n%s\n```\n\nFlags, beside those of `weaveguard`:\n\n```\n%s```\n", plugin.CommandPath(),
		plugin.Short, prose(plugin.Long), unindented(plugin.Example), pluginFlags(plugin).FlagUsagesWrapped(defaultWidth))
	return page.Bytes()
}

// pluginFlags are those that `kubectl weaveguard` has and weaveguard hasn't.
func pluginFlags(plugin *cobra.Command) *pflag.FlagSet {
	flags, own := pflag.NewFlagSet("", pflag.ContinueOnError), newCommand(&options{}).PersistentFlags()
	plugin.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if own.Lookup(f.Name) == nil {
			flags.AddFlag(f)
		}
	})
	return flags
}

// visible are a command and all below it, but for those that are hidden.
func visible(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, child := range cmd.Commands() {
		if !child.Hidden {
			all = append(all, visible(child)...)
		}
	}
	return all
}

// prose is a help text whose paragraphs have no line breaks.
func prose(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		paragraphs[i] = strings.ReplaceAll(p, "\n", " ")
	}
	return strings.Join(paragraphs, "\n\n") + "\n"
}

func unindented(text string) string {
	return strings.ReplaceAll(strings.TrimPrefix(text, "  "), "\n  ", "\n")
}
