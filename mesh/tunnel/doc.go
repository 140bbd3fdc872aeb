// Package tunnel owns the WireGuard devices of this node: it makes them be as desired, by diff, and shows what they
// hold. It never replaces a device's peers as long as its key stays, nor the allowed IPs of a live peer, never writes an endpoint only because
// the peer roamed, never touches a device whose name isn't that of a tunnel device, and never prints a private key.
//
// Links, addresses, routes and MTUs are not its business: a Maker makes the interfaces, in the kernel or by the
// userspace daemon, and from then on both kinds are configured alike (wg(8), and the cross-platform interface of
// https://www.wireguard.com/xplatform/).
package tunnel
