package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// NodePolicy is the ValidatingAdmissionPolicy of the manifest that lets an agent write on its own Node only.
const NodePolicy = "weaveguard-nodes"

// Reasons of the Events about that policy.
const (
	ReasonNotProtected = "NodeAnnotationsNotProtected"
	ReasonProtected    = "NodeAnnotationsProtected"
)

const (
	// protectionFirst is how long after its start an agent looks at first, at most; the rest is jitter.
	protectionFirst = 10 * time.Second
	// protectionConfirm is after what time it looks again before it warns: the API server needs a moment to follow a
	// policy that was just applied.
	protectionConfirm = 10 * time.Second
	// protectionEvery is how often it looks while all is well. Otherwise it looks each protectionSoon, and in a big
	// cluster slower: all agents together ask ten times a second at most.
	protectionEvery   = 10 * time.Minute
	protectionSoon    = 30 * time.Second
	protectionPerNode = 100 * time.Millisecond
	// maxProtectionNodes is how many Nodes one look tries, when they turn out to be gone.
	maxProtectionNodes = 3

	notProtected = "the API server lets this agent change another Node: whoever takes over one node can speak for all of them"
)

// probe changes nothing, even without a dry run: it removes an annotation that nobody sets. The policy refuses it on
// another Node like any change by an agent.
const probe = `{"metadata":{"annotations":{"weaveguard.io/protection-probe":null}}}`

// protected says whether the API server keeps agents from changing other Nodes.
type protected int

const (
	protectionUnknown protected = iota
	protectionThere
	protectionMissing
)

// protection finds out from time to time whether the admission policy is in force.
type protection struct {
	client  kubernetes.Interface
	node    string
	nodes   func() []Node
	event   func(kind, reason, message string)
	log     *slog.Logger
	changed func()

	// Only run touches these.
	missing int       // how often in a row it was missing
	said    protected // what the log said last

	mu    sync.Mutex
	state protected
}

func newProtection(config Config, nodes func() []Node, event func(kind, reason, message string), changed func()) *protection {
	return &protection{client: config.Client, node: config.Node, nodes: nodes, event: event, log: config.Log, changed: changed}
}

func (p *protection) run(ctx context.Context) {
	next := time.NewTimer(rand.N(protectionFirst))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		state, err := p.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Debug("can't tell whether an admission policy protects the Nodes", "err", err)
		}
		next.Reset(p.note(state))
	}
}

// look asks the API server. The error says why the answer is unknown; without another Node there is neither.
func (p *protection) look(ctx context.Context) (protected, error) {
	var last error
	for _, name := range p.others() {
		ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
		_, err := p.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(probe),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		cancel()
		switch {
		case err == nil:
			return protectionMissing, nil
		case isOurRefusal(err):
			return protectionThere, nil
		}
		last = fmt.Errorf("trying a dry-run patch of node %s: %w", name, err)
		if !apierrors.IsNotFound(err) {
			break
		}
	}
	return protectionUnknown, last
}

// others returns a few other Nodes at random.
func (p *protection) others() []string {
	var names []string
	for _, node := range p.nodes() {
		if node.Name != p.node {
			names = append(names, node.Name)
		}
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(len(names), maxProtectionNodes)]
}

// isOurRefusal tells a refusal by the manifest's policy from those by roles, webhooks and other policies. The code doesn't
// tell: it is 422 by default, and a policy may choose another.
func isOurRefusal(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) &&
		strings.Contains(status.Status().Message, "ValidatingAdmissionPolicy '"+NodePolicy+"'")
}

// note takes what a look found, tells what is new, and returns after what time to look again.
func (p *protection) note(found protected) time.Duration {
	if found != protectionMissing {
		p.missing = 0
	} else if p.missing++; p.missing == 1 && p.said != protectionMissing {
		return protectionConfirm
	}
	p.mu.Lock()
	news := (p.state == protectionMissing) != (found == protectionMissing)
	p.state = found
	p.mu.Unlock()
	switch {
	case found == protectionMissing && p.said != protectionMissing:
		p.log.Warn("no admission policy protects the Nodes", "policy", NodePolicy, "remedy", protectionRemedy())
		p.event(Warning, ReasonNotProtected, notProtected+"; "+protectionRemedy())
	case found == protectionThere && p.said == protectionMissing:
		p.log.Info("an admission policy protects the Nodes again", "policy", NodePolicy)
		p.event(Normal, ReasonProtected, "an admission policy keeps agents from changing other Nodes again")
	}
	if found != protectionUnknown {
		p.said = found
	}
	if news {
		p.changed()
	}
	every := protectionEvery
	if found != protectionThere {
		every = min(every, protectionSoon+time.Duration(len(p.nodes()))*protectionPerNode)
	}
	return every*3/4 + rand.N(every/2)
}

func protectionRemedy() string {
	return "apply Weaveguard's manifest again, which has the policy " + NodePolicy +
		"; Kubernetes before 1.30 can't have it, and docs/install.md says what that means"
}

func (p *protection) problems() []view.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != protectionMissing {
		return nil
	}
	return []view.Problem{{Subject: "admission policy", Message: notProtected, Remedy: protectionRemedy(), Warning: true}}
}
