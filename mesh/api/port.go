package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weaveguard/weaveguard/mesh/backoff"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// port is a TCP address that the agent would like to have and can do without.
type port struct {
	use     string // what it is for
	addr    string
	handler http.Handler
	retry   time.Duration
	log     *slog.Logger

	problem atomic.Pointer[view.Problem] // nil while it serves
}

// run serves until ctx ends, again and again when something is in the way.
func (p *port) run(ctx context.Context) {
	for {
		err := p.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		p.report(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Around(p.retry, nil)):
		}
	}
}

func (p *port) serve(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	if p.problem.Swap(nil) != nil {
		p.log.InfoContext(ctx, "serving "+p.use+" after all", "address", p.addr)
	}
	return Serve(ctx, listener, p.handler, p.log)
}

// report keeps the problem, and logs it aloud when it is a new one.
func (p *port) report(ctx context.Context, err error) {
	problem := view.Problem{
		Subject: "address " + p.addr,
		Message: fmt.Sprintf("%s can't be served there: %v", p.use, err),
		Remedy:  "check that the address is one of this node's, and that the agent may use the port",
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		problem.Message = p.use + " can't be served there: another program uses it"
		problem.Remedy = "find that program with `ss -ltnp` and stop it, or give the agent another address"
	}
	level := slog.LevelWarn
	if old := p.problem.Swap(&problem); old != nil && *old == problem {
		level = slog.LevelDebug
	}
	p.log.Log(ctx, level, problem.Message, "address", p.addr, "remedy", problem.Remedy, "retry", p.retry)
}
