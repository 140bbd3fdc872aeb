package main

import (
	"context"
	"time"

	"github.com/weaveguard/weaveguard/mesh/backoff"
)

const (
	// daemonPatience is how long the userspace WireGuard daemon may take to answer at the agent's start: the two start
	// beside each other, and which one is first is no news.
	daemonPatience = 5 * time.Second
	// daemonInterval is the first pause between two questions, and maxDaemonInterval the longest.
	daemonInterval    = 50 * time.Millisecond
	maxDaemonInterval = 400 * time.Millisecond
)

// awaitDaemon waits until ask succeeds, but no longer than daemonPatience: without the daemon the agent does what else
// it can, and reports that it is missing.
func awaitDaemon(ctx context.Context, ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	again := backoff.Backoff{Min: daemonInterval, Max: maxDaemonInterval}
	for ask(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(again.Next()):
		}
	}
}
