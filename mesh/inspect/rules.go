package inspect

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/doctor"
)

// families are those of nftables that frames and packets of pods may meet.
var families = []struct {
	name   string
	family nftables.TableFamily
}{
	{"ip", nftables.TableFamilyIPv4}, {"ip6", nftables.TableFamilyIPv6}, {"inet", nftables.TableFamilyINet}, {"bridge", nftables.TableFamilyBridge},
}

// chains are those of others.
func chains() ([]doctor.Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("the firewalls of others: %w", err)
	}
	all := []doctor.Chain{}
	for _, f := range families {
		list, err := conn.ListChainsOfTableFamily(f.family)
		if err != nil {
			if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
				continue
			}
			return nil, fmt.Errorf("the firewalls of others: listing the nftables chains of %s: %w", f.name, err)
		}
		for _, c := range list {
			if c.Table.Name == contract.FirewallTable {
				continue
			}
			chain := doctor.Chain{Family: f.name, Table: c.Table.Name, Name: c.Name}
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter {
				chain.Forwards = true
				chain.Drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
			}
			all = append(all, chain)
		}
	}
	return all, nil
}

// tryRules makes tables of the two families that Weaveguard uses, in a network namespace that nobody else is in.
func tryRules() (rules, bridge doctor.Answer, err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("whether the kernel has nftables: trying it takes CAP_SYS_ADMIN: %w", err)
			return
		}
		rules, bridge = tryTable(nftables.TableFamilyINet), tryTable(nftables.TableFamilyBridge)
	})
	return rules, bridge, err
}

// onThread runs fn on a thread that ends with it, and its namespaces do too. That is never the main thread, which doesn't end, and
// whose namespaces are what /proc/self shows.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it isn't unlocked, so the runtime ends the thread
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		defer runtime.UnlockOSThread()
		onThread(fn) // which gets another thread while this one has the main one
	}()
	<-done
}

func tryTable(family nftables.TableFamily) doctor.Answer {
	conn, err := nftables.New()
	if err != nil {
		return doctor.No
	}
	table := conn.AddTable(&nftables.Table{Family: family, Name: contract.FirewallTable})
	conn.AddChain(&nftables.Chain{Name: "try", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
	if err := conn.Flush(); err != nil {
		return doctor.No
	}
	return doctor.Yes
}
