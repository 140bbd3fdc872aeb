// Package firewall keeps Weaveguard's nftables table: what is masqueraded, what keeps pods' packets off the wire
// in the clear, and the size of TCP segments through tunnels. It owns the table weaveguard of family inet, and
// writes it only when it differs. It never touches another table, and never runs a program.
//
// All calls act on the network namespace of the calling thread.
package firewall
