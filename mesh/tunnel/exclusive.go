package tunnel

import (
	"context"
	"fmt"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// answerWithin is how long WireGuard may take for one part of a pass. The kernel, and a userspace daemon that runs, take
// milliseconds.
const answerWithin = 10 * time.Second

// SilentError says that WireGuard doesn't answer: a userspace daemon that hangs, or a kernel that does.
type SilentError struct {
	Kind   string // Kernel or Userspace
	Within time.Duration
}

func (e *SilentError) Error() string {
	what := "the kernel's WireGuard"
	if e.Kind == Userspace {
		what = "the userspace WireGuard daemon (weaveguard-agent userspace)"
	}
	return fmt.Sprintf("%s hasn't answered for %s: if it stays so, restart it", what, e.Within)
}

// alone does something while nobody else does anything with the tunnels: a dump during a change could show peers twice or not
// at all. It returns when that is done; or with an error when ctx ends, or WireGuard takes too long to answer. wgctrl's questions can't be
// broken off, so what was asked goes on, as the only one, and its answer is dropped; the others wait for their turn as long as they may.
func alone[T any](ctx context.Context, a *Applier, do func(ctx context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	limited, cancel := context.WithTimeoutCause(ctx, a.config.Within, &SilentError{a.config.Kind, a.config.Within})
	defer cancel()
	select {
	case a.turn <- struct{}{}:
	case <-limited.Done():
		return none, context.Cause(limited)
	}
	own, changes := view.WithChanges(ctx)
	answer := make(chan result, 1)
	go func() {
		defer func() { <-a.turn }()
		value, err := do(own)
		answer <- result{value, err}
	}()
	select {
	case r := <-answer:
		changes.AddTo(ctx)
		return r.value, r.err
	case <-limited.Done():
		return none, context.Cause(limited)
	}
}
