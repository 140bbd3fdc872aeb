package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A command's own flag goes to the pod also when one of the root's, which is for kubectl, has its name.
func TestCommandLine(t *testing.T) {
	o := &options{}
	root := newCommand(o)
	o.asPlugin(root)
	var got []string
	child := &cobra.Command{Use: "child", RunE: func(cmd *cobra.Command, args []string) error {
		got = o.plugin.commandLine(cmd, args)
		return nil
	}}
	child.Flags().String("namespace", "", "")
	child.Flags().StringSlice("ip", nil, "")
	root.AddCommand(child)
	root.SetArgs([]string{"child", "--namespace=shop", "--context=lab", "--node", "a", "--socket=s", "--ip=x,y", "z"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	if want, line := "child --color=never --width=80 --ip=x --ip=y --namespace=shop --socket=s -- z", strings.Join(got, " "); line != want {
		t.Errorf("in the pod it is\n%s, want\n%s", line, want)
	}
}
