// Package kube owns all that the agent reads from the Kubernetes API and writes to it: it watches Nodes and
// NetworkPolicies, reads the gossip keyring and kubeadm's pod subnet, takes users' requests from its own Node, and
// writes the annotations and the NetworkUnavailable condition of that Node, and Events. Where Kubernetes gives nodes no
// pod CIDRs, it claims those of this node by Leases, and knows the claims of all.
//
// It never decides what the data plane should be, never writes to another node's Node or claim, never removes anything
// but a request that was answered and the claim of a Node that is gone, and changes no annotation outside weaveguard.io/.
// When the API server is away it goes on with what it saw last, says so in its Snapshot, and tries again without flooding.
package kube
