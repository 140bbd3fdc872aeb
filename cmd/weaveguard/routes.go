package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/way"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func newRoutesCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "routes FROM TO",
		Short: "Show which way a packet goes, and where it would be dropped",
		Long: "routes follows a packet from a pod of this node, or from this node itself, to a\n" +
			"pod, a node or any address: by which bridge, route, tunnel, peer and endpoint it\n" +
			"goes, how large it may be, and where and why it would be dropped. It asks the\n" +
			"agent and the kernel, and sends nothing.\n\n" +
			"FROM and TO are names of pods (with the namespace before, if there are several:\n" +
			"shop/web-0), names of nodes, or addresses.\n\n" +
			"It doesn't know of Services, other programs' firewalls, and what happens outside\n" +
			"of the mesh.\n\n" +
			"Exit status: 0 when the packet is delivered, or leaves the mesh, 1 when it is\n" +
			"dropped, 2 when that couldn't be found out.",
		Example: "  weaveguard routes shop/web-0 shop/db-0\n" +
			"  weaveguard routes 10.244.1.7 203.0.113.9\n" +
			"  kubectl weaveguard --node worker-1 routes shop/web-0 worker-2",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return o.complete(cmd, podsAndNodes)
		},
		Args: exactlyTwo("where the packet comes from", "where it goes to"),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := o.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			topology, err := o.client().Topology(cmd.Context())
			if err != nil {
				return err
			}
			from, to, err := ends(status, topology, args[0], args[1])
			if err != nil {
				return err
			}
			w, err := way.Trace(status, topology, way.Netlink{}, from, to)
			if err != nil {
				return err
			}
			if err := answer(cmd, output, w, func(p *page) { p.way(w) }); err != nil {
				return err
			}
			if w.Dropped != "" {
				return errNo
			}
			return nil
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}

// ends finds the ends of a way.
func ends(s view.Status, t view.Topology, from, to string) (way.Place, way.Place, error) {
	var none way.Place
	all := [2][]way.Place{}
	for i, name := range []string{from, to} {
		var err error
		if all[i] = way.Find(s, t, name); len(all[i]) == 0 {
			return none, none, unknown("pod, node or address", name, podsAndNodes(t), "weaveguard topology")
		}
		if all[i][0], err = way.AtHome(way.Netlink{}, t, all[i][0]); err != nil {
			return none, none, err
		}
		if err := onlyOne(name, all[i]); err != nil {
			return none, none, err
		}
	}
	here := slices.DeleteFunc(slices.Clone(all[0]), func(p way.Place) bool { return p.Kind == way.Elsewhere || p.Node != t.Node })
	if len(here) == 0 {
		advice := "ask where the packet begins"
		if node := all[0][0].Node; node != "" {
			advice = fmt.Sprintf("ask there: `kubectl weaveguard --node %s routes %s %s`, or without Kubernetes on %[1]s itself", node, from, to)
		}
		return none, none, &adviceError{fmt.Sprintf("%s isn't on this node, which is %s", all[0][0], t.Node), advice}
	}
	a, b, found := way.Pair(here, all[1])
	if !found {
		return none, none, &adviceError{fmt.Sprintf("%s and %s have no addresses of one family", from, to), "see `weaveguard topology`"}
	}
	return a, b, nil
}

// onlyOne returns an error if a name is that of several pods, or of a pod and a node.
func onlyOne(name string, places []way.Place) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	var owners, all []string
	for _, p := range places {
		if owner := string(p.Kind) + " " + p.Name + " " + p.Node; !slices.Contains(owners, owner) {
			owners = append(owners, owner)
			text := p.String()
			if p.Kind == way.Pod {
				text += " on " + p.Node
			}
			all = append(all, text)
		}
	}
	if len(all) == 1 {
		return nil
	}
	const most = 5
	if more := len(all) - most; more > 0 {
		all = append(all[:most], fmt.Sprintf("%d more", more))
	}
	return &adviceError{fmt.Sprintf("%s is the name of several: %s", name, strings.Join(all, ", ")),
		"name one with its namespace, or by its address; `weaveguard pods " + name + "` lists them"}
}

// podsAndNodes are all names that a way can begin or end at.
func podsAndNodes(t view.Topology) []string {
	names := append(nodeNames(t), podNames(t)...)
	slices.Sort(names)
	return slices.Compact(names)
}

// way is what `weaveguard routes` shows.
func (p *page) way(w way.Way) {
	p.text("", fmt.Sprintf("from %s to %s", w.From, w.To))
	for i, step := range w.Steps {
		text := fmt.Sprintf("%d. %s", i+1, step.Text)
		if step.Device != "" {
			text += ", device " + step.Device
		}
		if step.MTU != 0 {
			text += fmt.Sprintf(", MTU %d", step.MTU)
		}
		p.text(indentStep, text)
	}
	if w.Dropped != "" {
		p.text("", "dropped: "+w.Dropped)
		p.text("", "what to do: "+w.Remedy)
	}
}
