package route

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// disableIPv6 is the kernel setting that turns IPv6 off on an interface, or on all.
const disableIPv6 = "net/ipv6/conf/%s/disable_ipv6"

// withFamilies makes a device of ours, whose MTU is set, take these addresses, and returns those that it can have. A host may
// have its new interfaces made without IPv6. One that has IPv6 off altogether is left so.
func (a *Applier) withFamilies(c *changes, device string, addresses []netip.Prefix) []netip.Prefix {
	is6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	first := slices.IndexFunc(addresses, is6)
	if first < 0 {
		return addresses
	}
	off, err := os.ReadFile(filepath.Join(a.sysctlRoot, fmt.Sprintf(disableIPv6, "all")))
	if err == nil && bytes.Equal(bytes.TrimSpace(off), []byte("0")) {
		a.sysctl(c, contract.Sysctl{Key: fmt.Sprintf(disableIPv6, device), Value: "0"})
		return addresses
	}
	c.fail(fmt.Errorf("%s can't have the address %s: this host's kernel has no IPv6, or has it off; turn it on "+
		"(`sysctl -w net.ipv6.conf.all.disable_ipv6=0`), or give the node pod CIDRs of IPv4 alone", device, addresses[first]))
	return slices.DeleteFunc(slices.Clone(addresses), is6)
}
