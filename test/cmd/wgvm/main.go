// Command wgvm runs a command as root on Debian's kernel, under qemu, with this
// machine's files, and ends with its exit code.
//
//	go run ./test/cmd/wgvm -- uname -r
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/vm"
)

func main() {
	code := 0
	if err := command(&code).Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "wgvm:", err)
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

func command(code *int) *cobra.Command {
	var o vm.Options
	var timeout time.Duration
	var console bool
	c := &cobra.Command{
		Use: "wgvm [flags] -- COMMAND...", Short: "Run a command on a kernel with WireGuard",
		Long:         "Runs a command as root on Debian's kernel under qemu. It sees this machine's files; what it writes is lost.",
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true, SilenceErrors: true,
	}
	c.Flags().IntVar(&o.Memory, "memory", 2048, "memory in MiB")
	c.Flags().IntVar(&o.CPUs, "cpus", 2, "processors")
	c.Flags().StringArrayVar(&o.Env, "env", nil, "KEY=value for the command (repeatable)")
	c.Flags().StringVar(&o.Dir, "dir", "", "working directory (default this one)")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "when to give up")
	c.Flags().BoolVar(&console, "console", false, "show what the kernel prints")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		o.Log, o.Console = os.Stdout, io.Discard
		if console {
			o.Console = os.Stderr
		}
		if o.Dir == "" {
			dir, err := os.Getwd()
			if err != nil {
				return fmt.Errorf("finding the working directory: %w", err)
			}
			o.Dir = dir
		}
		var err error
		*code, err = vm.Run(ctx, o, args)
		return err
	}
	return c
}
