package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sync/errgroup"
)

// server has an address for each protocol.
type server struct{ http, tcp, udp string }

// run serves until ctx ends or one of the protocols fails.
func (s server) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.http != "" {
		web := &http.Server{Addr: s.http, Handler: http.HandlerFunc(servePage)}
		context.AfterFunc(ctx, func() { web.Close() })
		group.Go(func() error {
			if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve HTTP: %w", err)
			}
			return nil
		})
	}
	if s.tcp != "" {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.tcp)
		if err != nil {
			return fmt.Errorf("serve TCP: %w", err)
		}
		context.AfterFunc(ctx, func() { listener.Close() })
		group.Go(func() error { return serveTCP(ctx, listener) })
	}
	if s.udp != "" {
		conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", s.udp)
		if err != nil {
			return fmt.Errorf("serve UDP: %w", err)
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		group.Go(func() error { return serveEcho(conn) })
	}
	return group.Wait()
}

// serveTCP returns once every client has been answered.
func serveTCP(ctx context.Context, listener net.Listener) error {
	var clients errgroup.Group
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return clients.Wait()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept clients: %w", err), clients.Wait())
		}
		clients.Go(func() error {
			if err := serveTransfer(ctx, conn); err != nil {
				fmt.Fprintf(os.Stderr, "probe: %v\n", err)
			}
			return nil
		})
	}
}
