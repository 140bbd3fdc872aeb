package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

const sysctlDir = "/proc/sys/"

// setSysctls sets what differs, in the network namespace of the calling thread.
func setSysctls(settings []contract.Sysctl) error {
	for _, s := range settings {
		value, err := readSysctl(s.Key)
		if s.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the kernel setting %s: %w", s.Key, err)
		}
		if value == s.Value {
			continue
		}
		if err := os.WriteFile(sysctlDir+s.Key, []byte(s.Value), 0); err != nil {
			return fmt.Errorf("changing the kernel setting %s from %s to %s: %w", s.Key, value, s.Value, err)
		}
	}
	return nil
}

// checkSysctls returns a line for each setting that differs.
func checkSysctls(settings []contract.Sysctl, where string) []string {
	var differs []string
	for _, s := range settings {
		value, err := readSysctl(s.Key)
		switch {
		case s.Optional && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			differs = append(differs, fmt.Sprintf("the kernel setting %s %s can't be read: %v", s.Key, where, err))
		case value != s.Value:
			differs = append(differs, fmt.Sprintf("the kernel setting %s %s is %s, not %s", s.Key, where, value, s.Value))
		}
	}
	return differs
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(sysctlDir + key)
	return strings.TrimSpace(string(b)), err
}

// sandboxSysctls are set before the interface is made, which takes them from default: so there is no moment at
// which it listens to redirects or router advertisements.
func sandboxSysctls(withIPv6 bool) []contract.Sysctl {
	var all []contract.Sysctl
	for _, conf := range []string{"all", "default"} {
		all = append(all, contract.Sysctl{Key: "net/ipv4/conf/" + conf + "/accept_redirects", Value: "0"},
			contract.Sysctl{Key: "net/ipv6/conf/" + conf + "/accept_redirects", Value: "0", Optional: true},
			contract.Sysctl{Key: "net/ipv6/conf/" + conf + "/accept_ra", Value: "0", Optional: true})
	}
	if withIPv6 {
		// The link-local address follows from the MAC (EUI-64, RFC 4291, appendix A), whatever the host has passed on: it is the
		// one that the pod's guard lets its neighbour discovery come from.
		all = append(all, contract.Sysctl{Key: "net/ipv6/conf/default/disable_ipv6", Value: "0"},
			contract.Sysctl{Key: "net/ipv6/conf/default/addr_gen_mode", Value: "0"})
	}
	return all
}

// interfaceSysctls are what CHECK wants to find on a sandbox's interface.
func interfaceSysctls(name string, withIPv6 bool) []contract.Sysctl {
	v6 := "net/ipv6/conf/" + name + "/"
	all := []contract.Sysctl{
		{Key: "net/ipv4/conf/all/accept_redirects", Value: "0"},
		{Key: "net/ipv4/conf/" + name + "/accept_redirects", Value: "0"},
		{Key: v6 + "accept_redirects", Value: "0", Optional: true},
		{Key: v6 + "accept_ra", Value: "0", Optional: true},
	}
	if withIPv6 {
		all = append(all, contract.Sysctl{Key: v6 + "disable_ipv6", Value: "0"})
	}
	return all
}

// forwardingSysctls are the agent's to set; the plugin only looks.
func forwardingSysctls(subnets []Subnet) []contract.Sysctl {
	var all []contract.Sysctl
	for _, s := range subnets {
		if s.Gateway.Is4() {
			all = append(all, contract.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"})
		} else {
			all = append(all, contract.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"})
		}
	}
	return all
}
