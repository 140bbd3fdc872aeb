// Package cluster runs a real Kubernetes on one machine, for tests and for the command wgcluster.
// It brings a cluster up without a pod network: installing one is the caller's business.
//
// A cluster is a set of hosts, each in network, mount, PID, UTS, IPC and cgroup namespaces of its
// own:
//
//		                     fabric: bridge and router
//		   172.31.0.1 ┌───────────┬──────┴────┬─────────────┐ 198.51.100.1
//		        control-plane   node-1      node-2 ...    outside
//		         172.31.0.2   172.31.0.11  172.31.0.12   198.51.100.10
//
//	  - fabric is the underlay: a bridge that every cable hangs off, where Capture listens, and a
//	    router to the network of the host outside. It knows no route to pods.
//	  - control-plane runs etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
//	  - a node runs containerd, the kubelet and kube-proxy (iptables mode). It has its own /etc
//	    (an overlay), /opt, /var/lib, /var/log and /run, so each node is its own world for hostPath
//	    volumes; the rest of the file system, /tmp too, is the machine's. Its net.bridge.bridge-nf-call-*
//	    settings start at 1, and /opt/cni/bin holds the reference plugins of the distribution.
//	  - outside isn't part of the cluster, and has no route to pods.
//
// No packet of a cluster leaves its namespaces, so clusters side by side may have equal addresses.
// The machine reaches the API server through a port on 127.0.0.1 that a proxy listens on.
//
// One process, the supervisor, owns all of it: the first process of each host dies with it by its
// parent-death signal, and the kernel ends every process of a PID namespace with its first. With
// them go namespaces, mounts and devices, none of which has a name in the file system. The
// supervisor itself ends when the test process does, which it learns from a pipe, or, if it is
// detached, when it is told to. What is left after a SIGKILL of the supervisor are a directory below
// build/cluster and cgroups; the next Up, Remove or Sweep finds the directory unlocked and
// removes both.
//
// The programs of Kubernetes are built from source at the first use, which takes several minutes,
// and kept in build/kubernetes. Debian's or Ubuntu's containerd, runc, buildah, iptables, nsenter
// and tcpdump are needed; test/deps.sh installs them.
package cluster
