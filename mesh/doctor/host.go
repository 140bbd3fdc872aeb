package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// leastKernel is the first release of the kernel with WireGuard and all else that is needed.
var leastKernel = [2]int{5, 6}

// wireGuard is whether tunnels can be made.
func wireGuard(f Facts) ([]Finding, string) {
	h := f.Host
	switch {
	case h.WireGuard == Yes:
		return nil, "the kernel " + h.Kernel + " has WireGuard"
	case f.Agent != nil && len(f.Agent.Devices) > 0:
		return nil, fmt.Sprintf("WireGuard runs in %s (kernel %s)", f.Agent.WireGuard, h.Kernel)
	case h.WireGuard == No && h.TUN == No:
		return []Finding{{
			Subject: "WireGuard", Message: "the kernel " + h.Kernel + " has no WireGuard, and there is no /dev/net/tun for WireGuard in userspace, " +
				"so no tunnel can be made",
			Found:  "the kernel was asked for WireGuard, and /dev/net/tun was looked for",
			Remedy: "load one of the two: `modprobe wireguard`" + older(h.Kernel) + ", or `modprobe tun`, and keep it in /etc/modules-load.d",
			rank:   rankHost,
		}}, ""
	case h.WireGuard == No && h.TUN == Yes:
		return nil, "the kernel " + h.Kernel + " has no WireGuard, and /dev/net/tun is there for WireGuard in userspace"
	}
	return nil, ""
}

// older is what to say of a kernel that can't have WireGuard.
func older(release string) string {
	var number [2]int
	for i, text := range strings.SplitN(release, ".", 3) {
		if i < len(number) {
			number[i], _ = strconv.Atoi(text) // 0 where it isn't a number
		}
	}
	if number[0] > 0 && slices.Compare(number[:], leastKernel[:]) < 0 {
		return fmt.Sprintf(" (a kernel has it from %d.%d on)", leastKernel[0], leastKernel[1])
	}
	return ""
}

// rules is whether the firewall can be made.
func rules(f Facts) ([]Finding, string) {
	h := f.Host
	switch {
	case h.Rules == No:
		return []Finding{{
			Subject: "nftables", Message: "the kernel " + h.Kernel + " has no nf_tables, so pods' traffic can't be kept from leaving in the clear",
			Found: "a table was made in a network namespace of its own", Remedy: "`modprobe nf_tables nft_chain_nat`, or another kernel", rank: rankHost,
		}}, ""
	case h.BridgeRules == No:
		return []Finding{{
			Subject: "nftables", Message: "the kernel " + h.Kernel + " has no nf_tables for bridges, so pods can't be kept from sending under others' addresses",
			Found: "a bridge table was made in a network namespace of its own", Remedy: "`modprobe nf_tables_bridge nft_meta_bridge`, or another kernel", rank: rankHost,
		}}, ""
	case h.Rules == Yes && h.BridgeRules == Yes:
		return nil, "the kernel has nftables, also for bridges"
	}
	return nil, ""
}

// ports are Weaveguard's, and others may hold them.
func ports(f Facts) ([]Finding, string) {
	var findings []Finding
	for _, s := range f.Host.Sockets {
		if s.Own || s.Program == "" && s.Device == "" && f.uses(s.Port) {
			continue
		}
		holder, remedy := "another program, which can't be seen from here", "find it with `ss -anp sport = :"+fmt.Sprint(s.Port)+"` as root on the node, and stop it"
		switch {
		case s.Device != "":
			holder = "the WireGuard device " + s.Device
			remedy = "give that device another port (`wg set " + s.Device + " listen-port PORT`, and in its configuration)"
		case s.Program != "":
			holder = fmt.Sprintf("the program %s (process %d)", s.Program, s.PID)
			remedy = "stop it, or give it another port; the agent goes on by itself then"
		}
		findings = append(findings, Finding{
			Subject: fmt.Sprintf("%s port %d", strings.ToUpper(s.Protocol), s.Port),
			Message: fmt.Sprintf("%s holds it, and %s needs it", holder, purpose(s)), Found: "the host's sockets", Remedy: remedy, rank: rankHost,
		})
	}
	return findings, "no other program holds UDP port 51820 to 51823, or UDP or TCP port 6783"
}

