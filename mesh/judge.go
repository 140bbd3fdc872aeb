package mesh

import (
	"bytes"
	"fmt"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// judge takes in a candidate, or says why not.
func (b *book) judge(h Heard, v verdict, cluster *ClusterState) (change, *refusal) {
	r := v.record
	if v.err != nil {
		return nothing, &refusal{record.Reason(v.err), v.err.Error()}
	}
	if h.Node == b.self {
		return nothing, b.judgeOwn(h, r)
	}
	known, counts := b.entries[h.Node]
	if counts && bytes.Equal(known.raw, h.Raw) {
		return nothing, b.replayed(h)
	}
	if no := b.saidBefore(h.Node, r); cluster == nil && !counts && no != nil {
		return nothing, no
	}
	age, no := b.pinned(h, r, known, counts, cluster)
	if no != nil {
		return nothing, no
	}
	if no := outdated(known, r); counts && no != nil {
		return nothing, no
	}
	if why := goesBack(known, r); counts && why != "" {
		return nothing, &refusal{backwardsWord, why}
	}
	if owner := b.keyOwner(h.Node, r); owner != "" {
		return nothing, &refusal{keyWord, fmt.Sprintf("it announces a WireGuard key of node %s", owner)}
	}
	since := b.now
	if counts && subset(r.PodCIDRs(), known.record.PodCIDRs()) {
		since = known.since
	}
	from := known.from // which somebody may announce it besides
	if len(h.At) == 1 {
		from = h.At[0]
	}
	b.entries[h.Node] = entry{raw: h.Raw, record: r, age: age, since: since, from: from}
	if !counts {
		b.back(h.Node, r.Identity)
	}
	if age != known.age {
		return everything, nil
	}
	return changeOfRecord(known.record, r), nil
}

// outdated says what is wrong with the sequence number of a record, if anything.
func outdated(known entry, r record.Record) *refusal {
	switch {
	case known.record.Identity != r.Identity || r.Sequence > known.record.Sequence:
		return nil
	case r.Sequence == known.record.Sequence:
		return &refusal{twiceWord, fmt.Sprintf("it is another record with the sequence number %d", r.Sequence)}
	}
	return &refusal{oldWord, fmt.Sprintf("it is an old record, number %d, and the node has said number %d since",
		r.Sequence, known.record.Sequence)}
}

// pinned checks a record against whose it must be: by Kubernetes' Nodes, or on first use without Kubernetes. It
// returns the node's age.
func (b *book) pinned(h Heard, r record.Record, known entry, counts bool, cluster *ClusterState) (int64, *refusal) {
	changed := counts && known.record.Identity != r.Identity
	switch {
	case cluster == nil && changed:
		return 0, &refusal{disputedWord, "it is by another identity than before"}
	case cluster != nil && !cluster.Synced && (!counts || changed):
		return 0, &refusal{waitingWord, "the Kubernetes API doesn't answer, so its Node can't be checked"}
	case cluster == nil:
		if owner := b.cidrOwner(h.Node, r, known); owner != "" {
			if r.Sequence > b.rivals[h.Node].sequence {
				b.rivals[h.Node] = rival{r.Identity, r.Sequence, r.PodCIDRs()}
			}
			return 0, &refusal{cidrWord, fmt.Sprintf("it announces pod CIDRs %v, and node %s had (part of) them first", r.PodCIDRs(), owner)}
		}
		return known.age, nil
	case !cluster.Synced && !subset(r.PodCIDRs(), known.record.PodCIDRs()):
		return 0, &refusal{waitingWord, "the Kubernetes API doesn't answer, so its new pod CIDRs can't be checked"}
	case !cluster.Synced:
		return known.age, nil
	}
	n := cluster.node(h.Node)
	switch {
	case n == nil:
		return 0, &refusal{unknownWord, fmt.Sprintf("Kubernetes has no Node %s", h.Node)}
	case n.Unreadable && !(counts && !changed):
		return 0, &refusal{waitingWord, fmt.Sprintf("the annotation %s of its Node can't be read; its agent writes it anew",
			contract.AnnotationIdentity)}
	case n.Unreadable: // what counted goes on to
	case n.Identity.IsZero():
		return 0, &refusal{waitingWord, fmt.Sprintf("its Node has no annotation %s yet, which its agent writes",
			contract.AnnotationIdentity)}
	case n.Identity != r.Identity:
		return 0, &refusal{pinWord, fmt.Sprintf("its record is by another identity than its Node's annotation %s says",
			contract.AnnotationIdentity)}
	}
	if !ownsCIDRs(*n, r) {
		return 0, &refusal{cidrWord, fmt.Sprintf("it announces pod CIDRs %v, and its Node has %v", r.PodCIDRs(), n.PodCIDRs)}
	}
	return n.Created.Unix(), nil
}

// judgeOwn looks at what others have heard under this node's own name.
func (b *book) judgeOwn(h Heard, r record.Record) *refusal {
	if r.Identity == b.identity {
		b.ownSeen = max(b.ownSeen, r.Sequence)
		b.ownGeneration = max(b.ownGeneration, r.Generations[len(r.Generations)-1].Number)
		if r.Sequence > b.ownSequence || len(h.At) == 0 {
			return nil
		}
		return &refusal{oldWord, "it is a record that this node made itself, and somebody else announces"}
	}
	at := without(h.At, b.ownAddresses)
	if len(at) == 0 && b.now.Sub(b.started) >= lingering {
		at = h.At // no more can it be what is left of this node's life before its disk was wiped
	}
	if len(at) > 0 {
		b.impostor = fmt.Sprintf("%s that it is %s too, with another identity", members(at), b.self)
	}
	return &refusal{nameWord, "it says that it is " + b.self + " too, with another identity"}
}
