package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
	"github.com/weaveguard/weaveguard/test/family"
)

// What a cluster is when Options don't say otherwise.
const (
	DefaultName     = "default" // of the command line's cluster
	DefaultPodCIDR  = "10.244.0.0/16"
	DefaultPodCIDR6 = "fd00:10:244::/48" // nodes have /64 of it
	DefaultMTU      = 1500
)

// What Options don't say. Documentation prefixes are of RFC 5737 and RFC 3849.
var (
	serviceCIDRs = [2]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	underlay     = [2]netip.Prefix{netip.MustParsePrefix("172.31.0.0/24"), netip.MustParsePrefix("fd00:172:31::/64")}
	outside      = [2]netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64")}
)

// References of the images that every node has from the start.
const (
	PauseImage = build.PauseReference
	ProbeImage = build.ProbeReference // command probe and busybox
)

// Options say what cluster Up makes. The zero value is a cluster without nodes.
type Options struct {
	// Name is unique in this work tree: lower case letters, digits and dashes. Empty for one
	// that nobody else has.
	Name string
	// Nodes to start with; they are called node-1, node-2, ...
	Nodes int
	// Family of nodes, pods and Services; the zero value is IPv4. With Dual the primary one is IPv4.
	Family family.Family
	// PodCIDR is the range that the controller manager gives nodes their podCIDR from, for a cluster of
	// one family; the default is DefaultPodCIDR, or DefaultPodCIDR6, or both.
	PodCIDR netip.Prefix
	// NoPodCIDR: nodes don't get a podCIDR.
	NoPodCIDR bool
	// MTU of the underlay in bytes; the default is DefaultMTU.
	MTU int
	// Detached: the cluster outlives this process.
	Detached bool
	// Log receives progress, a line each; nil for none.
	Log io.Writer
}

func (o Options) spec(tree build.Tree) (api.Spec, error) {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return api.Spec{}, fmt.Errorf("name the cluster: %w", err)
	}
	suffix := hex.EncodeToString(random)
	if o.Name == "" {
		o.Name = "test-" + suffix
	}
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`).MatchString(o.Name) {
		return api.Spec{}, fmt.Errorf("cluster name %q: use at most 31 lower case letters, digits and dashes", o.Name)
	}
	spec := api.Spec{
		ID:           o.Name + "-" + suffix,
		Name:         o.Name,
		Programs:     tree.Programs(),
		PodCIDRs:     o.Family.Of(netip.MustParsePrefix(DefaultPodCIDR), netip.MustParsePrefix(DefaultPodCIDR6)),
		ServiceCIDRs: o.Family.Of(serviceCIDRs[0], serviceCIDRs[1]),
		Underlay:     o.Family.Of(underlay[0], underlay[1]),
		Outside:      o.Family.Of(outside[0], outside[1]),
		MTU:          o.MTU,
		Detached:     o.Detached,
	}
	switch {
	case o.NoPodCIDR:
		spec.PodCIDRs = nil
	case !o.PodCIDR.IsValid():
	case o.Family == family.Dual || !o.Family.Has(o.PodCIDR.Addr()):
		return api.Spec{}, fmt.Errorf("pod CIDR %s: it can't be chosen for a cluster of family %s", o.PodCIDR, o.Family)
	default:
		spec.PodCIDRs = []netip.Prefix{o.PodCIDR}
	}
	if spec.MTU == 0 {
		spec.MTU = DefaultMTU
	}
	return spec, nil
}

// checkMachine finds out whether a cluster can run here at all.
func checkMachine(tree build.Tree) error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root, for namespaces and mounts")
	}
	// Directories that a node has of its own, and so doesn't see the machine's.
	for _, dir := range []string{"/etc/", "/opt/", "/run/", "/var/lib/", "/var/log/", "/var/run/"} {
		if strings.HasPrefix(tree.Root+"/", dir) {
			return fmt.Errorf("the work tree %s is below %s, which nodes have of their own: clone it elsewhere", tree.Root, dir)
		}
	}
	if strings.ContainsAny(tree.Root, ":, ") {
		return fmt.Errorf("the work tree's path %q has a colon, comma or space, which mounts can't take: clone it elsewhere", tree.Root)
	}
	var missing []string
	for _, program := range []string{
		"buildah", "busybox", "containerd", "ctr", "go", "iptables", "nsenter", "runc", "tcpdump",
	} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if _, err := os.Stat("/usr/lib/cni/loopback"); err != nil {
		missing = append(missing, "/usr/lib/cni/loopback")
	}
	if len(missing) > 0 {
		return fmt.Errorf("this machine lacks %s: run test/deps.sh", strings.Join(missing, ", "))
	}
	return nil
}
