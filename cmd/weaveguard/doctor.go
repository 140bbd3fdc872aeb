package main

import (
	"context"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/doctor"
	"github.com/weaveguard/weaveguard/mesh/inspect"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func newDoctorCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:         "doctor",
		Annotations: inPlace(placeAnyNode),
		Short:       "Find what is wrong on this node, and say what to do about it",
		Long: "doctor looks at what the agent says and at the host itself: WireGuard and\n" +
			"nftables in the kernel, programs that hold Weaveguard's ports, tunnels without a\n" +
			"handshake, narrow paths, clocks, pod ranges that overlap the host's network,\n" +
			"kernel settings that somebody keeps changing, firewalls that drop what is\n" +
			"forwarded, and other network plugins and their leftovers. Each finding has its\n" +
			"remedy, the worst comes first. It changes nothing, and works without an agent.\n" +
			"In the agent's pod it sees less than as root on the node, and says what not.\n\n" +
			"Exit status: 0 when nothing is wrong, also with warnings, 1 when something is, 2\n" +
			"when it couldn't look.",
		Example: "  weaveguard doctor\n" +
			"  kubectl weaveguard doctor --node worker-2\n" +
			"  weaveguard doctor -o json | jq '.findings[] | {subject, message, remedy}'",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := o.facts(cmd.Context())
			if err != nil {
				return err
			}
			report := doctor.Examine(facts)
			err = answer(cmd, output, report, func(p *page) { p.report(report) })
			if err == nil && report.Wrong() {
				err = errNo
			}
			return err
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}

// maxEchoes is how many peers that are down are asked by ICMP.
const maxEchoes = 16

// facts are what can be found out here.
func (o *options) facts(ctx context.Context) (doctor.Facts, error) {
	if os.Geteuid() != 0 {
		return doctor.Facts{}, &adviceError{"only root may look at a node", "run it as root, for instance with sudo"}
	}
	var f doctor.Facts
	status, err := o.client().Status(ctx)
	if err == nil {
		f.Agent = &status
	} else {
		f.NoAgent.Message, f.NoAgent.Remedy = explain(err)
	}
	f.Host = inspect.Host(inspect.Config{})
	host, err := route.New(route.Config{}).Observe(ctx, nil)
	if err != nil {
		f.Host.Unseen = append(f.Host.Unseen, err.Error())
	}
	f.Host.Links, f.Host.Addresses, f.Host.Routes = host.Links, host.Addresses, host.Routes
	if f.Agent != nil {
		f.Echoes = inspect.Echoes(ctx, silent(f.Agent.Peers))
	}
	return f, nil
}

// silent are the hosts of peers that are down and that gossip doesn't see, a few of them.
func silent(peers []view.PeerStatus) map[string]netip.Addr {
	hosts := map[string]netip.Addr{}
	for _, peer := range peers {
		if endpoint, err := netip.ParseAddrPort(peer.Endpoint); err == nil && !peer.Up && !peer.Gossip && len(hosts) < maxEchoes {
			hosts[peer.Node] = endpoint.Addr()
		}
	}
	return hosts
}

// report shows findings first, then what is fine, and what wasn't seen.
func (p *page) report(r doctor.Report) {
	on := ""
	if r.Node != "" {
		on = " on " + r.Node
	}
	if len(r.Findings) == 0 {
		items := words("nothing is wrong" + on + ", as far as can be seen")
		for i := range 3 {
			items[i] = p.paint(green, items[i])
		}
		p.flow("", indentStep, items)
	} else {
		p.flow("", indentStep, words(count(len(r.Findings), "finding")+on+", the worst first:"))
	}
	for _, f := range r.Findings {
		p.space()
		lead := []string{p.paint(red, "wrong:")}
		if f.Warning {
			lead = []string{p.paint(yellow, "warning:")}
		}
		p.flow("", indentStep, append(lead, words(f.Subject+": "+f.Message)...))
		p.remedy(indentStep, f.Remedy)
		p.text(indentStep, "found by: "+f.Found)
	}
	p.list("fine:", r.Fine)
	p.list("not seen:", r.Unseen)
}

// list adds a title and a line for each item, if there are any.
func (p *page) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	p.space()
	p.text("", title)
	for _, item := range items {
		p.text(indentStep, item)
	}
}
