package main

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

func TestClaimOptions(t *testing.T) {
	t.Parallel()
	range4, block := netip.MustParsePrefix("10.40.0.0/16"), netip.MustParsePrefix("10.40.1.0/24")
	had := mesh.RememberedSelf{Node: "n1", PodCIDRs: []netip.Prefix{block}}
	for name, c := range map[string]struct {
		options options
		want    kube.Claims
		err     string
	}{
		"usual": {options: options{Claim: "auto"}, want: kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64}},
		"never": {options: options{Claim: "never"}, want: kube.Claims{Mode: kube.ClaimNever, Bits4: 24, Bits6: 64}},
		"chosen": {options: options{Claim: "always", MaskSize: 26, MaskSize6: 80, podRanges: []netip.Prefix{range4}, NodeName: "n1", Kubernetes: true},
			want: kube.Claims{Mode: kube.ClaimAlways, Ranges: []netip.Prefix{range4}, Bits4: 26, Bits6: 80, Explicit: true,
				Last: []netip.Prefix{block}}},
		"another node's disk": {options: options{Claim: "auto", NodeName: "n2"}, want: kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64}},
		"unknown":             {options: options{Claim: "yes"}, err: `--claim is "yes": it takes auto, always or never`},
		"no room":             {options: options{Claim: "auto", MaskSize: 31, Kubernetes: true}, err: "--node-cidr-mask-size is 31"},
		"no room, IPv6":       {options: options{Claim: "auto", MaskSize6: 127, Kubernetes: true}, err: "--node-cidr-mask-size-ipv6 is 127"},
		"given":               {options: options{Claim: "auto", MaskSize: 24, podCIDRs: []netip.Prefix{block}}, err: "--pod-cidr"},
		"too large a block":   {options: options{Claim: "auto", MaskSize: 12, podRanges: []netip.Prefix{range4}}, err: "a block of /12 doesn't fit into 10.40.0.0/16"},
	} {
		err := c.options.checkClaims()
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		if got := c.options.claims(had); c.err == "" && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// Without Kubernetes a node claims what it isn't given, unless it is told not to.
func TestPlainClaims(t *testing.T) {
	t.Parallel()
	range4, range6 := netip.MustParsePrefix("10.40.0.0/16"), netip.MustParsePrefix("fd40::/48")
	for name, c := range map[string]struct {
		options options
		want    []claim.Range
	}{
		"usual":           {options{Claim: "auto"}, []claim.Range{{Prefix: netip.MustParsePrefix("10.32.0.0/12"), Bits: 24}}},
		"both families":   {options{Claim: "auto", MaskSize: 26, podRanges: []netip.Prefix{range4, range6}}, []claim.Range{{Prefix: range4, Bits: 26}, {Prefix: range6, Bits: 64}}},
		"given":           {options{Claim: "auto", podCIDRs: []netip.Prefix{netip.MustParsePrefix("10.40.1.0/24")}}, nil},
		"never":           {options{Claim: "never"}, nil},
		"with Kubernetes": {options{Claim: "auto", Kubernetes: true}, nil},
	} {
		if got := c.options.plainClaims(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
