// Package gossip owns what this node says to and hears from the others over memberlist: it spreads the node's
// signed record, collects the records of the others, and carries small messages from one agent to another. It
// never verifies a record, never reads a message and never decides whom to believe: all that it hears is a
// candidate, for others to check. It holds the gossip keys, and never logs or returns them.
//
// Every start takes a new member name, NODE/RANDOM: under the node's name alone, a node that comes back at
// another address waits until the others have given up the old one.
//
// memberlist sends its metrics to go-metrics' global sink, which discards them as long as nobody sets another.
package gossip
