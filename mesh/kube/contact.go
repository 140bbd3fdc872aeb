package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// What is asked of the API server again and again, in words for operators.
const (
	watchingNodes       = "watching Nodes"
	watchingPolicies    = "watching NetworkPolicies"
	watchingClaims      = "watching the Leases in the namespace " + ClaimNamespace
	writingClaims       = "claiming a pod CIDR by a Lease in the namespace " + ClaimNamespace
	writingAnnotations  = "writing the annotations of this Node"
	writingCondition    = "writing the condition NetworkUnavailable of this Node"
	writingPolicyEvents = "writing Events on NetworkPolicies"
	readingKeyring      = "reading the Secret with the gossip keyring"
	removingRequest     = "removing the annotation " + contract.AnnotationRotateKeys + " from this Node"
)

// contact keeps how the API server answered each request last.
type contact struct {
	changed func()

	mu       sync.Mutex
	answered bool // at least once
	failing  map[string]failure
}

// failure is the first error since a request worked last. Later ones of its kind don't replace it, so that retries
// which fail in other words aren't news.
type failure struct {
	since   time.Time
	refused bool // the API server answered, and said no; else it didn't answer, or not usefully
	unknown bool // it doesn't know who asks: the token isn't valid any more
	err     error
}

func newContact(changed func()) *contact {
	return &contact{changed: changed, failing: map[string]failure{}}
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

// note notes how a request ended: err is nil when it worked, or isn't needed any more.
func (c *contact) note(what string, err error) {
	if c.keep(what, err) {
		c.changed()
	}
}

// keep reports whether anything changed.
func (c *contact) keep(what string, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, failed := c.failing[what]
	now := failure{since: time.Now(), refused: isRefusal(err), unknown: apierrors.IsUnauthorized(err), err: err}
	first := !c.answered && (err == nil || now.refused)
	c.answered = c.answered || first
	switch {
	case err == nil:
		delete(c.failing, what)
		return failed || first
	case failed && before.refused == now.refused && before.unknown == now.unknown:
		return first
	}
	c.failing[what] = now
	return true
}

// state returns Snapshot's Reachable, and the problems: warnings, as the mesh goes on with what it knows.
func (c *contact) state() (bool, []view.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var problems []view.Problem
	var silence *failure // the first of those that have the same cause
	stranger := false
	for _, what := range slices.Sorted(maps.Keys(c.failing)) {
		f := c.failing[what]
		if !f.refused {
			if silence == nil || f.since.Before(silence.since) {
				silence = &f
			}
			continue
		}
		if f.unknown {
			if !stranger {
				problems = append(problems, unauthorized(what, f.err))
			}
			stranger = true
			continue
		}
		problems = append(problems, view.Problem{
			Subject: "Kubernetes API server",
			Message: fmt.Sprintf("it refuses %s: %v", what, f.err),
			Remedy: "apply the manifest of this version again: its roles allow it; and see that --node-name is this node, " +
				"if an admission policy refuses it",
			Warning: true,
		})
	}
	if silence != nil {
		problems = append(problems, view.Problem{
			Subject: "Kubernetes API server",
			Message: fmt.Sprintf("it doesn't answer, and what it said last stays in use: %v", cause(silence.err)),
			Remedy: "running pods keep their network; if this lasts, see whether this node reaches the API server, " +
				"and if only its Service address fails, set KUBERNETES_SERVICE_HOST in the manifest",
			Warning: true,
		})
	}
	_, nodesFail := c.failing[watchingNodes]
	return c.answered && !nodesFail && silence == nil, problems
}

// unauthorized is the problem of a token that isn't valid any more. The API server revokes it with the pod that it was
// made for, so also some time after the Node was deleted. The token's file is read again after each such answer.
func unauthorized(what string, err error) view.Problem {
	return view.Problem{
		Subject: "Kubernetes API server",
		Message: fmt.Sprintf("it doesn't accept this agent's token, at first for %s: %v; what it said last stays in use", what, err),
		Remedy: "if the Node was deleted and made again, Kubernetes replaces this agent's pod by itself within minutes; if this lasts, " +
			"delete the pod, or with --kubeconfig put a valid token there: the agent reads it again, and needs no restart",
		Warning: true,
	}
}

// cause leaves out what a client adds to an error of the network: URLs of a line each, and earlier attempts.
func cause(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op
	}
	if request := (*url.Error)(nil); errors.As(err, &request) {
		return request.Err
	}
	return err
}

// isRefusal reports whether err is an answer that no retry will change.
func isRefusal(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}
