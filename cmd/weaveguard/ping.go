package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/echo"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// allNodes is the argument that means every other node.
const allNodes = "all"

// maxPings bounds --count: more is for another tool.
const maxPings = 10_000

// pingAnswer is what came of pinging one address of a node, in `weaveguard ping -o json`.
type pingAnswer struct {
	Node     string  `json:"node"`
	Address  string  `json:"address,omitempty"` // "": it has none, see Error
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Loss     float64 `json:"loss"` // from 0 to 1
	Min      float64 `json:"minSeconds,omitempty"`
	Avg      float64 `json:"avgSeconds,omitempty"`
	Max      float64 `json:"maxSeconds,omitempty"`
	Error    string  `json:"error,omitempty"`
}

type pingFlags struct {
	echo   echo.Options
	output format
}

func newPingCommand(o *options) *cobra.Command {
	var f pingFlags
	cmd := &cobra.Command{
		Use:         "ping [NODE|all]",
		Annotations: inPlace(placeAnyNode),
		Short:       "Measure the time and the loss of packets through the tunnels",
		Long: "ping sends ICMP echo requests from this node's gateway address to those of the\n" +
			"other nodes, through the tunnels as pods' packets go, and shows how many were\n" +
			"lost, and how long the fastest, the average and the slowest answer took.\n\n" +
			"It needs root on the node. In the agent's pod, which has fewer rights, it works\n" +
			"where the node's kernel lets everybody ping (net.ipv4.ping_group_range).\n" +
			"`kubectl weaveguard ping --matrix` lets every node ping every other;\n" +
			"`weaveguard peers --matrix` shows what the agents measure beside the tunnels.\n\n" +
			"Exit status: 0 when every node answered, 1 when one didn't at all, 2 when it\n" +
			"couldn't be measured.",
		Example: "  weaveguard ping\n" +
			"  weaveguard ping worker-2 --count 100 --interval 20ms\n" +
			"  weaveguard ping all -o json | jq '.[] | select(.loss > 0)'",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := atMostOne("a node, or all")(cmd, args); err != nil {
				return err
			}
			return f.check()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
			names, directive := o.completePeer(cmd, args, begin)
			if len(names) > 0 {
				names = append(names, allNodes)
			}
			return names, directive
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.ping(cmd, o, args) },
	}
	addFormatFlag(cmd, &f.output)
	cmd.Flags().IntVarP(&f.echo.Count, "count", "c", 5, "how many requests to send to each address")
	cmd.Flags().DurationVar(&f.echo.Interval, "interval", 200*time.Millisecond, "time between two requests")
	cmd.Flags().DurationVar(&f.echo.Timeout, "timeout", 2*time.Second, "how long to wait for an answer")
	return cmd
}

// check refuses what can't have been meant.
func (f *pingFlags) check() error {
	switch {
	case f.echo.Count < 1 || f.echo.Count > maxPings:
		return fmt.Errorf("--count takes a number from 1 to %d", maxPings)
	case f.echo.Interval < time.Millisecond:
		return errors.New("--interval takes a time span of at least 1ms, such as 200ms")
	case f.echo.Timeout < time.Millisecond:
		return errors.New("--timeout takes a time span of at least 1ms, such as 2s")
	}
	return nil
}

func (f *pingFlags) ping(cmd *cobra.Command, o *options, args []string) error {
	status, err := o.client().Status(cmd.Context())
	if err != nil {
		return err
	}
	peers := status.Peers
	if len(args) == 1 && args[0] != allNodes {
		peer, err := peerNamed(status, args[0])
		if err != nil {
			return err
		}
		peers = []view.PeerStatus{peer.PeerStatus}
	}
	answers, targets := toPing(status, peers)
	if err := haveSources(targets); err != nil {
		return err
	}
	results, err := echo.Run(cmd.Context(), targets, f.echo)
	if err != nil {
		return aboutPing(cmd, err)
	}
	silent := fill(answers, results)
	err = answer(cmd, f.output, answers, func(p *page) { p.pings(status, answers) })
	if err == nil && silent {
		err = errNo
	}
	return err
}

// toPing are the addresses to ping, one of each family that both ends have. Of the answers, those with an address have a
// target each, in the same order.
func toPing(s view.Status, peers []view.PeerStatus) ([]pingAnswer, []echo.Target) {
	answers, targets := []pingAnswer{}, []echo.Target(nil)
	for _, peer := range peers {
		before := len(targets)
		for _, own := range s.PodCIDRs {
			i := slices.IndexFunc(peer.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() == own.Addr().Is4() })
			if i < 0 {
				continue
			}
			t := echo.Target{Source: contract.Gateway(own), Address: contract.Gateway(peer.PodCIDRs[i])}
			targets = append(targets, t)
			answers = append(answers, pingAnswer{Node: peer.Node, Address: t.Address.String()})
		}
		if len(targets) > before {
			continue
		}
		why := "it has no pod CIDR of a family that this node has one of"
		switch {
		case len(s.PodCIDRs) == 0:
			why = "this node has no pod CIDR"
		case len(peer.PodCIDRs) == 0:
			why = "it has no pod CIDR"
		}
		answers = append(answers, pingAnswer{Node: peer.Node, Loss: 1, Error: why})
	}
	return answers, targets
}

