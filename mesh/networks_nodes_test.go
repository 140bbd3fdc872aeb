package mesh_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// A network's range that has a node's address in it isn't used, here or as another node's: that node would be cut off.
func TestNetworkRangeWithANode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	bad := view.Network{
		Name: "blue", Bridge: "weave-blue", Ranges: []netip.Prefix{netip.PrefixFrom(b.address(), 24).Masked()},
		CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/28")},
	}
	config := &configuration{}
	config.set(bad)
	w.config.Networks = config
	w.cluster.set(w.self.node(), b.node())
	theirs := bad
	theirs.Name, theirs.CIDRs = "red", []netip.Prefix{netip.MustParsePrefix("192.0.2.144/28")}
	document, said := b.writes(t, theirs)
	w.air.say(said)
	a := w.start(t)
	w.air.tell(parcel(document))
	s := a.pass()
	if len(s.Networks) != 0 || networksOf(s, "b") != "" {
		t.Errorf("own are %+v, b's %q", s.Networks, networksOf(s, "b"))
	}
	for _, network := range []string{"blue", "red"} {
		told := false
		for _, p := range s.Problems {
			told = told || strings.Contains(p.String(), network) && strings.Contains(p.Message, "which is the address of a node")
		}
		if !told {
			t.Errorf("nothing is said of %s: %+v", network, s.Problems)
		}
	}
}
