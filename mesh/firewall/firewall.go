package firewall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

const (
	// socketBuffer is the size in bytes of a socket's buffers: a transaction goes to the kernel in one piece.
	socketBuffer = 8 << 20
	// kernelPatience bounds each exchange with the kernel, which answers at once or (out of memory) not at all.
	kernelPatience = 30 * time.Second
	// elementsPerMessage keeps a message's list of elements within a netlink attribute (64 KiB). It is even: the
	// two ends of an interval stay together.
	elementsPerMessage = 1000
	// commentPrefix begins the comment of each of our rules: then its name, and the hash of the whole table.
	commentPrefix = "weaveguard:"
)

// Config is what an Applier needs.
type Config struct {
	Log *slog.Logger
}

// Applier keeps the table. It has no state: what it needs to know it reads from the kernel.
type Applier struct {
	log *slog.Logger
}

// New returns an Applier for the network namespace of its callers.
func New(config Config) *Applier { return &Applier{log: config.Log} }

// Apply makes the table the wanted one, in one transaction: there is no moment without rules, and connections keep
// their NAT. It returns 1 when it wrote the table, and 0 when it was as wanted. Counters live on.
func (a *Applier) Apply(ctx context.Context, want view.Firewall) (int, error) {
	rules := plan(want)
	hash, err := rules.hash()
	if err != nil {
		return 0, err
	}
	have, err := read(ctx)
	if err != nil {
		return 0, err
	}
	difference := rules.difference(hash, have)
	if difference == "" {
		return 0, nil
	}
	if err := rules.write(hash, have.counters()); err != nil {
		return 0, err
	}
	a.log.Debug("replaced the firewall table", "reason", difference, "hash", hash)
	return 1, nil
}

// Cleanup removes the table. It returns 1 when there was one.
func (a *Applier) Cleanup(ctx context.Context) (int, error) {
	have, err := read(ctx)
	if err != nil || have == nil {
		return 0, err
	}
	conn, err := connect()
	if err != nil {
		return 0, err
	}
	conn.DelTable(table())
	if err := conn.Flush(); err != nil {
		return 0, fmt.Errorf("removing the firewall table %s: %w", view.FirewallTable, err)
	}
	return 1, nil
}

// Counters returns the number of packets that each dropping rule has dropped, by ToPods or FromPods and the
// address family: "to-pods-ipv4". It grows as long as nobody else removes the table.
func (a *Applier) Counters(ctx context.Context) (map[string]uint64, error) {
	have, err := read(ctx)
	if err != nil {
		return nil, err
	}
	packets := make(map[string]uint64)
	for name, counter := range have.counters() {
		packets[name] = counter.Packets
	}
	return packets, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: view.FirewallTable, Family: nftables.TableFamilyINet}
}

// connect returns a connection that opens a socket for each exchange.
func connect() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(socketBuffer), c.SetReadBuffer(socketBuffer),
			c.SetDeadline(time.Now().Add(kernelPatience)))
	}))
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	return conn, nil
}

// hash tells rulesets apart: all that the kernel is told, but for the counters.
func (r ruleset) hash() (string, error) {
	h := sha256.New()
	for _, set := range r.sets {
		fmt.Fprintf(h, "set %s %s\n", set.name, set.keyType.Name)
		for _, element := range set.elements {
			fmt.Fprintf(h, "%x %t\n", element.Key, element.IntervalEnd)
		}
	}
	for _, chain := range r.chains {
		fmt.Fprintf(h, "chain %s %s %d %d\n", chain.name, chain.kind, *chain.hook, chain.priority)
		for _, rule := range chain.rules {
			fmt.Fprintf(h, "rule %s\n", rule.name)
			for _, e := range rule.expressions(expr.Counter{}) {
				raw, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
				if err != nil {
					return "", fmt.Errorf("encoding the firewall rule %s: %w", rule.name, err)
				}
				fmt.Fprintf(h, "%x\n", raw)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func (r rule) expressions(counter expr.Counter) []expr.Any {
	all := slices.Clone(r.match)
	if r.counted {
		all = append(all, &counter)
	}
	return append(all, r.verdict...)
}

func (r rule) comment(hash string) string { return commentPrefix + r.name + ":" + hash }

// ruleName is the reverse of comment; "" for a rule that isn't ours.
func ruleName(comment string) string {
	name, ours := strings.CutPrefix(comment, commentPrefix)
	if at := strings.LastIndexByte(name, ':'); ours && at > 0 {
		return name[:at]
	}
	return ""
}

// write replaces the table in one transaction.
func (r ruleset) write(hash string, counters map[string]expr.Counter) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	table := table()
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	for _, set := range r.sets {
		if err := set.write(conn, table); err != nil {
			return fmt.Errorf("encoding the firewall set %s: %w", set.name, err)
		}
	}
	accept := nftables.ChainPolicyAccept
	for _, chain := range r.chains {
		c := conn.AddChain(&nftables.Chain{Name: chain.name, Table: table, Type: chain.kind, Hooknum: chain.hook,
			Priority: &chain.priority, Policy: &accept})
		for _, rule := range chain.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: rule.expressions(counters[rule.name]),
				UserData: userdata.AppendString(nil, userdata.TypeComment, rule.comment(hash))})
		}
	}
	err = conn.Flush()
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("writing the firewall table %s: the kernel may lack a part of nftables (modules nf_tables, "+
			"nft_chain_nat, nft_nat, nft_masq): %w", view.FirewallTable, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("writing the firewall table %s: the capability NET_ADMIN is missing, or another program "+
			"owns the table (`nft list tables`): %w", view.FirewallTable, err)
	case err != nil:
		return fmt.Errorf("writing the firewall table %s: %w", view.FirewallTable, err)
	}
	return nil
}

func (s set) write(conn *nftables.Conn, table *nftables.Table) error {
	kernel := &nftables.Set{Table: table, Name: s.name, KeyType: s.keyType, KeyByteOrder: binaryutil.BigEndian,
		Interval: s.keyType != nftables.TypeIFName}
	if !kernel.Interval {
		kernel.KeyByteOrder = binaryutil.NativeEndian // how nft shows names
	}
	if err := conn.AddSet(kernel, nil); err != nil {
		return err
	}
	for chunk := range slices.Chunk(s.elements, elementsPerMessage) {
		if err := conn.SetAddElements(kernel, chunk); err != nil {
			return err
		}
	}
	return nil
}
