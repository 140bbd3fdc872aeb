package mesh

import (
	"net/netip"
	"strings"
	"testing"

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
