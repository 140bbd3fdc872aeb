package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"golang.org/x/sys/unix"
)

const (
	// elementsPerMessage keeps a message's list of elements within a netlink attribute (64 KiB). It is even: the
	// two ends of an interval stay together.
	elementsPerMessage = 500
	// commentPrefix begins the comment of each of our rules: then its name, and the hash of its content.
	commentPrefix = "weaveguard:"
)

// difference is what has to be written, in one transaction.
//
// Mostly that is done in place: only elements that differ, the rules of chains that differ, and sets and chains that a
// former version of this program didn't have. A transaction is
// atomic to those who read the table, but not quite to a packet that is being looked at: a processor may evaluate
// the old rules, and look into a set whose elements are gone at that moment, or come by the list of chains from
// before. So a packet can slip through when a table is deleted and added, even in one transaction (seen on kernel
// 6.18). A chain's rules are swapped as one, and elements that stay are always there.
type difference struct {
	family nftables.TableFamily
	whole  bool   // delete the table and add it
	reason string // of whole
	sets   []setChange
	chains []chain // whose rules are replaced
	made   []chain // that aren't there yet; their rules are among chains
}

type setChange struct {
	set
	made        bool // it isn't there yet
	add, remove []nftables.SetElement
}

func (d difference) empty() bool { return !d.whole && len(d.sets) == 0 && len(d.chains) == 0 }

// all is the difference from nothing.
func (r ruleset) all(reason string) difference {
	d := difference{family: r.family, whole: true, reason: reason, chains: r.chains, made: r.chains}
	for _, set := range r.sets {
		d.sets = append(d.sets, setChange{set: set, made: true, add: set.elements})
	}
	return d
}

// difference compares with the kernel's table. The hash in a rule's comment stands for the rule's content; all
// else is compared itself.
func (r ruleset) difference(have *kernelTable) (difference, error) {
	if reason := r.misshapen(have); reason != "" {
		return r.all(reason), nil
	}
	d := difference{family: r.family}
	for _, set := range r.sets {
		kernel := have.sets[set.name].elements
		_, there := have.sets[set.name]
		change := setChange{set: set, made: !there, add: missing(set.elements, kernel), remove: missing(kernel, set.elements)}
		if change.made || len(change.add) > 0 || len(change.remove) > 0 {
			d.sets = append(d.sets, change)
		}
	}
	for _, chain := range r.chains {
		if have.chains[chain.name] == nil {
			d.made, d.chains = append(d.made, chain), append(d.chains, chain)
			continue
		}
		var want, kernel []string
		for _, rule := range chain.rules {
			comment, err := rule.comment(r.family)
			if err != nil {
				return d, err
			}
			want = append(want, comment)
		}
		for _, rule := range have.rules[chain.name] {
			kernel = append(kernel, comment(rule))
		}
		if !slices.Equal(want, kernel) {
			d.chains = append(d.chains, chain)
		}
	}
	return d, nil
}

// misshapen says why the kernel's table can't be changed in place; "" when it can.
func (r ruleset) misshapen(have *kernelTable) string {
	switch {
	case have == nil:
		return "there is none"
	case have.flags != 0:
		return "it is dormant or owned"
	}
	for name, kernel := range have.chains {
		if !slices.ContainsFunc(r.chains, func(want chain) bool { return want.name == name && want.same(kernel) }) {
			return "the chain " + name
		}
	}
	for name, kernel := range have.sets {
		if !slices.ContainsFunc(r.sets, func(want set) bool { return want.name == name && want.keyType.Name == kernel.keyType }) {
			return "the set " + name
		}
	}
	return ""
}

func (c chain) same(have *nftables.Chain) bool {
	return have != nil && have.Type == c.kind && have.Hooknum != nil && *have.Hooknum == *c.hook &&
		have.Priority != nil && *have.Priority == c.priority &&
		have.Policy != nil && *have.Policy == nftables.ChainPolicyAccept
}

func (r rule) expressions(counter expr.Counter) []expr.Any {
	all := slices.Clone(r.match)
	if r.counted {
		all = append(all, &counter)
	}
	return append(all, r.verdict...)
}

