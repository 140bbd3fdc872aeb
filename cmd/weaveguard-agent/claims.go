package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// The lengths of the blocks that nodes claim, as kube-controller-manager's are by default.
const (
	maskSize  = 24
	maskSize6 = 64
)

func (o *options) registerClaims(f *pflag.FlagSet) {
	f.StringVar(&o.Claim, "claim", "auto", "auto, always or never: whether this node claims a pod CIDR from the pod range (by default "+
		kube.DefaultRange+") when nobody gives it one")
	f.IntVar(&o.MaskSize, "node-cidr-mask-size", 0, fmt.Sprintf("length of the IPv4 block that a node claims (default %d)", maskSize))
	f.IntVar(&o.MaskSize6, "node-cidr-mask-size-ipv6", 0, fmt.Sprintf("length of the IPv6 block that a node claims (default %d)", maskSize6))
}

func claimMode(text string) (kube.ClaimMode, bool) {
	mode, ok := map[string]kube.ClaimMode{"auto": kube.ClaimAuto, "always": kube.ClaimAlways, "never": kube.ClaimNever}[text]
	return mode, ok
}

// checkClaims checks what can be without knowing the cluster.
func (o *options) checkClaims() error {
	if _, ok := claimMode(o.Claim); !ok {
		return fmt.Errorf("--claim is %q: it takes auto, always or never", o.Claim)
	}
	if o.MaskSize < 0 || o.MaskSize > 30 {
		return fmt.Errorf("--node-cidr-mask-size is %d: it takes 8 to 30", o.MaskSize)
	}
	if o.MaskSize6 < 0 || o.MaskSize6 > 126 {
		return fmt.Errorf("--node-cidr-mask-size-ipv6 is %d: it takes 16 to 126", o.MaskSize6)
	}
	if len(o.podCIDRs) > 0 && (o.MaskSize != 0 || o.MaskSize6 != 0) {
		return errors.New("--node-cidr-mask-size is for nodes that claim their pod CIDRs, and --pod-cidr gives this one its own")
	}
	for _, r := range o.plainClaims() {
		if err := r.Check(); err != nil {
			return fmt.Errorf("nothing can be claimed: %w; correct --pod-range, --node-cidr-mask-size and --node-cidr-mask-size-ipv6", err)
		}
	}
	return nil
}

// plainClaims are what a node without Kubernetes claims from, if it isn't given its pod CIDRs.
func (o *options) plainClaims() []claim.Range {
	if o.Kubernetes || len(o.podCIDRs) > 0 || o.Claim == "never" {
		return nil
	}
	c := o.claims(mesh.RememberedSelf{})
	if len(c.Ranges) == 0 {
		c.Ranges = []netip.Prefix{netip.MustParsePrefix(kube.DefaultRange)}
	}
	return c.Cut(c.Ranges)
}

// claims is how this node claims pod CIDRs. What it had before, it takes again.
func (o *options) claims(had mesh.RememberedSelf) kube.Claims {
	c := kube.Claims{
		Ranges: o.podRanges, Bits4: maskSize, Bits6: maskSize6,
		Explicit: len(o.podRanges) > 0 || o.MaskSize != 0 || o.MaskSize6 != 0,
	}
	c.Mode, _ = claimMode(o.Claim) // it was checked
	if o.MaskSize != 0 {
		c.Bits4 = o.MaskSize
	}
	if o.MaskSize6 != 0 {
		c.Bits6 = o.MaskSize6
	}
	if had.Node == o.NodeName {
		c.Last = had.PodCIDRs
	}
	return c
}
