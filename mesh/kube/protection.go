package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// The ValidatingAdmissionPolicies of the manifest: NodePolicy lets an agent write on its own Node only, KeyringPolicy put a
// gossip key only where there is none, and LeasePolicy claim pod CIDRs for its own node only.
const (
	NodePolicy    = "weaveguard-nodes"
	KeyringPolicy = "weaveguard-claims"
	LeasePolicy   = "weaveguard-leases"
)

// Reasons of the Events about these policies.
const (
	ReasonNotProtected        = "NodeAnnotationsNotProtected"
	ReasonProtected           = "NodeAnnotationsProtected"
	ReasonKeyringNotProtected = "GossipKeyNotProtected"
	ReasonKeyringProtected    = "GossipKeyProtected"
	ReasonClaimsNotProtected  = "PodCIDRClaimsNotProtected"
	ReasonClaimsProtected     = "PodCIDRClaimsProtected"
)

const (
	// protectionFirst is how long after its start an agent looks at first, at most; the rest is jitter.
	protectionFirst = 10 * time.Second
	// protectionConfirm is after what time it looks again before it warns: the API server needs a moment to follow a
	// policy that was just applied.
	protectionConfirm = 10 * time.Second
	// protectionEvery is how often it looks for a policy while all is well. Otherwise it looks each protectionSoon, and
	// in a big cluster slower: all agents together look for one ten times a second at most.
	protectionEvery   = 10 * time.Minute
	protectionSoon    = 30 * time.Second
	protectionPerNode = 100 * time.Millisecond
	// maxProtectionNodes is how many Nodes one look tries, when they turn out to be gone.
	maxProtectionNodes = 3
)

// probe changes nothing, even without a dry run: it removes an annotation that nobody sets. The policy refuses it on
// another Node like any change by an agent.
const probe = `{"metadata":{"annotations":{"weaveguard.io/protection-probe":null}}}`

// probeClaim is the claim that is tried: a proper one but that another node makes it, of a block that is in no range. So it
// would count for nobody, even without a dry run.
var probeClaim = netip.MustParsePrefix("0.0.0.0/32")

// protected says whether the API server keeps agents from what a policy forbids.
type protected int

const (
	protectionUnknown protected = iota
	protectionThere
	protectionMissing
)

// guard is one of the manifest's policies, and what its absence means.
type guard struct {
	policy        string
	protects      string // what it protects
	without       string // what is possible without it
	missing, back string // reasons of the Events
}

func nodeGuard() guard {
	return guard{
		policy:   NodePolicy,
		protects: "the Nodes",
		without:  "the API server lets this agent change another Node: whoever takes over one node can speak for all of them",
		missing:  ReasonNotProtected,
		back:     ReasonProtected,
	}
}

func keyringGuard() guard {
	return guard{
		policy:   KeyringPolicy,
		protects: "the gossip key",
		without: "the API server lets this agent replace the gossip key: whoever takes over one node can take the key away from all " +
			"others, or give them another one",
		missing: ReasonKeyringNotProtected,
		back:    ReasonKeyringProtected,
	}
}

func leaseGuard() guard {
	return guard{
		policy:   LeasePolicy,
		protects: "the claims of pod CIDRs",
		without: "the API server lets this agent write other nodes' claims of pod CIDRs: whoever takes over one node can take theirs " +
			"away from all others",
		missing: ReasonClaimsNotProtected,
		back:    ReasonClaimsProtected,
	}
}

// protection finds out from time to time whether an admission policy is in force.
type protection struct {
	guard  guard
	config Config
	nodes  func() []Node
	// claimed says whether pod CIDRs are claimed.
	claimed func() bool
	// try does what the policy refuses, in a dry run. It returns false where there is nothing to try, or the answer tells
	// nothing.
	try     func(context.Context, *protection) (bool, error)
	event   func(kind, reason, message string)
	changed func()

	// Only run touches these.
	missing int       // how often in a row it was missing
	said    protected // what the log said last

	mu    sync.Mutex
	state protected
}

