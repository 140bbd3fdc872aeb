package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// checkAlike runs a command in a network namespace of its own, once with -o json and once with -o yaml, and checks that both say
// the same: alike COMMAND ARG...
func checkAlike(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: alike COMMAND ARG...")
	}
	var said [2]any
	for i, name := range []format{formatJSON, formatYAML} {
		cmd := exec.Command("unshare", append(append(isolated(ts), "weaveguard"), append(args, "-o", string(name))...)...)
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), environment(ts)
		text, _ := cmd.Output() // no is an answer, too
		if name == formatYAML {
			if json.Valid(text) && len(text) > len("[]\n") {
				ts.Fatalf("%q prints JSON with -o yaml: %s", args, text)
			}
			var err error
			if text, err = yaml.YAMLToJSON(text); err != nil {
				ts.Fatalf("%q prints no YAML: %v", args, err)
			}
		}
		if err := json.Unmarshal(text, &said[i]); err != nil {
			ts.Fatalf("%q with -o %s prints what isn't that: %v: %s", args, name, err, text)
		}
	}
	if said[0] == nil || !reflect.DeepEqual(said[0], said[1]) {
		ts.Fatalf("%q says\n%v as JSON, and\n%v as YAML", args, said[0], said[1])
	}
}

// Each command that has -o is in the script of formats.
func TestFormats(t *testing.T) {
	script, err := os.ReadFile("testdata/formats.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
		if cmd.Flags().Lookup("output") != nil && !strings.Contains(string(script), "\nalike "+name) {
			t.Errorf("testdata/formats.txtar lacks a line `alike %s`", name)
		}
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	visit(newCommand(&options{}))
}