// comment names a rule, with a hash of all that the kernel is told of it, but for the count.
func (r rule) comment(family nftables.TableFamily) (string, error) {
	hash := sha256.New()
	for _, e := range r.expressions(expr.Counter{}) {
		raw, err := expr.Marshal(byte(family), e)
		if err != nil {
			return "", fmt.Errorf("encoding the firewall rule %s: %w", r.name, err)
		}
		hash.Write(raw)
	}
	return commentPrefix + r.name + ":" + hex.EncodeToString(hash.Sum(nil)[:8]), nil
}

// ruleName is the reverse of comment; "" for a rule that isn't ours.
func ruleName(comment string) string {
	name, ours := strings.CutPrefix(comment, commentPrefix)
	if at := strings.LastIndexByte(name, ':'); ours && at > 0 {
		return name[:at]
	}
	return ""
}

// write makes one transaction. New rules go on counting from the counters of those that they replace, by name.
func (d difference) write(counters map[string]expr.Counter) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	table := table(d.family)
	if d.whole {
		conn.AddTable(table) // so that there is one to delete
		conn.DelTable(table)
		conn.AddTable(table)
	}
	for _, set := range d.sets {
		if err := set.write(conn, table); err != nil {
			return fmt.Errorf("encoding the firewall set %s: %w", set.name, err)
		}
	}
	for _, changed := range d.chains {
		made := slices.ContainsFunc(d.made, func(c chain) bool { return c.name == changed.name })
		if err := changed.write(conn, table, made, counters); err != nil {
			return err
		}
	}
	return explain(d.family, conn.Flush())
}

// writeApart is write for when somebody else changes the sets as well: the plugin does, as pods come and go. The kernel
// refuses a whole transaction that removes what isn't there any more, so each removal is one of its own here, and one
// that comes too late is none.
func (d difference) writeApart(counters map[string]expr.Counter) error {
	kept, removed := d, []setChange(nil)
	kept.sets = nil
	for _, s := range d.sets {
		kept.sets = append(kept.sets, setChange{set: s.set, made: s.made, add: s.add})
		for _, entry := range entries(s.remove) {
			removed = append(removed, setChange{set: s.set, remove: entry})
		}
	}
	if err := kept.write(counters); err != nil {
		return err
	}
	for _, s := range removed {
		err := difference{family: d.family, sets: []setChange{s}}.write(nil)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func explain(family nftables.TableFamily, err error) error {
	name, modules := "inet "+contract.FirewallTable, "nf_tables, nft_chain_nat, nft_nat, nft_masq"
	if family == nftables.TableFamilyBridge {
		name, modules = "bridge "+contract.FirewallTable, "nf_tables with CONFIG_NF_TABLES_BRIDGE"
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("writing the firewall table %s: the kernel may lack a part of nftables (modules %s): %w", name,
			modules, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("writing the firewall table %s: the capability NET_ADMIN is missing, or another program "+
			"owns the table (`nft list tables`): %w", name, err)
	case err != nil:
		return fmt.Errorf("writing the firewall table %s: %w", name, err)
	}
	return nil
}

func (s setChange) write(conn *nftables.Conn, table *nftables.Table) error {
	kernel := &nftables.Set{Table: table, Name: s.name, KeyType: s.keyType, KeyByteOrder: binaryutil.BigEndian,
		Interval: s.interval, Concatenation: s.concat}
	if s.keyType == nftables.TypeIFName {
		kernel.KeyByteOrder = binaryutil.NativeEndian // how nft shows names
	}
	if s.made {
		if err := conn.AddSet(kernel, nil); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(s.remove, elementsPerMessage) {
		if err := conn.SetDeleteElements(kernel, chunk); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(s.add, elementsPerMessage) {
		if err := conn.SetAddElements(kernel, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (c chain) write(conn *nftables.Conn, table *nftables.Table, create bool, counters map[string]expr.Counter) error {
	policy := nftables.ChainPolicyAccept
	kernel := &nftables.Chain{Name: c.name, Table: table, Type: c.kind, Hooknum: c.hook, Priority: &c.priority,
		Policy: &policy}
	if create {
		conn.AddChain(kernel)
	} else {
		conn.FlushChain(kernel)
	}
	for _, rule := range c.rules {
		comment, err := rule.comment(table.Family)
		if err != nil {
			return err
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: kernel, Exprs: rule.expressions(counters[rule.name]),
			UserData: userdata.AppendString(nil, userdata.TypeComment, comment)})
	}
	return nil
}