// uses reports whether the agent says that it holds a port.
func (f Facts) uses(port uint16) bool {
	if f.Agent == nil {
		return false
	}
	return port == contract.GossipPort && f.Agent.Gossip.Address != "" ||
		slices.ContainsFunc(f.Agent.Devices, func(d view.DeviceStatus) bool { return d.ListenPort == port })
}

func purpose(s Socket) string {
	if s.Port == contract.GossipPort {
		return "gossip"
	}
	return "a tunnel"
}

// settings are what the kernel must be told. The agent sees to them while it runs.
func settings(f Facts) ([]Finding, string) {
	var findings []Finding
	wrong := func(key, why, remedy string) {
		value := f.Host.Settings[key]
		if f.Agent != nil {
			remedy = "the agent sets it within a second; if this finding stays, find what changes it again: look for it with `grep -rs " +
				key[strings.LastIndex(key, "/")+1:] + " /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d`"
		}
		subject := settingSubject(key)
		if slices.ContainsFunc(findings, func(f Finding) bool { return f.Subject == subject }) {
			return
		}
		findings = append(findings, Finding{Subject: subject, Message: "it is " + value + ": " + why, Found: "/proc/sys/" + key, Remedy: remedy, rank: rankChange})
	}
	start := "start the agent, which sets it; without it: "
	if f.Host.Settings["net/ipv4/ip_forward"] == "0" && (f.Agent == nil || f.Agent.Ready) {
		wrong("net/ipv4/ip_forward", "this host forwards no packet, so pods reach nobody but their own host", start+"`sysctl net.ipv4.ip_forward=1`")
	}
	if f.Host.Settings["net/ipv6/conf/all/forwarding"] == "0" && f.Agent != nil && f.Agent.Ready && slices.ContainsFunc(f.Agent.PodCIDRs, is6) {
		wrong("net/ipv6/conf/all/forwarding", "this host forwards no IPv6 packet, so pods reach nobody but their own host by IPv6", "")
	}
	for _, l := range f.Host.Links {
		key := "net/ipv4/conf/" + l.Name + "/rp_filter"
		if contract.IsDeviceName(l.Name) && strict(f.Host.Settings, l.Name) {
			because := ""
			if f.Host.Settings[key] != "1" {
				because = "net/ipv4/conf/all/rp_filter is 1, of which the kernel takes the larger, so "
			}
			wrong(key, because+"the reverse path filter of the tunnel is strict: packets are dropped that come by another tunnel than they "+
				"would go, as while a key changes", start+"`sysctl net.ipv4.conf."+l.Name+".rp_filter=2`")
		}
	}
	for _, l := range f.Host.Links {
		if l.Kind != "bridge" || l.Alias != contract.BridgeAlias {
			continue
		}
		for _, family := range []string{"iptables", "ip6tables", "arptables"} {
			key := "net/bridge/bridge-nf-call-" + family
			if f.Host.Settings[key] == "1" {
				wrong(key, "iptables see what pods of this host send each other, and drop answers of Services to them",
					start+"`sysctl "+strings.ReplaceAll(key, "/", ".")+"=0`")
			}
		}
	}
	if len(f.Host.Settings) == 0 {
		return nil, ""
	}
	return findings, "the kernel forwards packets, and no tunnel has a strict reverse path filter"
}

// strict reports whether an interface's reverse path filter is strict: the kernel takes the larger of its value and that of "all".
func strict(settings map[string]string, device string) bool {
	all, own := settings["net/ipv4/conf/all/rp_filter"], settings["net/ipv4/conf/"+device+"/rp_filter"]
	return max(all, own) == "1"
}

func is6(p netip.Prefix) bool { return p.Addr().Is6() }

