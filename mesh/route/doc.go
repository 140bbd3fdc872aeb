// Package route makes the kernel's links, addresses, routes and settings match the plan, by diff. It owns bridges
// that carry Weaveguard's alias, the addresses and settings of the tunnel devices (by name and kind), and the
// routes of the main table with Weaveguard's protocol number. It never touches anything else, never makes again
// what it can adopt, and knows nothing of WireGuard's keys and peers.
//
// All calls act on the network namespace of the calling thread.
package route
