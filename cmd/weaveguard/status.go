package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func newStatusCommand(o *options) *cobra.Command {
	var output format
	var check bool
	cmd := &cobra.Command{
		Use:         "status",
		Annotations: inPlace(placeAnyNode),
		Short:       "Show this node, its tunnel devices and its peers",
		Long: "status shows whether this node is healthy and what to do if it isn't, its keys\n" +
			"and addresses, its tunnel devices, and each other node as seen from here:\n" +
			"whether the link is up, and if not, why; of more than ten it lists those that\n" +
			"aren't up, and counts the others. RX and TX are the bytes that came and\n" +
			"went through the tunnel. MTU is what fits through it; where the network between\n" +
			"the nodes carries less than it seems to, a line says how much. While the node\n" +
			"changes its key, status shows how far that is, and which peers still need the\n" +
			"old one.\n\n" +
			"A node is healthy when it can carry pod traffic and all its peers are up.\n\n" +
			"Exit status: 0 when the agent answered, whatever it said; with --check 1 when\n" +
			"the node isn't healthy; 2 when the agent couldn't be asked.",
		Example: "  weaveguard status\n" +
			"  weaveguard status -o json | jq '.peers[] | select(.up | not) | .node'\n" +
			"  weaveguard status --check > /dev/null || echo look at this node",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := o.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			err = answer(cmd, output, status, func(p *page) { p.status(status) })
			if err == nil && check && !judge(status).healthy {
				err = errNo
			}
			return err
		},
	}
	addFormatFlag(cmd, &output)
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 when the node isn't healthy")
	return cmd
}

func (p *page) status(s view.Status) {
	verdict := judge(s)
	p.verdict(verdict)
	p.remedy("", verdict.remedy)
	p.space()
	p.facts(nodeFacts(s))
	if len(s.Devices) > 0 {
		p.space()
		p.devices(s.Devices)
	}
	if shown := fewPeers(s.Peers); len(shown) > 0 {
		p.space()
		p.peers(shown)
		p.peerNetworks(shown)
	}
	p.otherPeers(s.Peers)
	if waiting := s.Rotation.Waiting; len(waiting) > 0 {
		p.space()
		p.waiting("", waiting[:min(len(waiting), mostPeers)])
		if more := len(waiting) - mostPeers; more > 0 {
			p.text("", fmt.Sprintf("%d more still need the old key: see `weaveguard peers`", more))
		}
	}
	problems, warnings := sortProblems(s.Problems)
	p.problems("problem", red, problems)
	p.problems("warning", yellow, warnings)
}

func nodeFacts(s view.Status) [][2]string {
	identity := s.Identity.String()
	if s.Identity.IsZero() {
		identity = ""
	}
	gossip := count(s.Gossip.Members, "node") + " alive"
	if s.Gossip.Address != "" {
		gossip += ", this one at " + s.Gossip.Address
	}
	facts := [][2]string{
		{"node", fmt.Sprintf("%s, weaveguard %s, agent up %s", s.Node, s.Version, age(s.Time.Sub(s.Started)))},
		{"identity", orNone(identity)},
		{"wireguard", orNone(s.WireGuard)},
	}
	for _, generation := range s.Generations {
		facts = append(facts, [2]string{fmt.Sprintf("key %d", generation.Number), generation.PublicKey.String()})
	}
	if s.Rotation.Phase != "" { // an agent that can't rotate yet says nothing of it
		facts = append(facts, [2]string{"rotation", rotationFact(s)})
	}
	ranges := orNone(joined(s.PodRanges))
	if s.PodRangeSource != "" {
		ranges += " (" + s.PodRangeSource + ")"
	}
	facts = append(facts,
		[2]string{"endpoints", orNone(joined(s.Endpoints))},
		[2]string{"pod CIDRs", orNone(joined(s.PodCIDRs))},
		[2]string{"pod ranges", ranges},
	)
	for _, n := range s.Networks {
		facts = append(facts, [2]string{"network " + n.Name, networkFact(n)})
	}
	facts = append(facts,
		[2]string{"attached", count(s.Attachments, "pod interface") + addressesFact(s.Addresses)},
		[2]string{"gossip", gossip},
	)
	if len(s.Gossip.Keys) > 0 { // an agent that starts, or an old one, doesn't say
		facts = append(facts, [2]string{"gossip keys", gossipKeys(s.Gossip.Keys)})
	}
	if paths := narrowPaths(s.Peers); paths != "" {
		facts = append(facts, [2]string{"paths", paths})
	}
	if repairs := repairsFact(s); repairs != "" {
		facts = append(facts, [2]string{"put right", repairs})
	}
	return append(facts, [2]string{"kubernetes", orNone(s.Kubernetes)})
}

