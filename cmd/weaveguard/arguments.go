package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// noArguments takes none.
func noArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return unknownCommand(cmd, args[0])
	}
	return fmt.Errorf("%s takes no arguments, and this is %s", cmd.Name(), strings.Join(args, " "))
}

// exactlyOne takes one argument, which it has words for.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("name " + what)
		}
		return atMostOne(what)(cmd, args)
	}
}

// atMostOne takes one argument, which it has words for, or none.
func atMostOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("name %s: it takes one, and this is %s", what, strings.Join(args, " "))
		}
		return nil
	}
}

// exactlyTwo takes two arguments, which it has words for.
func exactlyTwo(first, second string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch len(args) {
		case 2:
			return nil
		case 0:
			return fmt.Errorf("name %s, and %s", first, second)
		case 1:
			return fmt.Errorf("name %s as well: there is only %s", second, args[0])
		}
		return fmt.Errorf("name %s, and %s: it takes two, and this is %s", first, second, strings.Join(args, " "))
	}
}

var cobraUnknown = regexp.MustCompile(`^unknown command ("(?:[^"\\]|\\.)*") for `)

// inOwnWords is an error of the library that reads the command line, in this program's words, if they are better.
func inOwnWords(cmd *cobra.Command, err error) error {
	if match := cobraUnknown.FindStringSubmatch(err.Error()); match != nil {
		if name, err := strconv.Unquote(match[1]); err == nil {
			return unknownCommand(cmd, name)
		}
	}
	return err
}

// unknownCommand says that a command has none of this name below it.
func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return unknown("command", name, names, cmd.CommandPath()+" --help")
}

// helpOn shows the help of a command, and fails for one that there isn't.
func helpOn(cmd *cobra.Command, args []string) error {
	root := cmd.Root()
	about, rest, err := root.Find(args)
	switch {
	case err != nil:
		return inOwnWords(root, err)
	case len(rest) > 0 && about.HasSubCommands():
		return unknownCommand(about, rest[0])
	case len(rest) > 0:
		return fmt.Errorf("%s has no commands below it, and this is %s", about.Name(), strings.Join(rest, " "))
	}
	about.InitDefaultHelpFlag() // as cobra does it
	return about.Help()
}
