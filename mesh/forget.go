package mesh

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// forgottenWord is for what a node said before an operator had it forgotten on this one.
const forgottenWord = "forgotten"

// maxForgotten is how many forgotten identities are kept; of more, the one that was forgotten first isn't.
const maxForgotten = 1024

// Forgotten is an identity of a node that an operator had forgotten on this one. What it had said until then counts no more,
// whoever hands it on; what it says later is as good as a new node's.
type Forgotten struct {
	Node     string              `json:"node"`
	Identity keys.PublicIdentity `json:"identity"`
	Sequence uint64              `json:"sequence"` // the highest number of a record that doesn't count
	At       time.Time           `json:"at"`
}

// forgetRequest is what an operator asked for, which the loop does.
type forgetRequest struct {
	node   string
	force  bool
	answer view.ForgetAnswer
	err    error
	done   chan struct{} // closed when answer and err are there, and the pass that did it has ended
}

// Forget takes a node out of the data plane and forgets which identity it had, without Kubernetes, and returns when that is
// done and on disk. Without force it refuses while the node's agent runs. An error says why it is refused, or that the
// context ended first. Safe to call at any time while Run runs.
func (a *Agent) Forget(ctx context.Context, node string, force bool) (view.ForgetAnswer, error) {
	switch {
	case a.Cluster != nil:
		return view.ForgetAnswer{}, fmt.Errorf("with Kubernetes a node belongs to the mesh as long as its Node exists: `kubectl delete node %s`", node)
	case node == a.Node:
		return view.ForgetAnswer{}, fmt.Errorf("%s is this host itself: stop its agent here, and have it forgotten on the others", node)
	}
	r := &forgetRequest{node: node, force: force, done: make(chan struct{})}
	a.mu.Lock()
	a.forgets = append(a.forgets, r)
	a.mu.Unlock()
	a.Latch.Set()
	select {
	case <-r.done:
		return r.answer, r.err
	case <-ctx.Done():
		return view.ForgetAnswer{}, fmt.Errorf("the agent hasn't got to it yet: %w; see `weaveguard status`", ctx.Err())
	}
}

// heed does what operators asked for since the last pass. It returns whether what is to be remembered changed.
func (a *Agent) heed(p *pass, heard []Heard) bool {
	a.mu.Lock()
	p.forgets, a.forgets = a.forgets, nil
	a.mu.Unlock()
	changed := false
	for _, r := range p.forgets {
		r.answer, r.err = a.book.forget(r.node, r.force, heard)
		if r.err == nil && r.answer.State == view.ForgotNode {
			changed = true
			a.Log.Info("a node is forgotten, as asked for", "node", r.node, "identity", r.answer.Identity)
		}
	}
	return changed
}

// answerForgets lets those who asked know, after the pass that did it.
func (p *pass) answerForgets(unsaved bool) {
	for _, r := range p.forgets {
		if unsaved && r.err == nil {
			r.err = fmt.Errorf("%s is forgotten, but only until the agent restarts: the view cache can't be written", r.node)
		}
		close(r.done)
	}
	p.forgets = nil
}

// forget drops what counts of a node, and what is refused for its pod CIDRs, and notes that what it has said doesn't count
// any more.
func (b *book) forget(node string, force bool, heard []Heard) (view.ForgetAnswer, error) {
	known, counts := b.entries[node]
	refused, claims := b.rivals[node]
	if !counts && !claims {
		return b.alreadyForgotten(node)
	}
	identity, said, cidrs := refused.identity, refused.sequence, refused.cidrs
	if counts {
		identity, said, cidrs = known.record.Identity, known.record.Sequence, known.record.PodCIDRs()
	}
	var at []netip.Addr
	for _, h := range heard {
		if h.Node != node {
			continue
		}
		v, seen := b.judged[candidateOf(h)]
		if !seen || v.err != nil || v.record.Identity != identity {
			continue
		}
		said = max(said, v.record.Sequence)
		at = append(at, without(h.At, at)...)
	}
	if len(at) > 0 && !force {
		return view.ForgetAnswer{}, view.NodeRuns(node, addressList(at))
	}
	if counts {
		b.retire(claimant{node, identity})
		delete(b.entries, node)
	}
	delete(b.rivals, node)
	delete(b.waiting, node)
	b.forgotten[claimant{node, identity}] = Forgotten{Node: node, Identity: identity, Sequence: said, At: b.now}
	if len(b.forgotten) > maxForgotten {
		all := b.allForgotten()
		first := slices.MinFunc(all, func(x, y Forgotten) int { return x.At.Compare(y.At) })
		delete(b.forgotten, claimant{first.Node, first.Identity})
	}
	return view.ForgetAnswer{State: view.ForgotNode, Node: node, Identity: identity, PodCIDRs: cidrs}, nil
}

// alreadyForgotten answers for a node of which nothing counts.
func (b *book) alreadyForgotten(node string) (view.ForgetAnswer, error) {
	for _, f := range b.allForgotten() {
		if f.Node == node {
			return view.ForgetAnswer{State: view.ForgottenBefore, Node: node, Identity: f.Identity}, nil
		}
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(b.entries)), maps.Keys(b.rivals))
	slices.Sort(names)
	return view.ForgetAnswer{}, view.UnknownNode(node, slices.Compact(names))
}

// allForgotten are sorted by node and time.
func (b *book) allForgotten() []Forgotten {
	return slices.SortedFunc(maps.Values(b.forgotten), func(x, y Forgotten) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), y.At.Compare(x.At), cmp.Compare(x.Identity.String(), y.Identity.String()))
	})
}

// saidBefore says that a record is of before its node was forgotten, if it is.
func (b *book) saidBefore(node string, r record.Record) *refusal {
	f, was := b.forgotten[claimant{node, r.Identity}]
	if !was || r.Sequence > f.Sequence {
		return nil
	}
	return &refusal{forgottenWord, fmt.Sprintf("it is what the node had said before it was forgotten here, at %s",
		f.At.Format(time.RFC3339))}
}

// back notes that a node which was forgotten counts again.
func (b *book) back(node string, identity keys.PublicIdentity) {
	for c := range b.forgotten {
		if c.node != node {
			continue
		}
		if !slices.Contains(b.returned, node) {
			b.returned = append(b.returned, node)
		}
		if c.identity == identity {
			delete(b.forgotten, c)
		}
	}
}

// rememberForgotten takes over into the cache who was forgotten.
func (a *Agent) rememberForgotten() {
	a.remembered.Forgotten = a.book.allForgotten()
	for _, node := range a.book.returned {
		a.Log.Info("a node that was forgotten is let in again, by what it says now", "node", node, "identity", a.book.entries[node].record.Identity)
	}
	a.book.returned = nil
}

// noticeForgotten reports nodes that were forgotten, and whose agents run all the same.
func (a *Agent) noticeForgotten(p *pass) {
	for _, node := range slices.Sorted(maps.Keys(a.book.running)) {
		if len(a.book.running[node]) == 0 {
			continue // it is handed on
		}
		p.problems = append(p.problems, view.Problem{
			Subject: "node " + node, Warning: true,
			Message: "it was forgotten here, and its agent runs at " + addressList(a.book.running[node]) + " all the same",
			Remedy:  "end that agent; or restart it there to have the node let in again",
		})
	}
}

// candidateOf is what a candidate is known by.
func candidateOf(h Heard) candidate {
	return candidate(sha256.Sum256(slices.Concat([]byte(h.Node), []byte{0}, h.Raw)))
}
