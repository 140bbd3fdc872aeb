// Package contract owns what Weaveguard and the programs around it rely on of each other: names, numbers and the release, the
// addresses and MACs that follow from a subnet, the settings that a bridge of ours needs, and how to tell it from others',
// Weave Net's above all. It holds nothing that runs, and needs no other package of ours, so that the CNI plugin, which is started
// for every pod, stays small.
package contract
