package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// gossipAdapter is gossip as the loop wants it.
type gossipAdapter struct {
	*gossip.Gossip
	address netip.AddrPort
	keyring *keyringFollower
}

func (g gossipAdapter) Heard() []mesh.Heard {
	heard := g.Gossip.Heard()
	all := make([]mesh.Heard, len(heard))
	for i, h := range heard {
		all[i] = mesh.Heard{Node: h.Node, Raw: h.Raw, From: h.From, At: h.At, Since: h.Since, Alive: h.Alive}
	}
	return all
}

func (g gossipAdapter) Seek(seeds []mesh.Seed) {
	targets := make([]gossip.Target, len(seeds))
	for i, s := range seeds {
		targets[i] = gossip.Target{Node: s.Node, Addr: netip.AddrPortFrom(s.Address, contract.GossipPort)}
	}
	g.Gossip.Seek(targets)
}

func (g gossipAdapter) Status() view.GossipStatus {
	return view.GossipStatus{Address: g.address.String(), Members: len(g.Members()), Keys: g.Keys(), Traffic: g.Traffic()}
}

func (g gossipAdapter) Problems() []view.Problem {
	return append(g.Gossip.Problems(), g.keyring.problems()...)
}

func (g gossipAdapter) Refused() map[string]uint64 { return g.Counters() }

// attachAdapter is the CNI side as the loop wants it.
type attachAdapter struct {
	*attach.Attach
}

func (a attachAdapter) Attachments(ctx context.Context) ([]view.Attachment, error) {
	attachments, err := a.Attach.Attachments(ctx)
	all := make([]view.Attachment, len(attachments))
	for i, at := range attachments {
		all[i] = rosterEntry(at)
	}
	return all, err
}

// rosterEntry is an attachment as the mesh knows it. What runtimes call things without Kubernetes need not be what a roster can
// have.
func rosterEntry(at store.Attachment) view.Attachment {
	entry := view.Attachment{Bridge: at.Bridge, Attachment: record.Attachment{
		Name: record.RosterName(at.PodName), Interface: record.RosterName(at.IfName), Network: at.Network, Addresses: at.Addresses,
	}}
	if at.PodNamespace != "" {
		entry.Namespace = record.RosterName(at.PodNamespace)
	}
	if at.PodName == "" {
		entry.Name = record.RosterName(at.ContainerID)
	}
	return entry
}

// clusterAdapter is Kubernetes as the loop wants it.
type clusterAdapter struct {
	*kube.Kube
	told  bool // whether an Event said so yet
	ready bool // what the last one said
}

func (c *clusterAdapter) State() mesh.ClusterState {
	s := c.Snapshot()
	state := mesh.ClusterState{Synced: s.Synced, Reachable: s.Reachable, Problems: s.Problems, PodRanges: s.PodRanges}
	for _, n := range s.Nodes {
		node, problems := clusterNode(n)
		state.Nodes = append(state.Nodes, node)
		state.Problems = append(state.Problems, problems...)
	}
	if s.NetworkPolicies > 0 {
		state.Problems = append(state.Problems, view.Problem{
			Subject: "NetworkPolicies", Warning: true, Message: fmt.Sprintf("the cluster has %d, and Weaveguard doesn't enforce them "+
				"yet: pods can reach each other all the same", s.NetworkPolicies),
			Remedy: "don't rely on them (see `kubectl get events -A` for their names)",
		})
	}
	return state
}

// clusterNode reads a Node's annotations. A bad one is a problem of that Node, and counts as absent.
func clusterNode(n kube.Node) (mesh.ClusterNode, []view.Problem) {
	node := mesh.ClusterNode{
		Name: n.Name, Created: n.Created, PodCIDRs: n.PodCIDRs, Addresses: n.Addresses, AllAddresses: n.AllAddresses,
	}
	var problems []view.Problem
	bad := func(annotation string, err error, remedy string) {
		problems = append(problems, view.Problem{
			Subject: "node " + n.Name, Message: fmt.Sprintf("its annotation %s can't be used: %v", annotation, err), Remedy: remedy,
		})
	}
	if n.Identity != "" {
		identity, err := keys.ParsePublicIdentity(n.Identity)
		if err == nil && identity.IsZero() {
			err = errors.New("it is all zeros")
		}
		if err != nil {
			bad(contract.AnnotationIdentity, err, "its agent writes it anew, if it runs; what was known of the node stays in use until then")
		}
		node.Identity, node.Unreadable = identity, err != nil
	}
	if n.Endpoint != "" {
		endpoint, err := netip.ParseAddr(n.Endpoint)
		endpoint = endpoint.Unmap()
		if err == nil && (!endpoint.IsGlobalUnicast() || endpoint.Zone() != "") {
			err = fmt.Errorf("%s isn't an address that other nodes can send to", endpoint)
		}
		if err != nil {
			bad(contract.AnnotationEndpoint, err, "set it to the IP address that peers reach the node at, or remove it")
			endpoint = netip.Addr{}
		}
		node.Endpoint = endpoint
	}
	if key, err := keys.ParsePublicKey(n.PublicKey); err == nil {
		node.PublicKey = key // else the node's agent writes it anew, and until then its record says enough
	}
	return node, problems
}

// Report is called by the loop alone.
func (c *clusterAdapter) Report(own mesh.Own) {
	message := "Weaveguard carries pod traffic on this node"
	if !own.Ready {
		message = own.Reason
	}
	if !c.told || c.ready != own.Ready {
		kind, reason := corev1.EventTypeNormal, kube.ReasonReady
		if !own.Ready {
			kind, reason = corev1.EventTypeWarning, kube.ReasonNotReady
		}
		c.Kube.Event(kind, reason, message)
		c.told, c.ready = true, own.Ready
	}
	c.Kube.Report(kube.Own{
		Identity: own.Identity, PublicKey: own.PublicKey, KeyGeneration: own.Generation, KeyRotatedAt: own.RotatedAt,
		Rotation: own.Rotation, Ready: own.Ready, Message: message,
	})
}

func (c *clusterAdapter) Event(e mesh.Event) {
	switch e.Kind {
	case mesh.RotationStarted:
		c.Kube.Event(kube.Normal, kube.ReasonRotationStarted, e.Message)
	case mesh.RotationQueued:
		c.Kube.Event(kube.Normal, kube.ReasonRotationQueued, e.Message)
	case mesh.RotationFinished:
		c.Kube.Event(kube.Normal, kube.ReasonRotationFinished, e.Message)
	case mesh.RotationWaiting:
		c.Kube.Event(kube.Warning, kube.ReasonRotationWaiting, e.Message)
	case mesh.RotationFailed:
		c.Kube.Event(kube.Warning, kube.ReasonRotationFailed, e.Message)
	case mesh.RecordRefused:
		c.Accuse(e.Node, e.Topic, e.Message)
	}
}
