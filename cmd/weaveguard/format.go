package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// format is the value of -o.
type format string

const (
	formatTable format = "table" // words and tables, for people
	formatJSON  format = "json"
	formatYAML  format = "yaml" // the same as JSON has, its keys sorted
)

// String, Set and Type make it a flag's value.
func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(value string) error {
	switch v := format(value); v {
	case formatTable, formatJSON, formatYAML:
		*f = v
		return nil
	}
	return errors.New("it takes table, json or yaml")
}

func addFormatFlag(cmd *cobra.Command, f *format) {
	*f = formatTable
	cmd.Flags().VarP(f, "output", "o", "table, json or yaml")
	complete(cmd, "output", string(formatTable), string(formatJSON), string(formatYAML))
}

// complete has the shell complete a flag with these values.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
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
