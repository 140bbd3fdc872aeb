// Command wglab brings a lab up on this machine, for people: hosts in network
// namespaces on a fabric of their own.
//
//	wglab up --hosts 3
//	wglab exec h1 -- ping 10.99.0.2
//	wglab down
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/lab"
)

func main() {
	if code, ok := lab.RunHelper(nil); ok {
		os.Exit(code)
	}
	err := command().Execute()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wglab:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "wglab", Short: "Hosts in network namespaces on this machine",
		SilenceUsage: true, SilenceErrors: true,
	}
	var name string
	root.PersistentFlags().StringVar(&name, "name", "default", "which lab; several can be up")
	var o lab.Options
	options := func(c *cobra.Command) *cobra.Command {
		c.Args = cobra.NoArgs
		c.Flags().IntVar(&o.Hosts, "hosts", 2, "how many hosts")
		c.Flags().IntVar(&o.MTU, "mtu", 1500, "MTU of the underlay, in bytes")
		c.Flags().BoolVar(&o.V4Only, "v4-only", false, "no IPv6 on the underlay")
		c.Flags().BoolVar(&o.V6Only, "v6-only", false, "no IPv4 on the underlay")
		return c
	}
	root.AddCommand(
		options(&cobra.Command{
			Use: "up", Short: "Make a lab and leave it running",
			RunE: func(c *cobra.Command, _ []string) error { return up(c, name, o) },
		}),
		options(&cobra.Command{
			Use: "hold", Short: "Make a lab and hold it until a signal", Hidden: true,
			RunE: func(c *cobra.Command, _ []string) error { return hold(c.Context(), name, o) },
		}),
		&cobra.Command{
			Use: "exec HOST -- COMMAND...", Short: `Run a command on a host, or on "fabric"`, Args: cobra.MinimumNArgs(2),
			RunE: func(_ *cobra.Command, args []string) error { return execute(name, args[0], args[1:]) },
		},
		&cobra.Command{
			Use: "down", Short: "End a lab and all that runs in it", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return down(name) },
		},
		&cobra.Command{
			Use: "show", Short: "List the hosts", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				s, err := published(name)
				if err == nil {
					show(c, s)
				}
				return err
			},
		},
	)
	return root
}

func published(name string) (lab.State, error) {
	s, err := lab.Published(name)
	if errors.Is(err, lab.ErrNoLab) {
		err = fmt.Errorf("no lab %q is up: start it with: wglab up --name %s", name, name)
	}
	return s, err
}

func show(c *cobra.Command, s lab.State) {
	for _, h := range s.Hosts {
		fmt.Fprintf(c.OutOrStdout(), "%s\t%v\t%v\tinit %d\n", h.Name, h.Addr4, h.Addr6, h.InitPID)
	}
}

// hold owns a lab until SIGTERM or SIGINT.
func hold(ctx context.Context, name string, o lab.Options) (err error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	l, err := lab.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	withdraw, err := l.Publish(name)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return withdraw()
}

// up starts a holder that goes on, and waits until its lab stands.
func up(c *cobra.Command, name string, o lab.Options) error {
	if s, err := lab.Published(name); err == nil {
		return fmt.Errorf("a lab %q is up already, of process %d: end it with: wglab down --name %s", name, s.OwnerPID, name)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	log, err := os.CreateTemp("", "wglab-holder.*.log")
	if err != nil {
		return fmt.Errorf("making the holder's log: %w", err)
	}
	defer func() { _ = errors.Join(log.Close(), os.Remove(log.Name())) }()
	holder := exec.Command(self, "hold", "--name", name, fmt.Sprintf("--hosts=%d", o.Hosts), fmt.Sprintf("--mtu=%d", o.MTU),
		fmt.Sprintf("--v4-only=%t", o.V4Only), fmt.Sprintf("--v6-only=%t", o.V6Only))
	holder.Args[0] = filepath.Base(self)
	holder.Stdout, holder.Stderr = log, log
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := holder.Start(); err != nil {
		return fmt.Errorf("starting the lab's holder: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- holder.Wait() }()
	for {
		if s, err := lab.Published(name); err == nil {
			show(c, s)
			return nil
		}
		select {
		case <-ended:
			said, err := os.ReadFile(log.Name())
			return errors.Join(fmt.Errorf("the lab didn't come up: %s", said), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func execute(name, host string, args []string) error {
	s, err := published(name)
	if err != nil {
		return err
	}
	h, err := s.Find(host)
	if err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Dir = "/"
	if err := lab.StartIn(h.InitPID, cmd); err != nil {
		return fmt.Errorf("running %s on %s: %w", args[0], host, err)
	}
	return cmd.Wait()
}

func down(name string) error {
	s, err := published(name)
	if err != nil {
		return err
	}
	if err := unix.Kill(s.OwnerPID, unix.SIGTERM); err != nil {
		return fmt.Errorf("ending the lab's holder, process %d: %w", s.OwnerPID, err)
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if _, err := lab.Published(name); errors.Is(err, lab.ErrNoLab) {
			if _, err := os.Stat(s.Dir); errors.Is(err, os.ErrNotExist) {
				return nil
			}
		}
		if time.Since(start) > 20*time.Second {
			return fmt.Errorf("the lab's holder, process %d, doesn't end", s.OwnerPID)
		}
	}
}