// haveSources refuses to ping from an address that this host doesn't have: there would be no answers.
func haveSources(targets []echo.Target) error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("reading the addresses of this host: %w", err)
	}
	for _, t := range targets {
		if !slices.ContainsFunc(addresses, func(a net.Addr) bool { return strings.HasPrefix(a.String(), t.Source.String()+"/") }) {
			return &adviceError{"this host doesn't have the agent's gateway address " + t.Source.String(),
				"run it where the agent runs; see `weaveguard status`"}
		}
	}
	return nil
}

// fill puts the results into the answers with an address, and reports whether one has none at all.
func fill(answers []pingAnswer, results []echo.Result) (silent bool) {
	for i := range answers {
		a := &answers[i]
		if a.Address != "" {
			r := results[0]
			results = results[1:]
			a.Sent, a.Received, a.Loss = r.Sent, r.Received, r.Loss()
			a.Min, a.Avg, a.Max = r.Min.Seconds(), r.Avg.Seconds(), r.Max.Seconds()
			if r.Err != nil {
				a.Error = cannotSend(r.Err)
			}
		}
		silent = silent || a.Received == 0
	}
	return silent
}

// cannotSend is, in words, why the kernel takes no packet.
func cannotSend(err error) string {
	switch {
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return "no route leads to it"
	case errors.Is(err, unix.EPERM):
		return "the firewall of this node drops it"
	case errors.Is(err, unix.ENOKEY):
		return "its tunnel has no peer with that address"
	case errors.Is(err, unix.EDESTADDRREQ):
		return "its tunnel doesn't know where the peer is"
	}
	return err.Error()
}

// aboutPing says why nothing could be measured, and what to do about it.
func aboutPing(cmd *cobra.Command, err error) error {
	switch {
	case errors.Is(err, echo.ErrNotAllowed):
		return &adviceError{echo.ErrNotAllowed.Error(),
			"run `weaveguard ping` as root on the node itself; or let all programs there ping, also the agent's pod: " +
				"`sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`"}
	case cmd.Context().Err() != nil:
		return errors.New("interrupted")
	}
	return err
}

func (p *page) pings(s view.Status, answers []pingAnswer) {
	if len(answers) == 0 {
		p.text("", s.Node+" is the only node of this mesh: there is nobody to ping")
		return
	}
	var rows [][]string
	for _, a := range answers {
		rows = append(rows, []string{a.Node, orDash(a.Address), strconv.Itoa(a.Received) + "/" + strconv.Itoa(a.Sent), percent(a.Loss),
			milliseconds(a.Min), milliseconds(a.Avg), milliseconds(a.Max)})
	}
	p.table([]string{"NODE", "ADDRESS", "ANSWERS", "LOSS", "MIN", "AVG", "MAX"}, rows)
	spaced := false
	for _, a := range answers {
		why := whyLost(s, a)
		if why == "" {
			continue
		}
		if !spaced {
			p.space()
		}
		spaced = true
		p.text("", why)
	}
}

// whyLost tells of packets that were lost, if any were, what is known about the reason.
func whyLost(s view.Status, a pingAnswer) string {
	if a.Received == a.Sent && a.Error == "" {
		return ""
	}
	says := a.Node + " lost some"
	if a.Received == 0 {
		says = a.Node + " doesn't answer"
	}
	if peer, err := peerNamed(s, a.Node); err == nil && !peer.Up {
		return says + ": " + reason(peer.PeerStatus)
	}
	if a.Error != "" {
		return says + ": " + a.Error
	}
	if a.Received == 0 {
		return says + ", and its link is up: is there a firewall on it that drops what comes by the tunnel?"
	}
	return says + ", and its link is up: the network between the nodes loses packets, or one of them is busy"
}

// percent is a part of 1, rounded so that neither all nor nothing is said when it isn't so.
func percent(part float64) string {
	p := int(part*100 + 0.5)
	switch {
	case p == 0 && part > 0:
		p = 1
	case p == 100 && part < 1:
		p = 99
	}
	return strconv.Itoa(p) + "%"
}

// milliseconds is a time in seconds, in at least two digits.
func milliseconds(seconds float64) string {
	ms := seconds * 1000
	switch {
	case seconds == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
