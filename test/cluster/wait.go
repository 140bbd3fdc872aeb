package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollInterval is how often a condition is looked at.
const pollInterval = 100 * time.Millisecond

// fatal is an error that waiting doesn't heal.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Poll calls check until it returns nil, for at most timeout. The error names what was waited for
// and holds the last error of check.
func Poll(ctx context.Context, timeout time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[fatal](err); ok {
			return fmt.Errorf("wait until %s: %w", what, f.error)
		}
		// The error of a check that was cut short hides why the ones before failed.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w (%w)", what, last, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}
