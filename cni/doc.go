// Package cni owns the verbs of the CNI spec, versions 0.3.1 to 1.1.0: ADD, DEL, CHECK, STATUS, GC and VERSION. It
// reads the network configuration, and makes store, ipam and bridge act together: an attachment exists wholly or not
// at all. It never needs the agent to be running, and never changes tunnels, remote routes or the firewall, except that
// it says there what a sandbox may send from (package guard).
//
// Errors have the CNI spec's codes:
//
//	1   the configuration's cniVersion isn't supported
//	2   a key of the configuration isn't supported
//	4   an environment variable is missing or invalid
//	5   the store can't be read or written
//	6   the configuration, or the ready file, isn't what it should be as JSON
//	7   a value of the configuration is invalid
//	8   CNI_NETNS isn't a network namespace of a sandbox
//	11  the node isn't ready yet, try again
//	50  STATUS: the node isn't ready
//
// and codes of our own:
//
//	100 the bridge's name is taken by an interface that isn't Weaveguard's
//	101 CHECK: something isn't as ADD made it
//	102 no address is free
//	103 the sandbox has this interface already
//	104 the kernel refused a change
//	105 the address that the runtime asks for is taken
package cni
