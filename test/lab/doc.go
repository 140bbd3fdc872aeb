// Package lab makes pretend machines ("hosts") out of Linux namespaces on one
// real machine, for tests.
//
// A Lab is a fabric and hosts. The fabric is a network namespace with a bridge
// in it and no way out. Each host has network, mount, UTS and PID namespaces
// of its own and one port, eth0, on the fabric. A host sees the machine's files,
// but has its own /run, /etc, /opt and /var/lib (changes stay in the host),
// empty /etc/cni, /opt/cni and /var/lib/weaveguard, and its own /proc and /sys.
// /tmp is the machine's.
//
// Everything lives no longer than the process that opened the lab: every
// namespace is held by an init process that ends when its standard input does,
// and the kernel ends all else with its PID namespace's init. No mount and no
// device is made outside the lab's namespaces. What a killed owner leaves is a
// directory of logs, which the next Open removes.
//
// The package owns processes, namespaces and the underlay. It never configures
// what is under test: no tunnels, no pod networks, no default routes. It needs
// root, and the programs ip, nft (for Block) and tcpdump (for capture filters);
// it needs no cgroups and writes only to the temporary directory.
//
// A test package that uses the lab must have
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m, nil)) }
//
// because the init processes are the test binary itself, started again.
package lab
