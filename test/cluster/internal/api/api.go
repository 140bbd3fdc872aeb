// Package api holds the values that the supervisor of a test cluster and its clients exchange,
// and where they are found in the cluster's state directory. It never does anything.
package api

import (
	"net/netip"
	"path/filepath"
)

// Files in a cluster's state directory.
const (
	SpecFile       = "spec.json"      // Spec, written before the supervisor starts
	StateFile      = "state.json"     // State, rewritten at each change
	CgroupsFile    = "cgroups.json"   // directories of cgroups to remove, a JSON list
	LockFile       = "lock"           // its owner holds an exclusive flock as long as it lives
	SocketFile     = "control.sock"   // the supervisor's HTTP server
	SupervisorLog  = "supervisor.log" // what the supervisor did
	KubeconfigFile = "kubeconfig"     // cluster-admin, through a port on the machine's loopback
	LogDir         = "logs"           // HOST/SERVICE.log
	ImageDir       = "images"         // docker archives that every node has
	DiskDir        = "disks"          // HOST/...: what a host keeps over a restart
	PKIDir         = "pki"            // certificates and keys
	HostDir        = "hosts"          // HOST.json: what the host's first process does
)

// MaxSocketPath is the longest path of a unix socket in bytes, by unix(7).
const MaxSocketPath = 107

// Spec says what a cluster is.
type Spec struct {
	// ID is unique on the machine; it is in the names of what can't be in a namespace.
	ID string `json:"id"`
	// Name is unique among the clusters of a work tree.
	Name string `json:"name"`
	// Programs is the directory that holds etcd and the programs of Kubernetes.
	Programs string `json:"programs"`
	// PodCIDRs are the ranges that controller-manager gives nodes their podCIDRs from, one of each family
	// that the cluster has; empty for none. Here and below the first is of the primary family.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// ServiceCIDRs are the ranges of ClusterIPs. The first's first address is the Service "kubernetes".
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	// Underlay is the fabric's network: its first address is the fabric's (the default gateway), the second
	// the control plane's, the nodes start at the 11th.
	Underlay []netip.Prefix `json:"underlay"`
	// Outside is a network behind the fabric's router: the first address is the router's, the 10th that
	// of the host "outside".
	Outside []netip.Prefix `json:"outside"`
	// MTU of all links of the fabric, in bytes.
	MTU int `json:"mtu"`
	// Detached: the cluster doesn't end when its supervisor's standard input does.
	Detached bool `json:"detached"`
}

// Group is the name of the cgroup in each hierarchy that holds all processes of the cluster's hosts, each
// host's in a group of the host's name.
func (s Spec) Group() string { return "weaveguard-test-" + s.ID }

// Names of the hosts that aren't nodes.
const (
	Fabric       = "fabric"
	ControlPlane = "control-plane"
	Outside      = "outside"
)

// FabricBridge is the bridge in the fabric's namespaces that every host's eth0 hangs off.
const FabricBridge = "fabric"

// Host is one set of network, mount, PID, UTS, IPC and cgroup namespaces.
type Host struct {
	Name string `json:"name"`
	// PID of the host's first process as the machine sees it; 0 while the host is down.
	PID int `json:"pid"`
	// Addresses are one of each family that the cluster has.
	Addresses []netip.Addr `json:"addresses"`
	Node      bool         `json:"node"`
}

// State is what a running cluster consists of.
type State struct {
	Spec Spec `json:"spec"`
	// SupervisorPID as the machine sees it.
	SupervisorPID int `json:"supervisorPID"`
	// APIServer is where the API server is reached from the machine, "127.0.0.1:PORT".
	APIServer string `json:"apiServer"`
	Hosts     []Host `json:"hosts"`
}

// Host finds a host by name.
func (s State) Host(name string) (Host, bool) {
	for _, h := range s.Hosts {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

// Event is one line of the supervisor's answer to a request: progress, and at the end either
// Done or Error.
type Event struct {
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
	Done    bool   `json:"done,omitempty"`
	// Host that the request was about, in the last event.
	Host *Host `json:"host,omitempty"`
}

// HostSpec says what the first process of a host does. It is run in fresh namespaces.
type HostSpec struct {
	Name string `json:"name"`
	// Join are the directories of cgroups that become the roots of the host's cgroup namespace.
	Join []string `json:"join"`
	// JoinUnified are those of them that are of version 2, where a cgroup that passes
	// controllers on may hold no process.
	JoinUnified []string `json:"joinUnified"`
	// Leave is where the process that waits for the host goes once it has started it.
	Leave []string `json:"leave"`
	// Etc is a directory that keeps what the host changes in /etc.
	Etc string `json:"etc,omitempty"`
	// Binds are directories mounted over others, in order.
	Binds []Bind `json:"binds"`
	// Contents are files with a content of our own mounted over those of the machine.
	Contents map[string]string `json:"contents"`
	// Directories are made after all is mounted.
	Directories []string `json:"directories"`
	// Sysctls by path under /proc/sys. A name that the kernel lacks is passed over.
	Sysctls map[string]string `json:"sysctls"`
	// Services are started in order, and started again whenever they end.
	Services []Service `json:"services"`
}

// Bind mounts the directory Source over Target, which must exist.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Service is a program that a host runs.
type Service struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	// Log receives its standard output and error, appended.
	Log string `json:"log"`
	// OnCommand: it isn't started with the host but when the supervisor says so.
	OnCommand bool `json:"onCommand"`
}

// StartCommand and a service's name, as a line on its standard input, make a host's first process
// start a service that waits for it.
const StartCommand = "start "

// HostLog is where a host's service logs.
func HostLog(dir, host, service string) string {
	return filepath.Join(dir, LogDir, host, service+".log")
}
