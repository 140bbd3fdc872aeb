// Package attach owns the agent's side of attaching pods: the plugins in the runtime's directory, the ready file
// that the plugin waits for, and the network configuration (the conflist) by which the container runtime finds the
// plugin. It also reads what is attached here. It never attaches or detaches a pod itself (that is package cni),
// and never changes another CNI's files.
//
// The order is the point: a runtime must not find a conflist before the plugin that it names, and no pod may be
// attached before the node's routes and rules stand.
package attach
