package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const pollEvery = 200 * time.Millisecond

// waiter follows a rotation by the agent's status.
type waiter struct {
	ask     func(context.Context) (view.Status, error)
	wanted  uint32 // generation
	timeout time.Duration
	stderr  io.Writer

	last  view.Status // what the agent said last
	err   error       // why it has said nothing since
	phase string      // that was told last
}

// run waits until the node has the wanted key alone, and tells each change of phase. An agent that doesn't answer
// meanwhile is no reason to give up: the request is on its disk, and it may just be replaced by a newer one. When the
// time is up run tells why it takes so long, and returns errNo; or, when it isn't known, why not.
func (w *waiter) run(ctx context.Context) error {
	deadline := time.NewTimer(w.timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		status, err := w.ask(ctx)
		if ctx.Err() == nil && w.see(status, err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the agent goes on with the rotation all the same")
		case <-deadline.C:
			return w.late()
		case <-tick.C:
		}
	}
}

// see takes what an attempt to ask came to, and reports whether there is nothing more to wait for.
func (w *waiter) see(status view.Status, err error) (done bool) {
	if err != nil {
		if w.err == nil {
			message, _ := explain(err)
			say(w.stderr, message+"; still waiting")
		}
		w.err = err
		return false
	}
	w.last, w.err = status, nil
	r, idle := status.Rotation, status.Rotation.Phase == string(keys.Idle)
	if idle && !r.Queued && hasOnly(status.Generations, w.wanted) {
		say(w.stderr, fmt.Sprintf("%s: this node has the new key (generation %d) alone", r.Phase, status.Generations[0].Number))
		return true
	}
	if !idle && r.Phase != w.phase { // idle is before the rotation, and between two
		say(w.stderr, r.String())
		w.phase = r.Phase
	}
	return false
}

// hasOnly reports whether there is one key, and it is the wanted one or a newer one.
func hasOnly(generations []view.GenerationStatus, wanted uint32) bool {
	return len(generations) == 1 && generations[0].Number >= wanted
}

// late tells what there was no time for.
func (w *waiter) late() error {
	if w.err != nil {
		return w.err
	}
	p := newPage(w.stderr)
	p.text("", voice+fmt.Sprintf("this node doesn't have the new key (generation %d) alone after %v: %s",
		w.wanted, w.timeout, rotationFact(w.last)))
	p.waiting(indentStep, w.last.Rotation.Waiting)
	if len(w.last.Rotation.Waiting) > 0 {
		p.remedy("", "see to these peers and ports, and the rotation goes on by itself; or end it without them: "+
			"`weaveguard rotate --force`")
	} else {
		p.remedy("", "see `weaveguard status`, and the agent's log: "+view.LogCommand(w.last.Kubernetes))
	}
	if err := p.printTo(w.stderr); err != nil {
		return err
	}
	return errNo
}
