package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// attachFlags are the flags of `weaveguard attach`.
type attachFlags struct {
	handFlags
	network string
	ips     []string
	output  format
}

// attached is what `weaveguard attach -o json` prints.
type attached struct {
	ID        string       `json:"id"`
	Netns     string       `json:"netns"`
	Interface string       `json:"interface"` // its name in the network namespace
	Network   string       `json:"network"`
	Addresses []netip.Addr `json:"addresses"` // one of each family at most, IPv4 first
	Gateways  []netip.Addr `json:"gateways"`  // in the same order
	MTU       int          `json:"mtu"`       // bytes
	MAC       string       `json:"mac"`
}

func newAttachCommand(o *options) *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:         "attach NETNS|PID",
		Annotations: inPlace(placeHost),
		Short:       "Attach a network namespace of this host to the mesh",
		Long: "attach gives a network namespace an interface with an address of the mesh, as a\n" +
			"container runtime does it for a pod: it runs the CNI plugin of this host. The\n" +
			"namespace is named as in `ip netns`, by its path, or by a process in it.\n\n" +
			"What is printed are the addresses, one in a line. The attachment has a name, by\n" +
			"default that of the namespace, by which detach finds it.\n\n" +
			"Exit status: 0 when it is attached, 2 when it isn't.",
		Example: "  ip netns add web && weaveguard attach web\n" +
			"  address=$(weaveguard attach 4711 --id job --ifname eth1 --network blue)",
		Args: exactlyOne("a network namespace, or a process in it"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.attach(cmd, o, args[0]) },
	}
	addFormatFlag(cmd, &f.output)
	f.register(cmd)
	cmd.Flags().StringVar(&f.network, "network", view.DefaultNetwork, "network to attach it to")
	completeWith(cmd, "network", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return networksOf(handOf(o, f.binDir)), cobra.ShellCompDirectiveNoFileComp
	})
	cmd.Flags().StringSliceVar(&f.ips, "ip", nil, "address that it is to have, one of each family at most (default any that "+
		"is free)")
	return cmd
}

func (f *attachFlags) attach(cmd *cobra.Command, o *options, target string) error {
	for _, ip := range f.ips {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("--ip %q isn't an address such as 10.32.5.9", ip)
		}
	}
	box, err := findSandbox(target)
	if err != nil {
		return err
	}
	id, err := f.name(box)
	if err != nil {
		return err
	}
	if err := box.check(); err != nil {
		return err
	}
	h := handOf(o, f.binDir)
	network, err := h.network(f.network)
	if err != nil {
		return err
	}
	if taken := h.find(id); taken != nil {
		return &adviceError{fmt.Sprintf("%s is attached already: %s with %s in %s", id.ContainerID, id.IfName, list(taken.Addresses),
			taken.Netns), "detach it first, or take another name for this one: --id for the namespace, --ifname for a further interface in it"}
	}
	result, err := h.add(cmd.Context(), network, id, box.path, f.ips)
	if err != nil {
		return err
	}
	a, err := summary(result, id, box.path, f.network)
	if err != nil {
		return err
	}
	return answer(cmd, f.output, a, func(p *page) {
		for _, address := range a.Addresses {
			p.text("", address.String())
		}
	})
}

// summary takes from the plugin's result what an operator wants to know.
func summary(result types.Result, id store.ID, netns, network string) (attached, error) {
	a := attached{ID: id.ContainerID, Netns: netns, Interface: id.IfName, Network: network}
	r, err := current.NewResultFromResult(result)
	if err != nil {
		return a, fmt.Errorf("reading the plugin's answer: %w", err)
	}
	for _, ip := range r.IPs {
		address, _ := netip.AddrFromSlice(ip.Address.IP)
		gateway, _ := netip.AddrFromSlice(ip.Gateway)
		a.Addresses, a.Gateways = append(a.Addresses, address.Unmap()), append(a.Gateways, gateway.Unmap())
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" {
			a.MAC, a.MTU = i.Mac, i.Mtu
		}
	}
	return a, nil
}

func newDetachCommand(o *options) *cobra.Command {
	var f handFlags
	cmd := &cobra.Command{
		Use:         "detach NETNS|PID",
		Annotations: inPlace(placeHost),
		Short:       "Detach what was attached by hand",
		Long: "detach removes the interface that attach made, and frees its addresses. It needs\n" +
			"neither the namespace nor the agent, and succeeds too when there is nothing to\n" +
			"detach.\n\n" +
			"Exit status: 0 when nothing is attached by that name any more, else 2.",
		Example: "  weaveguard detach web\n" +
			"  weaveguard detach 4711 --id job --ifname eth1",
		Args: exactlyOne("the network namespace, or the process, that was attached"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.detach(cmd.Context(), o, args[0]) },
	}
	f.register(cmd)
	return cmd
}

func (f *handFlags) detach(ctx context.Context, o *options, target string) error {
	box, err := findSandbox(target)
	if err != nil {
		return err
	}
	id, err := f.name(box)
	if err != nil {
		return err
	}
	h := handOf(o, f.binDir)
	a := h.find(id)
	if a == nil {
		if other := h.in(box.path, id.IfName); other != nil && f.id == "" {
			return &adviceError{fmt.Sprintf("nothing is attached as %s; the %s of %s is, as %s", id.ContainerID, id.IfName, box.path,
				other.ContainerID), "name it: --id " + other.ContainerID}
		}
		if h.legible() == nil {
			return nil
		}
		a = &store.Attachment{ID: id, Network: contract.DefaultCNINetwork} // DEL removes a damaged one too
	}
	if a.PodName != "" {
		return &adviceError{fmt.Sprintf("%s is of the pod %s/%s: the container runtime has attached it", id.ContainerID, a.PodNamespace,
			a.PodName), "delete the pod"}
	}
	return h.del(ctx, *a)
}

// list is addresses in words.
func list(addresses []netip.Addr) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, " and ")
}
