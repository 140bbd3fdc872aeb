package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// board is what the status API shows: the agent's own status once it runs, and until then what it waits for. Safe
// for concurrent use.
type board struct {
	node    string
	started time.Time
	latch   mesh.Latch
	log     *slog.Logger

	mu      sync.Mutex
	agent   *mesh.Agent
	waiting view.Problem
}

// askTime is how long the agent may take to look at what it tells.
const askTime = 5 * time.Second

func (b *board) status(problems func() []view.Problem) view.Status {
	agent, waiting := b.now()
	var s view.Status
	if agent != nil {
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		s = agent.Status(ctx)
	} else {
		s = view.Status{Time: time.Now(), Version: contract.Version(), Started: b.started, Node: b.node, Kubernetes: "absent",
			Problems: []view.Problem{waiting}}
	}
	s.Problems = append(s.Problems, problems()...)
	return s
}

// now is the agent, or what its start waits for.
func (b *board) now() (*mesh.Agent, view.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.agent, b.waiting
}

// ready is for the readiness probe.
func (b *board) ready() (bool, []view.Problem) {
	agent, waiting := b.now()
	if agent == nil {
		return false, []view.Problem{waiting}
	}
	return agent.Ready()
}

// topology is that which the agent knows: nothing while it is starting.
func (b *board) topology() view.Topology {
	agent, _ := b.now()
	if agent == nil {
		return view.Topology{Time: time.Now(), Node: b.node, Nodes: []view.TopologyNode{}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	return agent.Topology(ctx)
}

// matrix is what the agent has gathered: nothing while it is starting.
func (b *board) matrix() view.Matrix {
	agent, _ := b.now()
	if agent == nil {
		return view.Matrix{Time: time.Now(), Node: b.node, Rows: []view.MatrixRow{}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	return agent.Matrix(ctx)
}

// rotate asks the agent for a new key.
func (b *board) rotate(force bool) (view.RotateAnswer, error) {
	agent, waiting := b.now()
	if agent == nil {
		return view.RotateAnswer{}, fmt.Errorf("the agent is starting, and can't rotate yet: %s", waiting)
	}
	return agent.Rotate(force)
}

// forget asks the agent to forget a node.
func (b *board) forget(ctx context.Context, node string, force bool) (view.ForgetAnswer, error) {
	b.mu.Lock()
	agent, waiting := b.agent, b.waiting
	b.mu.Unlock()
	if agent == nil {
		return view.ForgetAnswer{}, fmt.Errorf("the agent is starting, and can't forget a node yet: %s", waiting)
	}
	return agent.Forget(ctx, node, force)
}

// alive is for the liveness probe: waiting for something outside is no reason to be restarted.
func (b *board) alive() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.agent == nil {
		return nil
	}
	return b.agent.Alive()
}

func (b *board) run(agent *mesh.Agent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.agent = agent
}

// patience is how long a step of the start may fail before that is logged.
const patience = 3 * time.Second

// await tries a step of the start until it succeeds, with a growing delay. While it waits, status and log say what
// for; each new error is logged once.
func (b *board) await(ctx context.Context, subject string, step func(context.Context) error) error {
	backoff := wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 6, Cap: 10 * time.Second}
	said, heard, begin := "", "", time.Now()
	b.wait(view.Problem{Subject: subject, Message: "the agent is starting", Remedy: "wait a few seconds"})
	for {
		err := step(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		text := err.Error()
		waiting := view.Problem{Subject: subject, Message: text}
		if known := (problemError{}); errors.As(err, &known) {
			waiting.Message, waiting.Remedy = known.Subject+": "+known.Message, known.Remedy
		}
		b.wait(waiting)
		if text == heard && text != said && time.Since(begin) >= patience { // what passes by itself soon is no news
			b.log.Error("the start waits", "subject", subject, "error", text)
			said = text
		}
		heard = text
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff.Step()):
		}
	}
}

// problemError is a problem that is why a step of the start fails.
type problemError struct{ view.Problem }

func (e problemError) Error() string { return e.String() }

func (b *board) wait(p view.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = p
}
