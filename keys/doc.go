// Package keys owns a node's secrets: its identity, the generations of its WireGuard keys, and the store that
// keeps both on disk across restarts and reboots. It never logs, prints or marshals a secret, and it never
// replaces a key file that it can't read.
package keys
