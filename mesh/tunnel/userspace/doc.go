// Package userspace owns WireGuard in userspace, for kernels without it: a daemon that holds the tunnel devices
// (golang.zx2c4.com/wireguard over TUN), and the client by which the agent has it make and remove them. The devices
// live in the daemon so that they outlive the agent; they end with the daemon, and their sessions with them.
//
// The daemon only makes and removes devices. Their keys and peers come from tunnel.Applier, through the same
// sockets by which wg(8) shows them: /var/run/wireguard/NAME.sock, as specified at
// https://www.wireguard.com/xplatform/. It never sets links up, nor touches addresses and routes.
//
// The client and the daemon speak HTTP with JSON over a unix socket of mode 0600:
//
//	GET    /v1/version         → {"version": "v1.2.3"}
//	GET    /v1/devices         → {"devices": ["weave-wg0"]}
//	PUT    /v1/devices/{name}    {"mtu": 1420}, in bytes; a device that is there already is no error
//	DELETE /v1/devices/{name}    a device that isn't there is no error
//
// Anything else but success has the body {"error": "…"}.
//
// Idle, the daemon takes 8 MB and no CPU, with four devices 13 MB. Under load WireGuard's buffers grow to some
// hundred megabytes, unless Go's memory limit (GOMEMLIMIT) makes it use them again: with 128 MiB it stays below that.
package userspace
