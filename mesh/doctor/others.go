package doctor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// rivals are configurations of other CNIs that container runtimes take first. The agent says so while it runs.
func rivals(f Facts) ([]Finding, string) {
	if f.Host.Configs == nil {
		return nil, ""
	}
	var findings []Finding
	for _, name := range f.Host.Configs {
		path := filepath.Join(f.Host.ConfDir, name)
		if name < contract.ConflistName && !f.mentions(path) {
			findings = append(findings, Finding{
				Subject: path, Message: "the container runtime uses this configuration and not Weaveguard's " + contract.ConflistName + ", because it sorts first",
				Found: "the files in " + f.Host.ConfDir, Remedy: fmt.Sprintf("remove the other CNI, or move the file away: mv %s %s.disabled", path, path),
				rank: rankChange,
			})
		}
	}
	if f.mentions(f.Host.ConfDir, "sorts first") {
		return findings, ""
	}
	return findings, "no other network configuration in " + f.Host.ConfDir + " comes before Weaveguard's"
}

// plugin is another CNI by what it leaves on a host. Prefixes end with a star.
type plugin struct {
	name  string
	links []string
	files []string // base names
}

// plugins are those whose leftovers are known: what they call their interfaces and files.
var plugins = []plugin{
	{"Flannel", []string{"flannel.*", "flannel-v6.*", "cni0"}, []string{"10-flannel.conflist", "subnet.env"}},
	{"Calico", []string{"cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali"}, []string{"10-calico.conflist", "calico-kubeconfig"}},
	{"Cilium", []string{"cilium_*", "lxc*"}, []string{"05-cilium.conflist", "05-cilium.conf"}},
	{"Antrea", []string{"antrea-*"}, []string{"10-antrea.conflist"}},
	{"kube-router", []string{"kube-bridge", "kube-dummy-if"}, []string{"10-kuberouter.conflist"}},
}

// otherNetworks are leftovers of other CNIs, or these themselves.
func otherNetworks(f Facts) ([]Finding, string) {
	var findings []Finding
	if left := weaveNet(f.Host); left.any() {
		finding := Finding{
			Subject: "Weave Net", Message: "it has left on this host: " + left.String(), Found: "the host's interfaces, nftables chains and files",
			Remedy:  "once it runs here no more, and its pods are gone from this node, run `weaveguard-agent cleanup --weave-net` here; how to move is in docs/weave-net.md",
			Warning: left.bridge == "" && len(left.chains) == 0, rank: rankHost,
		}
		if left.bridge == "" && len(left.chains) > 0 {
			finding.Message += "; rules that come with such chains drop what goes to a bridge called weave, as Weaveguard's is"
		}
		if left.runs {
			finding.Message = "it runs on this host beside Weaveguard: " + left.String()
			finding.Remedy = endWeaveNet(f) + ", then remove what it leaves: `weaveguard-agent cleanup --weave-net`; how to move is in docs/weave-net.md"
			finding.Warning = false
		}
		findings = append(findings, finding)
	}
	for _, p := range plugins {
		var left []string
		for _, l := range f.Host.Links {
			if slices.ContainsFunc(p.links, func(pattern string) bool { return matches(pattern, l.Name) }) {
				left = append(left, "the interface "+l.Name)
			}
		}
		for _, file := range f.Host.Files {
			if slices.Contains(p.files, filepath.Base(file)) {
				left = append(left, file)
			}
		}
		if len(left) == 0 {
			continue
		}
		findings = append(findings, Finding{
			Subject: p.name, Warning: true, Message: "it runs on this host, or has left there: " + some(left), Found: "the host's interfaces and files",
			Remedy: "if pods are to be Weaveguard's, delete its DaemonSet and its file in " + cmp.Or(f.Host.ConfDir, "/etc/cni/net.d") +
				", and reboot the host; its interfaces by themselves do no harm",
		})
	}
	return findings, "there is nothing of another CNI"
}

// endWeaveNet is how Weave Net ends on this node, and on no other.
func endWeaveNet(f Facts) string {
	switch {
	case f.Agent == nil:
		return "drain this node and end it here: with Kubernetes " + contract.EndWeaveNet("NODE") + ", without it `weave stop`"
	case f.plain():
		return "end its containers on this host, and `weave stop`"
	}
	return "drain this node and end it here: " + contract.EndWeaveNet(f.Agent.Node)
}

func matches(pattern, name string) bool {
	if prefix, many := strings.CutSuffix(pattern, "*"); many {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// some names a few of many.
func some(all []string) string {
	const most = 6
	if more := len(all) - most; more > 0 {
		all = append(slices.Clone(all[:most]), fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

// weaveNetLeft is what Weave Net has on a host.
type weaveNetLeft struct {
	bridge string   // its own, which has the name that Weaveguard's has
	links  []string // others
	chains []string
	files  []string
	runs   bool // its daemon runs
}

func (l weaveNetLeft) any() bool {
	return l.bridge != "" || len(l.links)+len(l.chains)+len(l.files) > 0 || l.runs
}

func (l weaveNetLeft) String() string {
	var parts []string
	if l.bridge != "" {
		parts = append(parts, "its bridge "+l.bridge)
	}
	if len(l.links) > 0 {
		parts = append(parts, "the interfaces "+some(l.links))
	}
	if len(l.chains) > 0 {
		parts = append(parts, "the chains "+some(l.chains))
	}
	parts = append(parts, l.files...)
	return strings.Join(parts, ", ")
}

// weaveNet finds what is Weave Net's, by name and shape.
func weaveNet(h Host) weaveNetLeft {
	var left weaveNetLeft
	for _, l := range h.Links {
		switch {
		case contract.IsWeaveNetBridge(l):
			left.bridge = l.Name
		case contract.IsWeaveNetLink(l):
			left.links = append(left.links, l.Name)
		}
	}
	for _, c := range h.Chains {
		if contract.IsWeaveNetChain(c.Name) && !slices.Contains(left.chains, c.Name) {
			left.chains = append(left.chains, c.Name)
		}
	}
	for _, file := range h.Files {
		if slices.Contains(contract.WeaveNetFiles(), file) || contract.IsWeaveNetPlugin(filepath.Base(file)) {
			left.files = append(left.files, file)
		}
	}
	left.runs = slices.ContainsFunc(h.Sockets, func(s Socket) bool { return s.Program == "weaver" })
	return left
}