// addressesFact is how many addresses are in use of those that pods can have here. Of IPv6 it says nothing: there are enough.
func addressesFact(all []view.AddressStatus) string {
	var parts []string
	for _, a := range all {
		if a.CIDR.Addr().Is4() {
			parts = append(parts, fmt.Sprintf("%d of %d addresses of %s are used", a.Used, a.Used+a.Free, a.CIDR))
		}
	}
	const most = 3
	if more := len(parts) - most; more > 0 {
		parts = append(parts[:most], fmt.Sprintf("%d more networks", more))
	}
	if len(parts) == 0 {
		return ""
	}
	return "; " + strings.Join(parts, ", ")
}

// repairsFact is what somebody else changed of late, and was put right, the latest first.
func repairsFact(s view.Status) string {
	const most = 3
	var parts []string
	for _, r := range s.Repairs[:min(len(s.Repairs), most)] {
		parts = append(parts, fmt.Sprintf("%s (%s, %s ago)", r.What, count(int(r.Times), "time"), age(s.Time.Sub(r.Last))))
	}
	if more := len(s.Repairs) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}

// narrowPaths names the nodes to which the network carries smaller packets than it seems to.
func narrowPaths(peers []view.PeerStatus) string {
	const most = 5
	var narrow []string
	for _, peer := range peers {
		if peer.PathMTU > 0 {
			narrow = append(narrow, fmt.Sprintf("%d bytes to %s", peer.PathMTU, peer.Node))
		}
	}
	if len(narrow) > most {
		narrow = append(narrow[:most], fmt.Sprintf("less than it seems to %d more", len(narrow)-most))
	}
	if len(narrow) == 0 {
		return ""
	}
	return "the network carries only " + strings.Join(narrow, ", ")
}

// gossipKeys names the keys that this node's gossip has now.
func gossipKeys(fingerprints []string) string {
	return fingerprints[0] + " (encrypts)" + strings.Join(append([]string{""}, fingerprints[1:]...), ", ")
}

// rotationFact is how far the change of this node's key is.
func rotationFact(s view.Status) string {
	r := s.Rotation
	fact := r.Phase
	if r.Phase == string(keys.Idle) && !r.RotatedAt.IsZero() {
		fact += ", newest key made " + age(s.Time.Sub(r.RotatedAt)) + " ago"
	}
	if r.Reason != "" {
		fact += ": " + r.Reason
	}
	if r.Queued {
		fact += "; another one is queued"
	}
	return fact
}

func (p *page) devices(devices []view.DeviceStatus) {
	var rows [][]string
	for _, d := range devices {
		rows = append(rows, []string{d.Name, d.Kind, strconv.FormatUint(uint64(d.Generation), 10),
			strconv.Itoa(int(d.ListenPort)), strconv.Itoa(d.MTU), strconv.Itoa(d.Peers)})
	}
	p.table([]string{"DEVICE", "KIND", "KEY", "PORT", "MTU", "PEERS"}, rows)
}

// mostPeers is how many peers fit a screen.
const mostPeers = 10

