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
		Args: atMostOne("a pod or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := o.client().Topology(cmd.Context())
			if err != nil {
				return err
			}
			if on != "" {
				if t.Nodes, err = nodesNamed(t, on); err != nil {
					return err
				}
			}
			pods := slices.DeleteFunc(podAnswers(t), func(a podAnswer) bool {
				return namespace != "" && a.Namespace != namespace || len(args) == 1 && !a.named(args[0])
			})
			if err := answer(cmd, output, pods, func(p *page) { p.pods(pods, namespace) }); err != nil {
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
	complete(cmd, "in")
	err := cmd.RegisterFlagCompletionFunc("on", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return o.completeNode(cmd, nil, begun)
	})
	if err != nil {
		panic(err) // there is no such flag
	}
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
func (p *page) pods(pods []podAnswer, namespace string) {
	if len(pods) == 0 {
		where := "in the mesh"
		if namespace != "" {
			where = "in the namespace " + namespace
		}
		p.text("", "there is no such pod "+where)
		return
	}
	rows := make([][]string, 0, len(pods))
	for _, a := range pods {
		rows = append(rows, []string{podName(a.TopologyAttachment), a.Node, a.Network, a.Interface, addressesOf(a.TopologyAttachment)})
	}
	p.table([]string{"POD", "NODE", "NETWORK", "IF", "ADDRESSES"}, rows)
}