// newProtections makes one for each of the policies.
func newProtections(config Config, nodes func() []Node, claimed func() bool, event func(kind, reason, message string),
	changed func()) []*protection {
	made := []*protection{
		{guard: nodeGuard(), try: tryNodes},
		{guard: keyringGuard(), try: tryKeyring},
		{guard: leaseGuard(), try: tryClaims},
	}
	for _, p := range made {
		p.config, p.nodes, p.claimed, p.event, p.changed = config, nodes, claimed, event, changed
	}
	return made
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
			p.config.Log.Debug("can't tell whether an admission policy is in force", "policy", p.guard.policy, "error", err)
		}
		next.Reset(p.note(state))
	}
}

// look asks the API server. The error says why the answer is unknown; where there is nothing to protect there is neither.
func (p *protection) look(ctx context.Context) (protected, error) {
	tried, err := p.try(ctx, p)
	switch {
	case tried && err == nil:
		return protectionMissing, nil
	case tried && p.isRefusal(err):
		return protectionThere, nil
	}
	return protectionUnknown, err
}

// tryNodes changes another Node.
func tryNodes(ctx context.Context, p *protection) (bool, error) {
	var last error
	for _, node := range p.others() {
		ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
		_, err := p.config.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, []byte(probe),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		cancel()
		if err == nil {
			return true, nil
		}
		last = fmt.Errorf("trying a dry-run patch of node %s: %w", node.Name, err)
		if !apierrors.IsNotFound(err) {
			return true, last
		}
	}
	return false, last
}

// tryKeyring writes the Secret as it is, which changes nothing, even without a dry run. The policy refuses it like any
// change of a Secret that has a key. Where there is no other node, there is nobody to keep from it.
func tryKeyring(ctx context.Context, p *protection) (bool, error) {
	if len(p.others()) == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
	defer cancel()
	secrets := p.config.Client.CoreV1().Secrets(p.config.Namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("reading the Secret %s: %w", SecretName, err)
	}
	if len(secret.Data) == 0 {
		return false, nil // agents may fill it
	}
	if _, err = secrets.Update(ctx, secret, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		return true, fmt.Errorf("trying a dry-run update of the Secret %s: %w", SecretName, err)
	}
	return true, nil
}

// tryClaims claims for another Node, where pod CIDRs are claimed. Policies come before the API server looks whether there is
// such a Lease already.
func tryClaims(ctx context.Context, p *protection) (bool, error) {
	others := p.others()
	if len(others) == 0 || !p.claimed() {
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
	defer cancel()
	w := leaseWriter{client: p.config.Client, node: others[0].Name}
	l := w.claim(claim.Name(probeClaim), types.UID(others[0].UID), "probe")
	_, err := w.leases().Create(ctx, l, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return true, fmt.Errorf("trying a dry-run claim for node %s: %w", w.node, err)
	}
	return true, nil
}

// others returns a few other Nodes at random.
func (p *protection) others() []Node {
	others := slices.DeleteFunc(slices.Clone(p.nodes()), func(n Node) bool { return n.Name == p.config.Node })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return others[:min(len(others), maxProtectionNodes)]
}

// isRefusal tells a refusal by the policy from those by roles, webhooks and other policies. The code doesn't tell: it is
// 422 by default, and a policy may choose another.
func (p *protection) isRefusal(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) &&
		strings.Contains(status.Status().Message, "ValidatingAdmissionPolicy '"+p.guard.policy+"'")
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
		p.config.Log.Warn("no admission policy protects "+p.guard.protects, "policy", p.guard.policy, "remedy", p.guard.remedy())
		p.event(Warning, p.guard.missing, p.guard.without+"; "+p.guard.remedy())
	case found == protectionThere && p.said == protectionMissing:
		p.config.Log.Info("an admission policy protects "+p.guard.protects+" again", "policy", p.guard.policy)
		p.event(Normal, p.guard.back, "the admission policy "+p.guard.policy+" protects "+p.guard.protects+" again")
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

func (g guard) remedy() string {
	return "apply Weaveguard's manifest again, which has the policy " + g.policy +
		" and its binding; Kubernetes before 1.30 can't have it, and docs/install.md says what that means"
}

func (p *protection) problems() []view.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != protectionMissing {
		return nil
	}
	return []view.Problem{{
		Subject: "admission policy " + p.guard.policy,
		Message: p.guard.without,
		Remedy:  p.guard.remedy(),
		Warning: true,
	}}
}
