package mesh

import (
	"context"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

// pause is how long the loop may wait for a sign.
func (a *Agent) pause(p *pass, now time.Time) time.Duration {
	pause := idleInterval
	rotating := len(p.view.Self.Generations) > 1 || a.rotation.acks.rotating()
	switch {
	case keys.Phase(p.rotation.Phase) == keys.Draining && !p.failed:
		return drainInterval // nothing but time is missing
	case p.untold || p.settling || a.claiming.busy() || a.forgetting > 0 || !a.links.settled(now) || rotating && !a.heldUp(now):
		pause = busyInterval
	case rotating:
		pause = heldUpInterval
	}
	if p.failed {
		pause = min(pause, a.retry.Next())
	} else {
		a.retry.Reset()
	}
	for _, next := range []time.Time{a.book.undecided(), a.documents.next(), a.document.due, a.saveDue, a.keepDue(), a.rows.next(len(p.view.Peers))} {
		if !next.IsZero() {
			pause = min(pause, max(0, next.Sub(now)))
		}
	}
	return pause
}

// stirred looks at the tunnels and settings alone, which costs much less than a pass, and reports whether a link has come so
// far that a pass could do something about it, or something has to be repaired.
func (a *Agent) stirred(ctx context.Context) bool {
	devices, err := a.Tunnels.Observe(ctx)
	return err == nil && (a.links.stirred(devices, time.Now()) || a.drifted(devices))
}

// rest waits, and reports whether the context goes on.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
