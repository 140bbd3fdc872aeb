package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

func prefixList(texts string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range strings.Fields(texts) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func claimOf(node string, age int64, name, ranges, cidrs string) networkClaim {
	return networkClaim{node, age, view.Network{Name: name, Ranges: prefixList(ranges), CIDRs: prefixList(cidrs)}}
}

func TestSettleNetworks(t *testing.T) {
	for name, tc := range map[string]struct {
		claims  []networkClaim
		counted string // NODE/NETWORK, sorted
		refused string // NODE/NETWORK: a part of why
	}{
		"one network on three nodes": {
			[]networkClaim{claimOf("a", 1, "blue", "10.50.0.0/16 fd50::/48", "10.50.1.0/24 fd50:0:0:1::/64"),
				claimOf("b", 2, "blue", "10.50.0.0/16 fd50::/48", "10.50.2.0/24 fd50:0:0:2::/64"),
				claimOf("c", 3, "blue", "10.50.0.0/16 fd50::/48", "10.50.3.0/24 fd50:0:0:3::/64")}, "a/blue b/blue c/blue", ""},
		"two networks side by side": {
			[]networkClaim{claimOf("a", 1, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("a", 1, "red", "10.51.0.0/16", "10.51.1.0/24")}, "a/blue a/red", ""},
		"another range for a name: the older node's": {
			[]networkClaim{claimOf("a", 5, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("b", 2, "blue", "10.51.0.0/16", "10.51.2.0/24")},
			"b/blue", "a/blue: node b, which is older"},
		"of one age, the smaller name's": {
			[]networkClaim{claimOf("b", 0, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("a", 0, "blue", "10.51.0.0/16", "10.51.2.0/24")},
			"a/blue", "b/blue: node a, which is older"},
		"another name in the same range": {
			[]networkClaim{claimOf("a", 1, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("b", 2, "red", "10.50.128.0/20", "10.50.128.0/24")},
			"a/blue", "b/red: overlaps 10.50.0.0/16 of network blue on node a"},
		"a wider range of another name": {
			[]networkClaim{claimOf("a", 1, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("b", 2, "red", "10.48.0.0/13", "10.48.0.0/24")},
			"a/blue", "b/red: overlaps 10.50.0.0/16 of network blue on node a"},
		"the same part on two nodes": {
			[]networkClaim{claimOf("a", 1, "blue", "10.50.0.0/16", "10.50.1.0/24"), claimOf("b", 2, "blue", "10.50.0.0/16", "10.50.1.128/25")},
			"a/blue", "b/blue: its subnet 10.50.1.128/25 overlaps 10.50.1.0/24 of node a"},
		"in the pod range":     {[]networkClaim{claimOf("a", 1, "blue", "10.244.64.0/20", "10.244.64.0/24")}, "", "a/blue: the default network's pod range 10.244.0.0/16"},
		"around the pod range": {[]networkClaim{claimOf("a", 1, "blue", "10.240.0.0/12", "10.240.0.0/24")}, "", "a/blue: the default network's pod range 10.244.0.0/16"},
		"around a node":        {[]networkClaim{claimOf("a", 1, "blue", "192.0.0.0/16", "192.0.1.0/24")}, "", "a/blue: has 192.0.2.7 in it"},
		"one that doesn't count takes nothing": {
			[]networkClaim{claimOf("a", 1, "blue", "10.244.0.0/20", "10.244.1.0/24"), claimOf("b", 2, "blue", "10.50.0.0/16", "10.50.2.0/24")},
			"b/blue", "a/blue: the default network's pod range"},
	} {
		t.Run(name, func(t *testing.T) {
			counted, refused := settleNetworks(tc.claims, prefixList("10.244.1.0/24 10.244.0.0/16"), []netip.Addr{netip.MustParseAddr("192.0.2.7")})
			var names []string
			for node, networks := range counted {
				for _, n := range networks {
					names = append(names, node+"/"+n.Name)
				}
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != tc.counted {
				t.Errorf("%q count, want %q", got, tc.counted)
			}
			var texts []string
			for _, r := range refused {
				texts = append(texts, fmt.Sprintf("%s/%s: %s", r.node, r.network.Name, r.reason))
			}
			who, why, _ := strings.Cut(tc.refused, ": ")
			if got := strings.Join(texts, "\n"); len(texts) > 1 || (tc.refused == "") != (got == "") || !strings.HasPrefix(got, who) || !strings.Contains(got, why) {
				t.Errorf("refused are %q, want %q", got, tc.refused)
			}
		})
	}
}

// Every node decides alike, in whatever order it heard of what; and of what counts no two things overlap.
func TestSettlingIsOfOneMind(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var claims []networkClaim
		for node := range 6 {
			for network := range 4 {
				r := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rng.IntN(6)) * 32, 0, 0}), 8+rng.IntN(5)).Masked()
				cidr := netip.PrefixFrom(r.Addr(), 20+rng.IntN(3))
				claims = append(claims, networkClaim{fmt.Sprint("n", node), int64(rng.IntN(3)),
					view.Network{Name: fmt.Sprint("net", network), Ranges: []netip.Prefix{r}, CIDRs: []netip.Prefix{cidr}}})
			}
		}
		for i := range claims { // one node has one age
			claims[i].age = claims[i-i%4].age
		}
		counted, refused := settleNetworks(claims, nil, nil)
		rng.Shuffle(len(claims), func(i, j int) { claims[i], claims[j] = claims[j], claims[i] })
		again, refusedAgain := settleNetworks(claims, nil, nil)
		if !reflect.DeepEqual(counted, again) || !reflect.DeepEqual(refused, refusedAgain) {
			t.Fatalf("round %d: another order, another outcome:\n%v\n%v", round, counted, again)
		}
		var all []networkClaim
		for node, networks := range counted {
			for _, n := range networks {
				all = append(all, networkClaim{node: node, network: n})
			}
		}
		for i, a := range all {
			for _, b := range all[:i] {
				same := a.network.Name == b.network.Name
				switch {
				case same && a.network.Ranges[0] != b.network.Ranges[0], !same && a.network.Ranges[0].Overlaps(b.network.Ranges[0]),
					a.network.CIDRs[0].Overlaps(b.network.CIDRs[0]):
					t.Fatalf("round %d: both count: %+v and %+v", round, a, b)
				}
			}
		}
	}
}

// Many refused networks of others make few problems.
func TestFewProblemsOfManyRefusals(t *testing.T) {
	refused := []networkRefusal{{claimOf("z", 9, "own", "10.1.0.0/16", "10.1.0.0/24"), "no"}}
	for i := range 500 {
		refused = append(refused, networkRefusal{claimOf(fmt.Sprint("n", i), 1, "blue", "10.1.0.0/16", "10.1.0.0/24"), "no"})
	}
	problems := refusedNetworks("z", refused)
	if len(problems) != 1+maxRefusedNetworks+1 || problems[0].Subject != "network own" || problems[0].Warning {
		t.Errorf("%d problems, the first is %+v", len(problems), problems[0])
	}
	if last := problems[len(problems)-1]; !strings.Contains(last.Message, "490 more") || !last.Warning {
		t.Errorf("the last is %+v", last)
	}
}
