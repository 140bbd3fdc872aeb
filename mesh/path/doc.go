// Package path finds out by probes what the ways to other nodes are like: how large packets may be, how long they take, and how
// many are lost. Sizes are found by probes alone, as of packetization layer path MTU discovery for datagrams (RFC 8899): a size
// that is answered passes, and one that isn't while a smaller one is doesn't. ICMP isn't needed, and not believed. The package
// owns what is known of each way, and when it is probed. It has no sockets, and never changes a route: it only ever says that a
// path carries less than its route promises.
package path
