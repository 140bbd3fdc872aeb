package mesh

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestAddressProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		network, cidr string
		used          uint64
		want          string // "": none
		warning       bool
	}{
		{view.DefaultNetwork, "10.32.1.0/30", 0, "", false},
		{view.DefaultNetwork, "10.32.1.0/30", 1, "pod CIDR 10.32.1.0/30: it is full: all 1 addresses", false},
		{view.DefaultNetwork, "10.32.1.0/29", 4, "", false},
		{view.DefaultNetwork, "10.32.1.0/24", 240, "", false},
		{view.DefaultNetwork, "10.32.1.0/24", 241, "pod CIDR 10.32.1.0/24: it is nearly full: 12 of 253 addresses are free", true},
		{view.DefaultNetwork, "10.32.1.0/24", 253, "pod CIDR 10.32.1.0/24: it is full: all 253", false},
		{view.DefaultNetwork, "10.32.1.0/24", 300, "pod CIDR 10.32.1.0/24: it is full", false},
		{view.DefaultNetwork, "fd00::/126", 2, "pod CIDR fd00::/126: it is full: all 2", false},
		{view.DefaultNetwork, "fd00::/64", 1 << 40, "", false},
		{view.DefaultNetwork, "::/0", 1, "", false},
		{"blue", "10.50.1.0/30", 1, "network blue: CIDR 10.50.1.0/30: it is full", false},
	} {
		p, found := addressProblem(c.network, netip.MustParsePrefix(c.cidr), c.used)
		if found != (c.want != "") || !strings.HasPrefix(p.Subject+": "+p.Message, c.want) || p.Warning != c.warning || found && p.Remedy == "" {
			t.Errorf("%d of %s in use: %+v, want %q", c.used, c.cidr, p, c.want)
		}
	}
}

// A pass counts what is attached on this node, in each of its networks, every address once.
func TestFullCIDRsAreReported(t *testing.T) {
	t.Parallel()
	address := netip.MustParseAddr
	p := &pass{
		view: view.View{Self: view.Self{
			Name: "a", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.32.1.0/30"), netip.MustParsePrefix("fd00::/126")},
			Networks: []view.Network{{Name: "blue", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.50.1.0/30")}}},
		}},
		rosters: map[string]attachments{
			"a": {roster: []record.Attachment{
				{Name: "p", Interface: "eth0", Addresses: []netip.Addr{address("10.32.1.2"), address("fd00::2")}},
				{Name: "p", Interface: "eth0", Addresses: []netip.Addr{address("10.32.1.2"), address("fd00::2")}},
				{Name: "p", Interface: "net1", Network: "blue", Addresses: []netip.Addr{address("10.50.1.2")}},
			}},
			"b": {roster: []record.Attachment{{Name: "q", Interface: "eth0", Addresses: []netip.Addr{address("fd00::3")}}}},
		},
	}
	p.countAddresses()
	var subjects []string
	for _, problem := range p.problems {
		subjects = append(subjects, problem.Subject)
	}
	if got, want := strings.Join(subjects, ", "), "pod CIDR 10.32.1.0/30, network blue: CIDR 10.50.1.0/30"; got != want {
		t.Errorf("it reports %q, want %q", got, want)
	}
}
