// Package kube owns all that the agent reads from the Kubernetes API and writes to it: it watches Nodes and
// NetworkPolicies, reads the gossip keyring and kubeadm's pod subnet, and writes the annotations and the
// NetworkUnavailable condition of its own Node, and Events.
//
// It never decides what the data plane should be, never writes to another node's Node, never removes anything, and
// changes no annotation outside weaveguard.io/. When the API server is away it goes on with what it saw last, says so
// in its Snapshot, and tries again without flooding.
package kube
