package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"golang.org/x/sys/unix"
)

// kernelTable is the table as the kernel has it. A nil one is none.
type kernelTable struct {
	flags  uint32 // in whatever byte order: ours has none
	chains map[string]*nftables.Chain
	rules  map[string][]*nftables.Rule // by chain
	sets   map[string]kernelSet
}

type kernelSet struct {
	keyType  string
	elements []nftables.SetElement
}

// read returns our table of a family, nil when there is none. It takes several exchanges, during which others may change things,
// so it reads again until nftables' generation is the same before and after. Where others never rest, the last look
// has to do: at worst the table is written once too often, or what is amiss is seen the next time.
func read(ctx context.Context, family nftables.TableFamily) (*kernelTable, error) {
	const attempts = 5
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	var (
		have    *kernelTable
		readErr error
	)
	for range attempts {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("reading the firewall table: %w", err)
		}
		before, err := generation()
		if err != nil {
			return nil, err
		}
		have, readErr = readOnce(conn, family)
		after, err := generation()
		if err != nil {
			return nil, err
		}
		if before == after {
			break
		}
	}
	return have, readErr
}

func readOnce(conn *nftables.Conn, family nftables.TableFamily) (*kernelTable, error) {
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("listing the nftables tables: %w", err)
	}
	var have *kernelTable
	for _, t := range tables {
		if t.Name == contract.FirewallTable {
			have = &kernelTable{flags: t.Flags,
				chains: make(map[string]*nftables.Chain), rules: make(map[string][]*nftables.Rule),
				sets: make(map[string]kernelSet)}
		}
	}
	if have == nil {
		return nil, nil
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("listing the nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != contract.FirewallTable {
			continue
		}
		have.chains[c.Name] = c
		if have.rules[c.Name], err = conn.GetRules(table(family), c); err != nil {
			return nil, fmt.Errorf("listing the rules of the firewall chain %s: %w", c.Name, err)
		}
	}
	sets, err := conn.GetSets(table(family))
	if err != nil {
		return nil, fmt.Errorf("listing the firewall's sets: %w", err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("listing the firewall set %s: %w", s.Name, err)
		}
		have.sets[s.Name] = kernelSet{keyType: s.KeyType.Name, elements: elements}
	}
	return have, nil
}

// generation is the number that nftables raises with each transaction, whoever made it.
func generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("connecting to nftables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("reading nftables' generation: %w", err)
	}
	for _, reply := range replies {
		attributes, err := netlink.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("reading nftables' generation: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, errors.New("reading nftables' generation: the kernel didn't tell it")
}

func comment(rule *nftables.Rule) string {
	text, _ := userdata.GetString(rule.UserData, userdata.TypeComment)
	return text
}

// counters returns the counters of our rules, by name.
func (t *kernelTable) counters() map[string]expr.Counter {
	counters := make(map[string]expr.Counter)
	if t == nil {
		return counters
	}
	for _, rules := range t.rules {
		for _, rule := range rules {
			name := ruleName(comment(rule))
			for _, e := range rule.Exprs {
				if counter, ok := e.(*expr.Counter); ok && name != "" {
					counters[name] = *counter
				}
			}
		}
	}
	return counters
}
