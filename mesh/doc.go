// Package mesh is the agent's loop. It owns the state: which records count, the plan that follows, and the order
// in which the appliers make it so. Sources set a latch; the loop takes a fresh view, plans the whole desired
// state, and applies it by diff, so running it twice changes nothing the second time. It declares the small
// interfaces that it needs, and never speaks to the kernel, the network or the Kubernetes API by itself.
package mesh
