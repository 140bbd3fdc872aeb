package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// peerAnswer is a peer in `weaveguard peers -o json`.
type peerAnswer struct {
	view.PeerStatus
	// Waiting is there when the peer still needs this node's old key.
	Waiting *view.RotationPeer `json:"waiting,omitempty"`
}

func newPeersCommand(o *options) *cobra.Command {
	var output format
	var matrix bool
	cmd := &cobra.Command{
		Use:         "peers [NODE]",
		Annotations: inPlace(placeAnyNode),
		Short:       "Show the links to the other nodes, or all of one",
		Long: "peers shows each other node as seen from this one: whether its link is up, how\n" +
			"long ago its last handshake was, where packets to it go, the bytes that came\n" +
			"(RX) and went (TX) through the tunnel, and the MTU in the tunnel. RTT is how\n" +
			"long the way there and back takes, and LOSS which part of the packets it loses:\n" +
			"the agents send each other a small probe every 2 s, in big meshes more seldom,\n" +
			"and that is the median, and the loss, of the latest 20. They go beside the\n" +
			"tunnel, and `weaveguard ping` through it. There is a column PATH where the\n" +
			"network between two nodes carries less than it seems to, with how many bytes;\n" +
			"and a column ROTATION while keys change: ours, when the node still needs this\n" +
			"node's old key; theirs, when it changes its own.\n\n" +
			"With the name of a node it shows all that is known of that one, and each link\n" +
			"to it. With --matrix it shows RTT and loss from every node to every other, which\n" +
			"the agent asks the others for: a node that can't be asked has what it told last,\n" +
			"and how old that is.\n\n" +
			"Exit status: 0 when the agent answered, 2 when it couldn't be asked, or there\n" +
			"is no such node.",
		Example: "  weaveguard peers\n" +
			"  weaveguard peers worker-2\n" +
			"  weaveguard peers --matrix\n" +
			"  weaveguard peers -o json | jq '.[] | select(.up | not) | .node'",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: o.completePeer,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case matrix && len(args) > 0:
				return &adviceError{"--matrix is of all nodes, and " + args[0] + " is one", "leave one of them out"}
			case matrix:
				return o.peersMatrix(cmd, output)
			}
			status, err := o.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return answer(cmd, output, peerAnswers(status), func(p *page) { p.allPeers(status) })
			}
			peer, err := peerNamed(status, args[0])
			if err != nil {
				return err
			}
			return answer(cmd, output, peer, func(p *page) { p.onePeer(status, peer) })
		},
	}
	addFormatFlag(cmd, &output)
	cmd.Flags().BoolVar(&matrix, "matrix", false, "show RTT and loss from every node to every other")
	return cmd
}

// completePeer completes the name of a peer.
func (o *options) completePeer(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	status, err := o.status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := slices.DeleteFunc(peerNames(status), func(name string) bool { return name != printable(name) }) // they go to a shell
	return names, cobra.ShellCompDirectiveNoFileComp
}

func peerNames(s view.Status) []string {
	var names []string
	for _, peer := range s.Peers {
		names = append(names, peer.Node)
	}
	return names
}

func peerAnswers(s view.Status) []peerAnswer {
	all := []peerAnswer{}
	for _, peer := range s.Peers {
		all = append(all, peerAnswer{PeerStatus: peer, Waiting: waitsFor(s, peer.Node)})
	}
	return all
}

// waitsFor is what this node's rotation waits for at a peer; nil: nothing.
func waitsFor(s view.Status, node string) *view.RotationPeer {
	i := slices.IndexFunc(s.Rotation.Waiting, func(r view.RotationPeer) bool { return r.Node == node })
	if i < 0 {
		return nil
	}
	return &s.Rotation.Waiting[i]
}

// peerNamed finds a peer by its name.
func peerNamed(s view.Status, name string) (peerAnswer, error) {
	for _, peer := range peerAnswers(s) {
		if peer.Node == name {
			return peer, nil
		}
	}
	if name == s.Node {
		return peerAnswer{}, &adviceError{name + " is this node, and no peer of its own", "see `weaveguard status`"}
	}
	return peerAnswer{}, unknown("other node", name, peerNames(s), "weaveguard peers")
}

// allPeers is what `weaveguard peers` shows.
func (p *page) allPeers(s view.Status) {
	if len(s.Peers) == 0 {
		p.text("", s.Node+" has no peers: there is no other node yet")
		return
	}
	rows := make([][]string, 0, len(s.Peers))
	for _, peer := range peerAnswers(s) {
		rows = append(rows, []string{peer.Node, upOrDown(peer.Up), orDash(peer.Endpoint), handshake(peer.LastHandshake, peer.HandshakeAge),
			milliseconds(peer.RTT), lossOf(peer), size(peer.ReceivedBytes), size(peer.SentBytes), numberOrDash(peer.MTU), numberOrDash(peer.PathMTU),
			orDash(rotates(peer))})
	}
	p.table(withoutEmpty([]string{"PEER", "STATE", "ENDPOINT", "HANDSHAKE", "RTT", "LOSS", "RX", "TX", "MTU", "PATH", "ROTATION"}, rows))
	p.downPeers(s.Peers)
	if len(s.Rotation.Waiting) > 0 {
		p.space()
		p.waiting("", s.Rotation.Waiting)
	}
}

// lossOf is the loss of the way to a peer, if it is measured.
func lossOf(peer peerAnswer) string {
	if peer.Probes == 0 {
		return "-"
	}
	return percent(peer.Loss)
}

