package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/view"
)

func newTopologyCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:         "topology [NODE]",
		Annotations: inPlace(placeAnyNode),
		Short:       "Show all nodes, their networks and their pods",
		Long: "topology shows what is attached where: each node, its part of each network, and\n" +
			"the pods on it with their addresses. Any node's agent knows all of it, also\n" +
			"while the Kubernetes API is away; what changes is known everywhere in seconds.\n\n" +
			"An address is a stray if it isn't in the node's part of the network, so that\n" +
			"nothing is sent to it there: its pod was attached before the node had another\n" +
			"part.\n\n" +
			"-o dot is for Graphviz, and -o svg a drawing.\n\n" +
			"Exit status: 0 when the agent answered, 2 when it couldn't be asked, or there\n" +
			"is no such node.",
		Example: "  weaveguard topology\n" +
			"  weaveguard topology worker-2\n" +
			"  weaveguard topology -o svg > mesh.svg",
		Args:              atMostOne("a node"),
		ValidArgsFunction: o.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := o.client().Topology(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if t.Nodes, err = nodesNamed(t, args[0]); err != nil {
					return err
				}
			}
			switch out := cmd.OutOrStdout(); output {
			case formatDOT:
				return printed(out.Write(dot(t)))
			case formatSVG:
				return printed(out.Write(svg(t)))
			}
			return answer(cmd, output, t, func(p *page) { p.topology(t) })
		},
	}
	addFormatFlag(cmd, &output, formatDOT, formatSVG)
	return cmd
}

// completeNode completes the name of any node.
func (o *options) completeNode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, nodeNames)
}

// complete completes names of the topology; none where the agent can't be asked. They go to a shell, so there are none that would
// steer it.
func (o *options) complete(cmd *cobra.Command, names func(view.Topology) []string) ([]string, cobra.ShellCompDirective) {
	t, err := o.client().Topology(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.DeleteFunc(names(t), func(name string) bool { return name != printable(name) }), cobra.ShellCompDirectiveNoFileComp
}

func nodeNames(t view.Topology) []string {
	var names []string
	for _, n := range t.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// nodesNamed is the node of that name alone.
func nodesNamed(t view.Topology, name string) ([]view.TopologyNode, error) {
	i := slices.IndexFunc(t.Nodes, func(n view.TopologyNode) bool { return n.Name == name })
	if i < 0 {
		return nil, unknown("node", name, nodeNames(t), "weaveguard topology")
	}
	return t.Nodes[i : i+1], nil
}

// topology is what `weaveguard topology` shows.
func (p *page) topology(t view.Topology) {
	if len(t.Nodes) == 0 {
		p.text("", "the agent of "+t.Node+" is starting, and knows nothing yet: see `weaveguard status`")
	}
	for _, n := range t.Nodes {
		p.space()
		p.flow("", indentStep, p.nodeTitle(n))
		for _, note := range nodeNotes(n) {
			p.text(indentStep, note)
		}
		for _, network := range n.Networks {
			p.text(indentStep, networkTitle(network))
			for _, at := range network.Attachments {
				p.text(indentStep+indentStep, attachmentTitle(at))
			}
		}
	}
}

// nodeTitle is a node in one line, in words.
func (p *page) nodeTitle(n view.TopologyNode) []string {
	title := n.Name
	if n.Self {
		title += " (this node)"
	}
	state, rest := upOrDown(n.Up), ""
	switch {
	case n.Up && n.Endpoint != "":
		rest = ", " + n.Endpoint
	case !n.Up && n.Reason != "":
		rest = ": " + n.Reason
	}
	items := words(title + ":")
	mark, more, _ := strings.Cut(rest, " ")
	return append(append(items, p.paint(cellColour("STATE", state), state)+mark), words(more)...)
}

// nodeNotes are what is to be said of how much is known of a node.
func nodeNotes(n view.TopologyNode) []string {
	var notes []string
	if n.Stale != "" {
		notes = append(notes, "what is attached may be older: its document: "+n.Stale)
	}
	if n.Omitted > 0 {
		notes = append(notes, fmt.Sprintf("%d more interfaces of pods: ask its own agent", n.Omitted))
	}
	return notes
}

func networkTitle(n view.TopologyNetwork) string {
	if len(n.CIDRs) == 0 {
		return n.Name + ": the node has no part of it that counts"
	}
	var cidrs []string
	for _, c := range n.CIDRs {
		cidrs = append(cidrs, c.String())
	}
	return n.Name + " " + strings.Join(cidrs, " ")
}

func attachmentTitle(at view.TopologyAttachment) string {
	return podName(at) + " " + at.Interface + " " + addressesOf(at)
}

// addressesOf are the addresses of an attachment, and whether they are strays.
func addressesOf(at view.TopologyAttachment) string {
	var texts []string
	for _, address := range at.Addresses {
		texts = append(texts, address.String())
	}
	if at.Stray {
		texts = append(texts, "(stray)")
	}
	return strings.Join(texts, " ")
}

// podName is a pod as kubectl's users write it, or a sandbox of another runtime.
func podName(at view.TopologyAttachment) string {
	if at.Namespace == "" {
		return at.Pod
	}
	return at.Namespace + "/" + at.Pod
}
