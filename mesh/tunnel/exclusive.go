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
		value    T
		err      error
		panicked any
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
	answer := make(chan result)
	go func() {
		var r result
		defer func() {
			r.panicked = recover()
			<-a.turn
			select {
			case answer <- r:
			case <-limited.Done():
				if r.panicked != nil {
					panic(r.panicked)
				}
			}
		}()
		r.value, r.err = do(own)
	}()
	select {
	case r := <-answer:
		if r.panicked != nil {
			panic(r.panicked) // as if there were one goroutine
		}
		changes.AddTo(ctx)
		return r.value, r.err
	case <-limited.Done():
		return none, context.Cause(limited)
	}
}