// withoutEmpty leaves out the columns RTT, LOSS, PATH and ROTATION where no row has anything there.
func withoutEmpty(header []string, rows [][]string) ([]string, [][]string) {
	for i := len(header) - 1; i >= 0; i-- {
		if !slices.Contains([]string{"RTT", "LOSS", "PATH", "ROTATION"}, header[i]) || slices.ContainsFunc(rows, func(row []string) bool { return row[i] != "-" }) {
			continue
		}
		header = slices.Delete(header, i, i+1)
		for j := range rows {
			rows[j] = slices.Delete(rows[j], i, i+1)
		}
	}
	return header, rows
}

// rotates says whose key changes on the links to a peer.
func rotates(peer peerAnswer) string {
	theirs := slices.ContainsFunc(peer.Links, func(l view.LinkStatus) bool { return l.Generation != peer.Links[0].Generation })
	switch {
	case theirs && peer.Waiting != nil:
		return "both"
	case theirs:
		return "theirs"
	case peer.Waiting != nil:
		return "ours"
	}
	return ""
}

// onePeer is what `weaveguard peers NODE` shows.
func (p *page) onePeer(s view.Status, peer peerAnswer) {
	state := append(words(peer.Node), "is", p.paint(cellColour("STATE", upOrDown(peer.Up)), upOrDown(peer.Up)))
	if !peer.Up {
		state[len(state)-1] += ":"
		state = append(state, words(reason(peer.PeerStatus))...)
	}
	p.flow("", indentStep, state)
	p.space()
	p.facts(peerFacts(s, peer))
	if len(peer.Links) > 0 {
		p.space()
		p.links(peer.Links)
	}
	if peer.Waiting != nil {
		p.space()
		p.waiting("", []view.RotationPeer{*peer.Waiting})
	}
}

func peerFacts(s view.Status, peer peerAnswer) [][2]string {
	gossip := "nothing is heard of it now"
	if peer.Gossip {
		gossip = "it is alive"
	}
	facts := [][2]string{{"endpoint", orNone(peer.Endpoint)}, {"gossip", gossip}}
	for _, key := range peerKeys(peer.PeerStatus) {
		facts = append(facts, [2]string{fmt.Sprintf("key %d", key.Number), key.PublicKey.String()})
	}
	facts = append(facts, [2]string{"pod CIDRs", orNone(joined(peer.PodCIDRs))})
	for _, n := range peer.Networks {
		facts = append(facts, [2]string{"network " + n.Name, joined(n.CIDRs)})
	}
	if peer.Document != "" {
		facts = append(facts, [2]string{"document", peer.Document})
	}
	if peer.Endpoint == "" {
		return facts // nothing goes there
	}
	path := "nothing narrower than it seems to be was found"
	if peer.PathMTU > 0 {
		path = fmt.Sprintf("only %d bytes get through to it, as probes found", peer.PathMTU)
	}
	return append(facts,
		[2]string{"handshake", handshake(peer.LastHandshake, peer.HandshakeAge)},
		[2]string{"traffic", fmt.Sprintf("%s received, %s sent", size(peer.ReceivedBytes), size(peer.SentBytes))},
		[2]string{"probes", probes(peer.PeerStatus)},
		[2]string{"MTU", numberOrDash(peer.MTU)},
		[2]string{"path", path},
		[2]string{"rotation", peerRotation(s, peer)},
	)
}

// probes says what the latest ones told of the way to a peer.
func probes(peer view.PeerStatus) string {
	if peer.Probes == 0 {
		return "none that went beside the tunnel was answered yet"
	}
	lost, says := int(peer.Loss*float64(peer.Probes)+0.5), ""
	if peer.RTT > 0 {
		says = milliseconds(peer.RTT) + " there and back, "
	}
	return says + fmt.Sprintf("%d of the latest %d lost, beside the tunnel", lost, peer.Probes)
}

// peerKeys are the keys that a peer has on its links, oldest first.
func peerKeys(peer view.PeerStatus) []view.GenerationStatus {
	var all []view.GenerationStatus
	for _, link := range peer.Links {
		key := view.GenerationStatus{Number: link.Generation, PublicKey: link.PublicKey}
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, func(a, b view.GenerationStatus) int { return cmp.Compare(a.Number, b.Number) })
	return all
}

func peerRotation(s view.Status, peer peerAnswer) string {
	keys := peerKeys(peer.PeerStatus)
	var says []string
	if len(keys) > 1 {
		says = append(says, fmt.Sprintf("it changes its key, from %d to %d", keys[0].Number, keys[len(keys)-1].Number))
	}
	if peer.Waiting != nil {
		says = append(says, "this node changes its key ("+s.Rotation.Phase+"), and it needs the old one still")
	}
	if len(says) == 0 {
		return "no key changes"
	}
	return strings.Join(says, "; ")
}

func (p *page) links(links []view.LinkStatus) {
	var rows [][]string
	for _, l := range links {
		traffic := "no"
		if l.Carries {
			traffic = "yes"
		}
		rows = append(rows, []string{l.Device, strconv.FormatUint(uint64(l.OwnGeneration), 10), strconv.FormatUint(uint64(l.Generation), 10),
			orDash(l.Endpoint), handshake(l.LastHandshake, l.HandshakeAge), size(l.ReceivedBytes), size(l.SentBytes), traffic})
	}
	p.table([]string{"LINK", "OUR KEY", "THEIR KEY", "ENDPOINT", "HANDSHAKE", "RX", "TX", "TRAFFIC"}, rows)
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// handshake is when the last one was; its age is in seconds.
func handshake(last time.Time, seconds float64) string {
	if last.IsZero() {
		return "never"
	}
	return age(time.Duration(seconds*float64(time.Second))) + " ago"
}

func numberOrDash(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}
