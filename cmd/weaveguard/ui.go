package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/ui"
)

const (
	listenFlag = "listen"
	// usualListen is a port that the kernel chooses, on loopback.
	usualListen = "127.0.0.1:0"
)

func newUICommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "ui",
		Annotations: inPlace(placeAnyNode),
		Short:       "Serve a web page that shows the mesh, until interrupted",
		Long: "ui serves a web page of what the agent of this node knows, and says where: a\n" +
			"map of the nodes and the links between them, round trips and losses, how far\n" +
			"rotations are, what was refused, and what there is to know of each node. It\n" +
			"shows, and changes nothing. The agent itself serves the same page, by default\n" +
			"on 127.0.0.1:6786 of its node; ui needs its socket alone.\n\n" +
			"Whoever reaches the address can read the page, without a password. The usual\n" +
			"one is of this machine alone, with a port that is free. From elsewhere:\n" +
			"`kubectl weaveguard ui`, or `ssh -L 6786:127.0.0.1:6786 NODE`.\n\n" +
			"Exit status: 0 when it was interrupted (SIGINT or SIGTERM), 2 when the agent\n" +
			"couldn't be asked, or the address couldn't be had.",
		Example: "  weaveguard ui\n" +
			"  weaveguard ui --listen 127.0.0.1:8080",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.serveUI(cmd, cmd.Flag(listenFlag).Value.String())
		},
	}
	cmd.Flags().String(listenFlag, usualListen, "host:port to serve on; port 0 is any that is free")
	complete(cmd, listenFlag)
	return cmd
}

// serveUI serves the page until the command is interrupted.
func (o *options) serveUI(cmd *cobra.Command, listen string) error {
	ctx := cmd.Context()
	if _, _, err := splitListen(listen); err != nil {
		return err
	}
	client := o.client()
	if _, err := client.Status(ctx); err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return explainListen(listen, err)
	}
	at := netip.MustParseAddrPort(listener.Addr().String())
	if !at.Addr().IsLoopback() {
		say(cmd.ErrOrStderr(), "whoever reaches this address can read the page: names and addresses of all nodes and pods")
	}
	if err := tellURL(cmd, at); err != nil {
		return errors.Join(err, listener.Close())
	}
	sources := ui.Sources{Status: client.Status, Topology: client.Topology, Matrix: client.Matrix}
	return api.Serve(ctx, listener, ui.New(sources, listen), slog.New(slog.DiscardHandler))
}

// tellURL says where the page is.
func tellURL(cmd *cobra.Command, at netip.AddrPort) error {
	host := at.String()
	if at.Addr().IsUnspecified() {
		host = net.JoinHostPort("localhost", strconv.Itoa(int(at.Port())))
	}
	return printed(fmt.Fprintf(cmd.OutOrStdout(), "http://%s/ until interrupted (Ctrl-C)\n", host))
}

// splitListen is the host and the port of an address to serve on.
func splitListen(listen string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", "", &adviceError{fmt.Sprintf("--%s is %q, which isn't host:port", listenFlag, listen),
			"give an address and a port up to 65535, such as 127.0.0.1:8080 or [::1]:8080"}
	}
	return host, port, nil
}

// explainListen says why an address can't be served on.
func explainListen(listen string, err error) error {
	var unknown *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, syscall.EADDRINUSE):
		return &adviceError{"another program uses " + listen, "give another port with --" + listenFlag + "; port 0 is any that is free"}
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &unknown):
		return &adviceError{listen + " isn't an address of this machine", "give one of its own, such as 127.0.0.1:8080"}
	case errors.Is(err, syscall.EACCES):
		return &adviceError{"ports below 1024, as of " + listen + ", are for root", "give a higher one with --" + listenFlag}
	}
	return fmt.Errorf("serving on %s: %w", listen, err)
}
