package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// fought is how often the same has to be put right for another program to be what changes it, and fightLasts for how long
	// after the last time that goes on to be a finding.
	fought     = 3
	fightLasts = time.Minute
)

func agentRuns(f Facts) ([]Finding, string) {
	if f.Agent == nil {
		return []Finding{{
			Subject: "agent", Message: f.NoAgent.Message, Found: "its socket was asked", Remedy: f.NoAgent.Remedy, rank: rankAgent,
		}}, ""
	}
	return nil, fmt.Sprintf("the agent of node %s runs, version %s", f.Agent.Node, f.Agent.Version)
}

// status passes on what the agent says of itself.
func status(f Facts) ([]Finding, string) {
	if f.Agent == nil {
		return nil, ""
	}
	var findings []Finding
	for _, p := range f.Agent.Problems {
		finding := Finding{
			Subject: p.Subject, Message: p.Message, Found: "the agent says so", Remedy: p.Remedy, Warning: p.Warning, rank: rankStatus,
		}
		if p.Remedy == "" {
			finding.Remedy = "the message says what is missing; the agent tries again by itself, and its log has more"
		}
		findings = append(findings, finding)
	}
	if !f.Agent.Ready && len(f.Agent.Problems) == 0 {
		findings = append(findings, Finding{
			Subject: "node " + f.Agent.Node, Message: "it can't carry pod traffic yet", Found: "the agent says so, and no reason",
			Remedy: "wait a few seconds; if it stays so, see the agent's log: " + view.LogCommand(f.Agent.Kubernetes), rank: rankStatus,
		})
	}
	return findings, "the agent has no problem, and can carry pod traffic"
}

// changes are what another program undoes again and again.
func changes(f Facts) ([]Finding, string) {
	if f.Agent == nil {
		return nil, ""
	}
	var findings []Finding
	for _, r := range f.Agent.Repairs {
		if r.Times < fought || f.Agent.Time.Sub(r.Last) > fightLasts {
			continue
		}
		subject, remedy := culprit(r.What)
		findings = append(findings, Finding{
			Subject: subject,
			Message: "some other program keeps changing it: the agent has put it right " + count(int(r.Times), "time") + " in " +
				span(r.Last.Sub(r.First)),
			Found:  fmt.Sprintf("the agent's repairs: %s, %s ago the last time", r.What, span(f.Agent.Time.Sub(r.Last))),
			Remedy: remedy, rank: rankChange,
		})
	}
	return findings, "nobody keeps changing what the agent made"
}

// culprit names what a repair was of, and what often changes that.
func culprit(what string) (subject, remedy string) {
	if setting, ok := strings.CutPrefix(what, "setting "); ok && strings.Contains(setting, "/") {
		key, _, _ := strings.Cut(setting, " to ")
		name := key[strings.LastIndex(key, "/")+1:]
		return settingSubject(key), "find what writes it, and have it leave this setting alone: look for it with `grep -rs " + name +
			" /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d`, and at tuned, scripts that harden hosts, and other network plugins"
	}
	remedy = "find what does that, and have it leave alone what isn't its own: "
	switch {
	case strings.Contains(what, "peer"):
		remedy += "wg-quick, `wg set` or `wg syncconf` in a script, NetworkManager, systemd-networkd"
	case strings.Contains(what, "route"):
		remedy += "systemd-networkd (ManageForeignRoutes=no), NetworkManager, a routing daemon"
	default:
		remedy += "NetworkManager, systemd-networkd, a firewall's service that loads its rules anew, another network plugin"
	}
	return "what the agent made (" + what + ")", remedy
}

func settingSubject(key string) string { return "kernel setting " + key }

func peers(f Facts) ([]Finding, string) {
	if f.Agent == nil {
		return nil, ""
	}
	const most = 10
	var findings []Finding
	down := 0
	for _, peer := range f.Agent.Peers {
		if peer.Up || peer.Reason != "" && f.mentions(peer.Reason) { // which has its remedy
			continue
		}
		if down++; down <= most {
			findings = append(findings, downPeer(f, peer))
		}
	}
	if down > most {
		findings = append(findings, Finding{
			Subject: "more peers", Message: fmt.Sprintf("%d more are down", down-most), Found: "the agent says so",
			Remedy: "see `weaveguard peers`", rank: rankPeer,
		})
	}
	switch n := len(f.Agent.Peers); n {
	case 0:
		return findings, ""
	default:
		return findings, fmt.Sprintf("the tunnels to all %s are up", count(n, "peer"))
	}
}

