package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// podAnswer is an interface of a pod in `weaveguard pods -o json`.
type podAnswer struct {
	view.TopologyAttachment
	Node    string `json:"node"`
	Network string `json:"network"`
}

func newPodsCommand(o *options) *cobra.Command {
	var output format
	var namespace, on string
	cmd := &cobra.Command{
		Use:         "pods [NAME]",
		Annotations: inPlace(placeAnyNode),
		Short:       "Show the pods of all nodes, and their addresses",
		Long: "pods shows each interface of each pod in the mesh: on which node and network it\n" +
			"is, and its addresses. Any node's agent knows them, also while the Kubernetes\n" +
			"API is away. NAME is a pod's, or an address.\n\n" +
			"Exit status: 0 when the agent answered, 1 when there is no such pod, 2 when it\n" +
			"couldn't be asked, or there is no such node.",
		Example: "  weaveguard pods\n" +
			"  weaveguard pods --in shop --on worker-2\n" +
			"  weaveguard pods 10.244.1.7",
		Args:              atMostOne("a pod or an address"),
		ValidArgsFunction: o.completePod,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := o.client().Topology(cmd.Context())
			if err != nil {
				return err
			}
			all := t
			if on != "" {
				if t.Nodes, err = nodesNamed(t, on); err != nil {
					return err
				}
			}
			pods := slices.DeleteFunc(podAnswers(t), func(a podAnswer) bool {
				return namespace != "" && a.Namespace != namespace || len(args) == 1 && !a.named(args[0])
			})
			if err := answer(cmd, output, pods, func(p *page) {
				p.pods(pods)
				if len(pods) == 0 {
					p.noPods(args, namespace, on, podNames(all))
				}
			}); err != nil {
				return err
			}
			if len(args) == 1 && len(pods) == 0 {
				return errNo
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&namespace, "in", "", "only pods in this namespace")
	cmd.Flags().StringVar(&on, "on", "", "only pods on this node")
	completeWith(cmd, "in", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return o.complete(cmd, namespaces)
	})
	completeWith(cmd, "on", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return o.completeNode(cmd, nil, begun)
	})
	addFormatFlag(cmd, &output)
	return cmd
}

// named reports whether a pod goes by a name: its own, with or without its namespace, or one of its addresses.
func (a podAnswer) named(name string) bool {
	if name == a.Pod || name == podName(a.TopologyAttachment) {
		return true
	}
	for _, address := range a.Addresses {
		if address.String() == name {
			return true
		}
	}
	return false
}

// podAnswers are all interfaces of all pods, sorted by pod.
func podAnswers(t view.Topology) []podAnswer {
	all := []podAnswer{}
	for _, n := range t.Nodes {
		for _, network := range n.Networks {
			for _, at := range network.Attachments {
				all = append(all, podAnswer{at, n.Name, network.Name})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b podAnswer) int {
		return strings.Compare(podName(a.TopologyAttachment)+" "+a.Interface, podName(b.TopologyAttachment)+" "+b.Interface)
	})
	return all
}

// pods is what `weaveguard pods` shows.
func (p *page) pods(pods []podAnswer) {
	if len(pods) == 0 {
		return
	}
	rows := make([][]string, 0, len(pods))
	for _, a := range pods {
		rows = append(rows, []string{podName(a.TopologyAttachment), a.Node, a.Network, a.Interface, addressesOf(a.TopologyAttachment)})
	}
	p.table([]string{"POD", "NODE", "NETWORK", "IF", "ADDRESSES"}, rows)
}

// noPods says that there is none as it was asked for, by the arguments and in a namespace and on a node, if these are named.
func (p *page) noPods(args []string, namespace, on string, names []string) {
	where := ""
	if namespace != "" {
		where += " in the namespace " + namespace
	}
	if on != "" {
		where += " on " + on
	}
	switch {
	case len(args) > 0:
		p.text("", "no pod"+where+" has the name or the address "+args[0])
		if near := nearest(args[0], names); len(near) > 0 {
			p.remedy("", "did you mean "+alternatives(near)+"? `weaveguard pods` lists all")
		}
	case where != "":
		p.text("", "there is no pod"+where)
	default:
		p.text("", "there is no pod in the mesh yet")
	}
}

// podNames are those of all pods, with and without their namespaces, sorted.
func podNames(t view.Topology) []string {
	var names []string
	for _, a := range podAnswers(t) {
		names = append(names, a.Pod, podName(a.TopologyAttachment))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// namespaces are those of all pods, sorted.
func namespaces(t view.Topology) []string {
	var names []string
	for _, a := range podAnswers(t) {
		if a.Namespace != "" {
			names = append(names, a.Namespace)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// completePod completes the names of pods.
func (o *options) completePod(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, podNames)
}
