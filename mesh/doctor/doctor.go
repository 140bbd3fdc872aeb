// Package doctor says what is wrong with a node, how that was found, and what to do about it. It owns the judgement alone, as
// a pure function of facts: package mesh/inspect finds them out. It changes nothing, and reads nothing.
package doctor

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Answer is what is known of a question with yes and no for answers.
type Answer int

// The answers.
const (
	Unknown Answer = iota
	Yes
	No
)

// Facts are what was found out about a node.
type Facts struct {
	// Agent is what the agent says; nil: it couldn't be asked, and NoAgent says why.
	Agent   *view.Status
	NoAgent Silence
	Host    Host
	// Echoes are whether the hosts of peers that are down answer ICMP echo requests, by node. Others aren't in it.
	Echoes map[string]Answer
}

// Silence is why an agent couldn't be asked, and what to do about that.
type Silence struct{ Message, Remedy string }

// Host is what the host itself shows.
type Host struct {
	Pod    bool     // it was looked at from the agent's pod, which sees less than the host
	Unseen []string // what couldn't be looked at, and why
	Kernel string   // release, as uname(2) has it
	// WireGuard and TUN: the kernel has WireGuard, and there is a /dev/net/tun. Rules: the kernel has nf_tables; BridgeRules: also
	// for bridges.
	WireGuard, TUN     Answer
	Rules, BridgeRules Answer
	Sockets            []Socket
	Links              []contract.HostLink
	Addresses          []view.HostAddress
	Routes             []view.HostRoute  // of the main table; Weaveguard's own aren't among them
	Settings           map[string]string // kernel settings, by their keys with slashes
	Chains             []Chain           // nftables chains of others that may drop what is forwarded, or look like another CNI's
	// LegacyTables: there are tables of the kernel's older iptables, which aren't read.
	LegacyTables bool
	Files        []string // those of other CNIs, by path
	ConfDir      string   // where the container runtime looks for network configurations
	Configs      []string // the names of the configurations there, sorted
}

// Socket holds a port of Weaveguard's.
type Socket struct {
	Protocol string // udp or tcp
	Port     uint16
	// Program holds it, as its process is called; "": that can't be seen. Device: a WireGuard device does, which is none of
	// Weaveguard's.
	Program, Device string
	PID             int
	Own             bool // Weaveguard holds it
}

// Chain is a chain of an nftables table of others.
type Chain struct {
	Family, Table, Name string
	// Forwards: what the host forwards passes it; Drops: what no rule of it accepts is dropped.
	Forwards, Drops bool
}

// Finding is something that is wrong.
type Finding struct {
	Subject string `json:"subject"`
	Message string `json:"message"`          // what is wrong
	Found   string `json:"found"`            // how that was found
	Remedy  string `json:"remedy,omitempty"` // what to do
	// Warning: nothing is broken by it now, or it can't be told whether something is.
	Warning bool `json:"warning,omitempty"`

	rank rank
}

// rank orders findings: causes come before what follows from them.
type rank int

const (
	rankAgent  rank = iota // nobody looks after the node
	rankHost               // the host lacks what Weaveguard can't do without
	rankStatus             // what the agent says is wrong
	rankChange             // something on the host is as it shouldn't be
	rankPeer               // another node isn't reached
	rankWarning
)

// Report is what a doctor says. Its JSON form is a contract.
type Report struct {
	Node     string    `json:"node,omitempty"` // as the agent calls it
	Findings []Finding `json:"findings"`       // the worst first
	Fine     []string  `json:"fine"`           // what was checked and is as it should be
	Unseen   []string  `json:"unseen"`         // what couldn't be looked at, and why
}

// check is one thing that is looked at: what is wrong with it, or in a few words that it is fine, or neither if it isn't known.
type check func(f Facts) (findings []Finding, fine string)

// Examine says what is wrong with a node.
func Examine(f Facts) Report {
	r := Report{Findings: []Finding{}, Fine: []string{}, Unseen: slices.Clone(f.Host.Unseen)}
	if r.Unseen == nil {
		r.Unseen = []string{}
	}
	if slices.Contains(slices.Collect(maps.Values(f.Echoes)), Unknown) {
		r.Unseen = append(r.Unseen, "whether the hosts of peers that are down answer ICMP echo requests: asking takes CAP_NET_RAW")
	}
	if f.Agent != nil {
		r.Node = f.Agent.Node
	}
	for _, c := range []check{
		agentRuns, wireGuard, rules, ports, status, changes, settings, bridge, dropped, peers, paths, overlaps, rivals, otherNetworks,
	} {
		findings, fine := c(f)
		for _, finding := range findings {
			if !r.has(finding) {
				r.Findings = append(r.Findings, finding)
			}
		}
		if len(findings) == 0 && fine != "" {
			r.Fine = append(r.Fine, fine)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.place(), b.place()) })
	return r
}

func (f Finding) place() rank {
	if f.Warning {
		return rankWarning
	}
	return f.rank
}

// Wrong reports whether something is broken: warnings alone aren't that.
func (r Report) Wrong() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Warning })
}

// has reports whether there is a finding of this kernel setting already, or the same one.
func (r Report) has(f Finding) bool {
	return slices.ContainsFunc(r.Findings, func(other Finding) bool {
		return other.Subject == f.Subject && (other.Message == f.Message || strings.HasPrefix(f.Subject, settingSubject("")))
	})
}

// plain reports whether the agent says that this is no node of Kubernetes.
func (f Facts) plain() bool { return f.Agent != nil && f.Agent.Kubernetes == view.KubernetesAbsent }

// mentions reports whether the agent names all these words in one of its problems.
func (f Facts) mentions(words ...string) bool {
	return f.Agent != nil && slices.ContainsFunc(f.Agent.Problems, func(p view.Problem) bool {
		text := p.String()
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
	})
}
