// Package netconf owns the configuration of the networks beside the default one on this node: a directory with a file for
// each, which it follows as it changes. It says which networks they make, and what is wrong with the files. It never
// writes there, and never decides what other nodes have to say about a network.
package netconf
