package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// maxShownValue is how many characters are shown of a value that somebody set.
	maxShownValue = 40
	// maxMisfits is how often in a row the API server may say that the patch doesn't fit the Node, without it being
	// a problem. The back-off makes several seconds of it, in which the watch shows what has changed; if it doesn't,
	// then something refuses the patch, as admission policies do with the same code.
	maxMisfits = 3
)

// requests answers what users ask for on the own Node by the annotation contract.AnnotationRotateKeys: it has a request
// noted, or refuses it, and then removes it, so that the same command works again.
type requests struct {
	own     *ownWriter
	rotate  func() error // nil: requests are left alone
	event   func(kind, reason, message string)
	log     *slog.Logger
	contact *contact
	changed func()
	wake    chan struct{} // of capacity 1

	pending *request // nil: none; only run touches it

	mu     sync.Mutex
	failed error // the first of rotate, since it worked last
}

// request is the annotation as it was set.
type request struct {
	node    types.UID
	value   string
	settled bool // noted or refused: all that is left is to remove it
	misfits int
}

func newRequests(config Config, own *ownWriter, c *contact, event func(kind, reason, message string), changed func()) *requests {
	return &requests{
		own:     own,
		rotate:  config.Rotate,
		event:   event,
		log:     config.Log,
		contact: c,
		changed: changed,
		wake:    make(chan struct{}, 1),
	}
}

func (r *requests) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run isn't part of the writer's loop: that waits for its rate limiter, and here the users' own writes are the limit.
func (r *requests) run(ctx context.Context) {
	if r.rotate == nil {
		return
	}
	backoff := retryBackoff()
	retry := time.NewTimer(0) // first: what was set before run
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			if !r.look() {
				continue // other news of the Node don't hurry what waits for a retry
			}
			backoff = retryBackoff()
		case <-retry.C:
			r.look()
		}
		if r.answer(ctx) {
			backoff = retryBackoff()
			retry.Stop()
			continue
		}
		retry.Reset(backoff.Step())
	}
}

// look makes pending what the own Node asks for, and reports whether that is another request than before. What went
// wrong with the one before is then past.
func (r *requests) look() bool {
	_, node := r.own.current()
	shown := requestOn(node)
	switch {
	case shown == nil && r.pending == nil:
		return false
	case shown != nil && r.pending != nil && shown.node == r.pending.node && shown.value == r.pending.value:
		return false
	}
	r.pending = shown
	r.note(nil)
	r.contact.note(removingRequest, nil)
	return true
}

func requestOn(node *corev1.Node) *request {
	if node == nil {
		return nil
	}
	value, ok := node.Annotations[contract.AnnotationRotateKeys]
	if !ok {
		return nil
	}
	return &request{node: node.UID, value: value}
}

// answer takes the pending request as far as it can, and reports whether there is nothing left to do.
func (r *requests) answer(ctx context.Context) bool {
	switch {
	case r.pending == nil:
		return true
	case r.pending.settled:
	case r.pending.value == contract.RotateNow:
		err := r.rotate()
		r.note(err)
		if err != nil {
			return false
		}
	default:
		r.refuse(r.pending.value)
	}
	r.pending.settled = true
	return r.remove(ctx)
}

// remove takes the pending request from the Node, if it is still there.
func (r *requests) remove(ctx context.Context) bool {
	err := r.own.send(ctx, types.JSONPatchType, removalPatch(r.pending.value))
	switch {
	case ctx.Err() != nil:
		return true
	case err == nil:
		r.contact.note(removingRequest, nil)
		r.pending = nil // whatever the Node shows from now on is another request
		return true
	case apierrors.IsNotFound(err):
		return true // the watch tells that the Node is gone; until then the request is this one
	case isMisfit(err) && r.pending.misfits < maxMisfits:
		r.pending.misfits++
		return false // the watch tells what the Node asks for now
	}
	r.contact.note(removingRequest, err)
	return false
}

// isMisfit reports whether err can be the answer to a JSON patch that the object has changed under.
func isMisfit(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsConflict(err) || apierrors.IsBadRequest(err)
}

// removalPatch returns the JSON patch (RFC 6902) that removes the request, unless it has another value by now.
func removalPatch(value string) any {
	path := "/metadata/annotations/" + strings.ReplaceAll(contract.AnnotationRotateKeys, "/", "~1")
	return []map[string]string{
		{"op": "test", "path": path, "value": value},
		{"op": "remove", "path": path},
	}
}

func (r *requests) refuse(value string) {
	shown := quote(value)
	r.event(Warning, ReasonRotationRefused, fmt.Sprintf("the annotation %s=%s is refused and removed: "+
		"the one value that it takes is %q", contract.AnnotationRotateKeys, shown, contract.RotateNow))
	r.log.Warn("refused a request to rotate keys", "annotation", contract.AnnotationRotateKeys, "value", shown,
		"takes", contract.RotateNow)
}

// quote returns the beginning of what somebody wrote, in quotes and printable.
func quote(text string) string {
	count := 0
	for i := range text {
		if count == maxShownValue {
			return strconv.Quote(text[:i] + "…")
		}
		count++
	}
	return strconv.Quote(text)
}

// note notes how rotate ended: err is nil when it worked, or isn't needed any more. Later errors don't replace the
// first, so that retries which fail in other words aren't news.
func (r *requests) note(err error) {
	r.mu.Lock()
	news := (err == nil) != (r.failed == nil)
	if news {
		r.failed = err
	}
	r.mu.Unlock()
	if news {
		r.changed()
	}
}

func (r *requests) problems() []view.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		return nil
	}
	return []view.Problem{{
		Subject: "annotation " + contract.AnnotationRotateKeys,
		Message: fmt.Sprintf("the request isn't noted, and stays on the Node: %v", r.failed),
		Remedy: fmt.Sprintf("see that the agent can write to its state directory, %s unless it is told another; "+
			"it tries again by itself", contract.StateDir),
		Warning: true,
	}}
}
