// Command probe is both ends of the traffic that tests send between pods and hosts: "serve" answers
// HTTP, TCP and UDP, and the other commands are its clients. A client prints one JSON object on one
// line, and fails when anything went otherwise than asked for. It never looks at the configuration
// of the network.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/test/flow"
)

// marker is in everything that goes over the wire, so that a capture shows what is in the clear.
const marker = "WEAVEGUARD-TEST-PLAINTEXT"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "probe: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "probe", Short: "Send and answer test traffic",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), getCommand(), tcpCommand(), udpCommand(), shoutCommand(), whoamiCommand())
	return root
}

func serveCommand() *cobra.Command {
	var s server
	cmd := &cobra.Command{
		Use: "serve", Short: "Answer HTTP, TCP and UDP until told to end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&s.http, "http", ":8080", "address for HTTP; empty for none")
	cmd.Flags().StringVar(&s.tcp, "tcp", ":9000", "address for bulk transfers over TCP; empty for none")
	cmd.Flags().StringVar(&s.udp, "udp", ":9001", "address for echoes over UDP; empty for none")
	return cmd
}

func getCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "get URL", Short: "Fetch a URL over a new connection", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return report(cmd.Context(), timeout, func(ctx context.Context) (any, error) { return get(ctx, args[0]) })
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "give up after this time")
	return cmd
}

func tcpCommand() *cobra.Command {
	var t transfer
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "tcp HOST:PORT", Short: "Send bytes over TCP, or fetch them, and compare checksums", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return report(cmd.Context(), timeout, func(ctx context.Context) (any, error) { return t.run(ctx, args[0]) })
		},
	}
	cmd.Flags().Int64Var(&t.Bytes, "bytes", 1<<20, "how many bytes")
	cmd.Flags().BoolVar(&t.Fetch, "fetch", false, "have the server send them")
	cmd.Flags().Int64Var(&t.Rate, "rate", 0, "bytes per second at most; 0 for no limit")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this time")
	return cmd
}

func udpCommand() *cobra.Command {
	var e echoes
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "udp HOST:PORT", Short: "Send datagrams one after the other and await each one's echo", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return report(cmd.Context(), timeout, func(ctx context.Context) (any, error) { return e.run(ctx, args[0]) })
		},
	}
	cmd.Flags().IntVar(&e.count, "count", 10, "how many datagrams")
	cmd.Flags().IntVar(&e.size, "size", 64, "bytes of payload in each, at most 65507")
	cmd.Flags().DurationVar(&e.wait, "wait", 2*time.Second, "an echo is lost when it takes longer")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time")
	return cmd
}

func shoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "shout IP:PORT", Short: "Send datagrams without pause until told to end, whatever comes of it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return err
			}
			return flow.Shout(cmd.Context(), to, []byte(marker), func() {})
		},
	}
}

// report prints a client's result, also that of a failure as far as it goes.
func report(ctx context.Context, timeout time.Duration, client func(context.Context) (any, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := client(ctx)
	line, encodeErr := json.Marshal(result)
	if encodeErr != nil {
		return fmt.Errorf("print the result: %w", encodeErr)
	}
	fmt.Println(string(line))
	return err
}