// downPeer says why a peer is down, by what of it is heard.
func downPeer(f Facts, peer view.PeerStatus) Finding {
	finding := Finding{Subject: "peer " + peer.Node, Message: peer.Reason, Found: "the agent says so", rank: rankPeer}
	if peer.Reason == "" {
		finding.Message = "it is down, and the agent gives no reason"
	}
	echo := f.Echoes[peer.Node]
	switch {
	case f.early(peer):
		finding.Message = "its tunnel has no handshake yet, and this agent has only just started"
		finding.Remedy = "run `weaveguard doctor` again in some seconds"
	case peer.Gossip && peer.Endpoint != "" && peer.Device != "":
		finding.Message = "no WireGuard packet gets through to it: a firewall blocks a UDP port between " + peer.Endpoint +
			" and this node, or WireGuard doesn't run there"
		if peer.HandshakeAge < 0 && peer.ReceivedBytes > 0 {
			finding.Message = "packets of its WireGuard arrive here, and no answer gets back: a firewall blocks a UDP port from this node to " +
				peer.Endpoint
		}
		finding.Found = "gossip reaches its agent, and the tunnel has no handshake: " + peer.Reason
		finding.Remedy = "let UDP ports 51820 to 51823 through between all nodes, in both directions: in the hosts' firewalls, and in the " +
			"network's (security groups); if it stays so, run `weaveguard doctor` on " + peer.Node + " too"
	case peer.Gossip:
		finding.Remedy = "run `weaveguard doctor` on " + peer.Node + " too"
	case echo == Yes:
		finding.Message = "nothing is heard of its agent, though its host answers: it doesn't run, or TCP and UDP port 6783 are blocked"
		finding.Found = "its host answers ICMP echo requests; gossip doesn't see it, and the agent says: " + peer.Reason
		finding.Remedy = "see that its agent runs (`weaveguard doctor` there), and let TCP and UDP port 6783, and UDP 51820 to 51823, through " +
			"between all nodes"
	case echo == No:
		finding.Message = "neither its agent nor its host answers: the host is down, or the network between is"
		finding.Found = "its host answers no ICMP echo request, and gossip doesn't see it; the agent says: " + peer.Reason
		finding.Remedy = "see that the host is up and reachable from here; if it only refuses ICMP, see that its agent runs, and that " +
			"TCP and UDP port 6783 are open between all nodes"
	default:
		finding.Remedy = "see that its host is up, that its agent runs, and that TCP and UDP port 6783, and UDP 51820 to 51823, are open " +
			"between all nodes; if the node is gone for good, " + f.letGo(peer.Node)
	}
	return finding
}

// settling is how long after an agent's start a link without a handshake says nothing: as long as setting it up takes.
const settling = 10 * time.Second

// early reports whether it is too early to say that a peer isn't reached.
func (f Facts) early(peer view.PeerStatus) bool {
	return peer.Gossip && peer.HandshakeAge < 0 && f.Agent.Time.Sub(f.Agent.Started) < settling
}

// letGo is how to have a node forgotten.
func (f Facts) letGo(node string) string {
	if f.plain() {
		return "run `weaveguard forget " + node + "` on each host"
	}
	return "delete its Node object"
}

// paths are those that carry less than they seem to.
func paths(f Facts) ([]Finding, string) {
	if f.Agent == nil || len(f.Agent.Peers) == 0 {
		return nil, ""
	}
	var narrow []string
	least := 0
	for _, peer := range f.Agent.Peers {
		if peer.PathMTU > 0 {
			narrow = append(narrow, fmt.Sprintf("%d bytes to %s", peer.PathMTU, peer.Node))
			if least == 0 || peer.PathMTU < least {
				least = peer.PathMTU
			}
		}
	}
	const most = 5
	if more := len(narrow) - most; more > 0 {
		narrow = append(narrow[:most], fmt.Sprintf("less than it seems to %d more", more))
	}
	if len(narrow) == 0 {
		return nil, "the ways to peers carry packets as large as they seem to"
	}
	return []Finding{{
		Subject: "MTU", Warning: true,
		Message: "the network between nodes carries smaller packets than this host's interfaces say: " + strings.Join(narrow, ", "),
		Found:   "the agents' probes",
		Remedy: fmt.Sprintf("tunnels follow by themselves, and need nothing; other traffic between the hosts may hang: raise the MTU of what "+
			"is on the way, or lower that of the hosts' interfaces to %d", least),
	}}, ""
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// span is a time in whole seconds.
func span(d time.Duration) string { return max(0, d).Round(time.Second).String() }
