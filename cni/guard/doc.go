// Package guard owns what plugin and agent agree on of the nftables table that keeps pods from sending as somebody
// else: its name, its sets, and what a pod's elements in them are. The agent makes the table, its rules and, from the
// store, all elements; the plugin adds the elements of a pod that it attaches, and takes them away when it detaches it.
// The package never decides what is dropped.
//
// All calls act on the network namespace of the calling thread.
package guard
