// Package plan decides everything: Make turns what is known into what the kernel of this node should hold and what
// the node should announce. It is pure: no I/O, no clock, no netlink types, and equal inputs give equal plans.
package plan
