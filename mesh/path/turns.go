package path

import (
	"context"
	"time"
)

// turnPause is the least time between two looks at what is due.
const turnPause = 10 * time.Millisecond

// turns has somebody look at what is due, when it is.
type turns chan struct{} // one token: something is due earlier than thought

func newTurns() turns { return make(turns, 1) }

// rouse has a look come now.
func (t turns) rouse() {
	select {
	case t <- struct{}{}:
	default:
	}
}

// run calls turn, which returns when something is due next, until the context ends.
func (t turns) run(ctx context.Context, turn func(now time.Time) (next time.Time)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t:
		case <-timer.C:
		}
		next := turn(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(turnPause):
		}
		timer.Reset(time.Until(next))
	}
}