// fewPeers are the peers that status shows one by one: all if they are few, or else those that aren't up, as many as fit.
func fewPeers(peers []view.PeerStatus) []view.PeerStatus {
	if len(peers) <= mostPeers {
		return peers
	}
	down := downPeers(peers)
	return down[:min(len(down), mostPeers)]
}

// otherPeers counts the peers that aren't among fewPeers.
func (p *page) otherPeers(peers []view.PeerStatus) {
	if len(peers) <= mostPeers {
		return
	}
	p.space()
	down := len(downPeers(peers))
	others, up := "", len(peers)-down
	if down > 0 {
		others = "others "
	}
	if more := down - mostPeers; more > 0 {
		p.text("", fmt.Sprintf("%d more are down, and %d are up: `weaveguard peers` lists all", more, up))
		return
	}
	p.text("", fmt.Sprintf("%d %sare up: `weaveguard peers` lists them", up, others))
}

func (p *page) peers(peers []view.PeerStatus) {
	var rows [][]string
	for _, peer := range peers {
		rows = append(rows, []string{peer.Node, upOrDown(peer.Up), orDash(peer.Endpoint), orDash(peer.Device),
			handshake(peer.LastHandshake, peer.HandshakeAge), size(peer.ReceivedBytes), size(peer.SentBytes), numberOrDash(peer.MTU)})
	}
	p.table([]string{"PEER", "STATE", "ENDPOINT", "DEVICE", "HANDSHAKE", "RX", "TX", "MTU"}, rows)
	p.downPeers(peers)
}

// downPeers tells why peers aren't up, if any.
func (p *page) downPeers(peers []view.PeerStatus) {
	down := downPeers(peers)
	if len(down) > 0 {
		p.space()
	}
	for _, peer := range down {
		p.text("", peer.Node+" isn't up: "+reason(peer))
	}
}

// peerNetworks tells which networks beside the default one other nodes have, and whose may be others than those.
func (p *page) peerNetworks(peers []view.PeerStatus) {
	spaced := false
	tell := func(text string) {
		if !spaced {
			p.space()
		}
		spaced = true
		p.text("", text)
	}
	for _, peer := range peers {
		var parts []string
		for _, n := range peer.Networks {
			parts = append(parts, n.Name+" "+joined(n.CIDRs))
		}
		if len(parts) > 0 {
			tell(peer.Node + " has the networks " + strings.Join(parts, "; "))
		}
		if peer.Document != "" {
			tell(peer.Node + "'s document, which has its networks: " + peer.Document)
		}
	}
}

// networkFact is a network of this node.
func networkFact(n view.Network) string {
	fact := joined(n.CIDRs) + " of " + joined(n.Ranges) + ", bridge " + n.Bridge
	if len(n.Reaches) > 0 {
		fact += ", reaches " + strings.Join(n.Reaches, ", ")
	}
	return fact
}

// waiting tells which peers hold a rotation up, and why.
func (p *page) waiting(indent string, peers []view.RotationPeer) {
	for _, peer := range peers {
		ports := ""
		if peer.Port != 0 { // 0: there is no new link to it
			ports = fmt.Sprintf(" (UDP port %d there, %d here)", peer.Port, peer.OwnPort)
		}
		p.text(indent, peer.Node+" still needs the old key"+ports+": "+cmp.Or(peer.Reason, noReason))
	}
}

func (p *page) problems(what string, c colour, problems []view.Problem) {
	if len(problems) == 0 {
		return
	}
	p.space()
	p.flow("", "", []string{p.paint(c, count(len(problems), what)+":")})
	for _, problem := range problems {
		p.text(indentStep, problem.Subject+": "+problem.Message)
		p.remedy(indentStep+indentStep, problem.Remedy)
	}
}

// joined is a list in words.
func joined[T netip.Prefix | netip.AddrPort](values []T) string {
	var texts []string
	for _, value := range values {
		texts = append(texts, fmt.Sprint(value))
	}
	return strings.Join(texts, ", ")
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
