// Package path finds out how large packets may be on the way to other nodes. It does so by probes alone, as of
// packetization layer path MTU discovery for datagrams (RFC 8899): a size that is answered passes, and one that isn't
// while a smaller one is doesn't. ICMP isn't needed, and not believed. It owns what is known of each path, and when
// which size is tried. It has no sockets, and never changes a route: it only ever says that a path carries less than
// its route promises.
package path
