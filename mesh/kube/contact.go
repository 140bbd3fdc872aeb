package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// What is asked of the API server again and again, in words for operators.
const (
	watchingNodes       = "watching Nodes"
	watchingPolicies    = "watching NetworkPolicies"
	writingAnnotations  = "writing the annotations of the own Node"
	writingCondition    = "writing the condition NetworkUnavailable of the own Node"
	writingPolicyEvents = "writing Events on NetworkPolicies"
)

// contact keeps how the API server answered each request last, and logs the changes: not each failure of a retry.
type contact struct {
	log     *slog.Logger
	changed func()

	mu       sync.Mutex
	answered bool // at least once
	failing  map[string]failure
}

// failure is the first error since a request worked last.
type failure struct {
	since   time.Time
	refused bool // the API server answered, and said no; else it didn't answer, or not usefully
	err     error
}

func newContact(log *slog.Logger, changed func()) *contact {
	return &contact{log: log, changed: changed, failing: map[string]failure{}}
}

// watched notes how a List or Watch ended.
func (c *contact) watched(ctx context.Context, what string, err error) {
	switch {
	case ctx.Err() != nil:
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.IsInvalid(err):
		// In the course of a watch: what it began with has become too old, or the API server knows no streaming
		// lists. The reflector then lists.
	default:
		c.note(what, err)
	}
}

// note notes how a request ended: err is nil when it worked.
func (c *contact) note(what string, err error) {
	if c.keep(what, err) {
		c.changed()
	}
}

// settled notes that requests which may have failed aren't needed any more.
func (c *contact) settled(requests ...string) {
	c.mu.Lock()
	before := len(c.failing)
	for _, what := range requests {
		delete(c.failing, what)
	}
	changed := before != len(c.failing)
	c.mu.Unlock()
	if changed {
		c.changed()
	}
}

// keep reports whether the state changed.
func (c *contact) keep(what string, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, failed := c.failing[what]
	if err == nil {
		first := !c.answered
		c.answered = true
		if failed {
			delete(c.failing, what)
			c.logWorks(what, before)
		}
		return failed || first
	}
	now := failure{since: time.Now(), refused: isRefusal(err), err: err}
	if failed && before.refused == now.refused {
		return false
	}
	others := c.silent() // before this one is among them
	c.failing[what] = now
	switch {
	case now.refused:
		c.answered = true
		c.log.Warn("the Kubernetes API server refuses a request", "what", what, "err", err)
	case !others:
		c.log.Warn("the Kubernetes API server doesn't answer; what was seen last stays in use", "what", what, "err", err)
	}
	return true
}

func (c *contact) logWorks(what string, before failure) {
	lasted := time.Since(before.since).Round(time.Second)
	switch {
	case before.refused:
		c.log.Info("the Kubernetes API server allows a request again", "what", what, "after", lasted)
	case !c.silent():
		c.log.Info("the Kubernetes API server answers again", "after", lasted)
	}
}

// silent reports whether any request went without an answer last.
func (c *contact) silent() bool {
	for _, f := range c.failing {
		if !f.refused {
			return true
		}
	}
	return false
}

// state returns Snapshot's Reachable, and the problems.
func (c *contact) state() (bool, []view.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var problems []view.Problem
	for _, what := range slices.Sorted(maps.Keys(c.failing)) {
		f := c.failing[what]
		problem := view.Problem{
			Subject: "Kubernetes API server",
			Message: fmt.Sprintf("it doesn't answer (%s): %v", what, f.err),
			Remedy: "running pods keep their network; if this lasts, see whether this node reaches the API server, " +
				"and if only its Service address fails, set KUBERNETES_SERVICE_HOST in the manifest",
		}
		if f.refused {
			problem.Message = fmt.Sprintf("it refuses %s: %v", what, f.err)
			problem.Remedy = "apply the manifest of this version again: its roles allow it"
		}
		problems = append(problems, problem)
	}
	_, nodesFail := c.failing[watchingNodes]
	return c.answered && !nodesFail && !c.silent(), problems
}

func isRefusal(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}
