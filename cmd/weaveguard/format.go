package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// format is how an answer is printed.
type format string

const (
	formatTable format = "table" // words and tables, for people
	formatJSON  format = "json"
	formatYAML  format = "yaml" // the same as JSON has, its keys sorted
	formatDOT   format = "dot"  // for Graphviz
	formatSVG   format = "svg"
)

// formatFlag is the flag -o.
type formatFlag struct {
	value *format
	names []string // those it takes
}

// String, Set and Type make it a flag's value.
func (f formatFlag) String() string {
	if f.value == nil { // as pflag asks of a zero one
		return ""
	}
	return string(*f.value)
}
func (f formatFlag) Type() string { return "format" }
func (f formatFlag) Set(value string) error {
	if !slices.Contains(f.names, value) {
		return errors.New("it takes " + f.usage())
	}
	*f.value = format(value)
	return nil
}

func (f formatFlag) usage() string {
	last := len(f.names) - 1
	return strings.Join(f.names[:last], ", ") + " or " + f.names[last]
}

// addFormatFlag adds the flag -o for table, JSON and YAML, and more formats that the command makes itself.
func addFormatFlag(cmd *cobra.Command, f *format, more ...format) {
	*f = formatTable
	flag := formatFlag{value: f}
	for _, name := range append([]format{formatTable, formatJSON, formatYAML}, more...) {
		flag.names = append(flag.names, string(name))
	}
	cmd.Flags().VarP(flag, "output", "o", flag.usage())
	complete(cmd, "output", flag.names...)
}

// complete has the shell complete a flag with these values.
func complete(cmd *cobra.Command, flag string, values ...string) {
	completeWith(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeWith has the shell complete a flag with what a function returns.
func completeWith(cmd *cobra.Command, flag string, with cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(err) // there is no such flag, or it has one already
	}
}

// answer prints what a command found: the value for programs, for people the page that show makes of it.
func answer(cmd *cobra.Command, f format, value any, show func(*page)) error {
	out := cmd.OutOrStdout()
	switch f {
	case formatJSON:
		return printJSON(out, value)
	case formatYAML:
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("making YAML: %w", err)
		}
		return printed(out.Write(text))
	}
	p := newPage(out)
	show(p)
	return p.printTo(out)
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indentStep)
	return printed(0, encoder.Encode(value))
}

// printError says that what a command found couldn't be printed.
type printError struct{ err error }

func (e *printError) Error() string { return fmt.Sprintf("printing: %v", e.err) }
func (e *printError) Unwrap() error { return e.err }

// printed is the result of writing to an output, as an error.
func printed(_ int, err error) error {
	if err != nil {
		return &printError{err}
	}
	return nil
}
