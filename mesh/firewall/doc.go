// Package firewall keeps Weaveguard's nftables tables, both named weaveguard. The one of family inet has what is
// masqueraded, what keeps pods' packets off the wire in the clear and pods off the ports of nodes, and the size of TCP
// segments through tunnels. The one of family bridge keeps pods from sending as somebody else. It writes a table only
// when it differs, never touches another, and never runs a program.
//
// All calls act on the network namespace of the calling thread.
package firewall
