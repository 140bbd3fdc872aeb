package contract_test

import (
	"math"
	"net/netip"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

func TestPodAddresses(t *testing.T) {
	t.Parallel()
	for subnet, want := range map[string]uint64{
		"10.32.5.0/24": 253, "10.32.5.0/30": 1, "10.32.5.0/31": 0, "10.32.5.1/32": 0, "10.0.0.0/8": 1<<24 - 3, "0.0.0.0/0": 1<<32 - 3,
		"fd00::/120": 254, "fd00::/126": 2, "fd00::/127": 0, "fd00::/66": 1<<62 - 2, "fd00::/64": math.MaxInt64, "fd00::/8": math.MaxInt64,
	} {
		if got := contract.PodAddresses(netip.MustParsePrefix(subnet)); got != want {
			t.Errorf("%s has %d addresses for pods, want %d", subnet, got, want)
		}
	}
}

func TestGatewayIsFirstUsableAddress(t *testing.T) {
	for subnet, want := range map[string]string{
		"10.32.5.0/24":  "10.32.5.1",
		"10.32.5.77/24": "10.32.5.1",
		"10.32.0.0/12":  "10.32.0.1",
		"fd00:5::/64":   "fd00:5::1",
	} {
		if got := contract.Gateway(netip.MustParsePrefix(subnet)); got != netip.MustParseAddr(want) {
			t.Errorf("Gateway(%s) = %s, want %s", subnet, got, want)
		}
	}
}