// bridge is whether something else has the name of our bridge.
func bridge(f Facts) ([]Finding, string) {
	if f.Agent != nil {
		return nil, "" // it says so itself
	}
	for _, l := range f.Host.Links {
		if l.Name != contract.BridgeName {
			continue
		}
		var addresses []netip.Prefix
		for _, a := range f.Host.Addresses {
			if a.Device == l.Name {
				addresses = append(addresses, a.Address)
			}
		}
		if err := contract.ForeignBridge(l, addresses, l.MAC); err != nil && !weaveNet(f.Host).any() {
			message, remedy, _ := strings.Cut(err.Error(), "; ")
			return []Finding{{Subject: "bridge " + l.Name, Message: message, Found: "the host's interfaces", Remedy: remedy, rank: rankHost}}, ""
		}
	}
	return nil, ""
}

// overlaps are addresses and routes of the host among those of pods that the agent doesn't tell of.
func overlaps(f Facts) ([]Finding, string) {
	if f.Agent == nil || len(f.Agent.PodRanges)+len(f.Agent.PodCIDRs) == 0 {
		return nil, ""
	}
	ranges := slices.Concat(f.Agent.PodRanges, f.Agent.PodCIDRs)
	for _, peer := range f.Agent.Peers {
		ranges = append(ranges, peer.PodCIDRs...)
	}
	for _, n := range f.Agent.Networks {
		ranges = append(ranges, n.Ranges...)
	}
	own := func(device string) bool {
		return contract.IsDeviceName(device) || device == contract.BridgeName || slices.ContainsFunc(f.Host.Links, func(l contract.HostLink) bool {
			return l.Name == device && (l.Alias == contract.BridgeAlias || slices.Contains(f.Host.ports(), device))
		})
	}
	var findings []Finding
	report := func(subject, what, where string, in netip.Prefix) {
		findings = append(findings, Finding{
			Subject: subject, Warning: true, Message: fmt.Sprintf("%s of this host is among the addresses of pods, %s", what, in), Found: "the host's " + where,
			Remedy: "give the host's network other addresses, or choose another range for pods: two hosts with one address don't reach each other",
		})
	}
	for _, r := range ranges {
		for _, a := range f.Host.Addresses {
			if r.Contains(a.Address.Addr()) && !own(a.Device) && !f.mentions(a.Address.Addr().String()) && !told(findings, "address "+a.Address.Addr().String()) {
				report("address "+a.Address.Addr().String(), "this address on "+a.Device, "addresses", r)
			}
		}
		for _, route := range f.Host.Routes {
			if route.Destination.Bits() > 0 && r.Overlaps(route.Destination) && !own(route.Device) && !f.mentions(route.Destination.String()) &&
				!told(findings, "route "+route.Destination.String()) {
				report("route "+route.Destination.String(), "where this route (by "+route.Device+") leads", "routes", r)
			}
		}
	}
	return findings, "no address or route of the host is among those of pods"
}

func told(findings []Finding, subject string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Subject == subject })
}

// ports are the names of all bridges' ports.
func (h Host) ports() []string {
	var all []string
	for _, l := range h.Links {
		all = append(all, l.Ports...)
	}
	return all
}

// dropped is whether a firewall of others drops what the host forwards.
func dropped(f Facts) ([]Finding, string) {
	var findings []Finding
	for _, c := range f.Host.Chains {
		if !c.Forwards || !c.Drops {
			continue
		}
		table := c.Family + " " + c.Table
		finding := Finding{
			Subject: "firewall", Warning: true,
			Message: fmt.Sprintf("the chain %s of the nftables table %s drops what this host forwards, unless a rule of it accepts that; whether "+
				"one accepts all that pods send can't be told", c.Name, table),
			Found:  fmt.Sprintf("its policy is drop: `nft list chain %s %s`", table, c.Name),
			Remedy: "if pods don't reach others, let their traffic pass there: what goes in or out by the bridge `weave` and by `weave-wg0` to `weave-wg3`",
		}
		if c.Family == "ip" || c.Family == "ip6" {
			program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.Family]
			finding.Remedy += fmt.Sprintf(" (`%s -I FORWARD -i weave -j ACCEPT; %s -I FORWARD -o weave -j ACCEPT`)", program, program)
		}
		findings = append(findings, finding)
	}
	if f.Host.Chains == nil && f.Host.Rules == Unknown {
		return findings, ""
	}
	return findings, "no nftables chain of others drops what is forwarded by default"
}
