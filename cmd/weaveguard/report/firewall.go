package report

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Firewall is what nftables has of the agent's tables: chains, rules and sets. Rules are in the kernel's own expressions,
// which nft(8) would put into its language; those of others aren't listed.
func Firewall() ([]byte, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("listing the nftables tables: %w", err)
	}
	var text bytes.Buffer
	for _, t := range tables {
		fmt.Fprintf(&text, "table %s %s\n", families[t.Family], t.Name)
	}
	for _, t := range tables {
		if t.Name != contract.FirewallTable {
			continue
		}
		if err := writeTable(&text, conn, t); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

var families = map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyBridge: "bridge"}

func writeTable(text *bytes.Buffer, conn *nftables.Conn, table *nftables.Table) error {
	fmt.Fprintf(text, "\ntable %s %s flags %#x\n", families[table.Family], table.Name, table.Flags)
	sets, err := conn.GetSets(table)
	if err != nil {
		return fmt.Errorf("listing the firewall's sets: %w", err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("listing the firewall set %s: %w", s.Name, err)
		}
		fmt.Fprintf(text, "  set %s of %s, %d elements\n", s.Name, s.KeyType.Name, len(elements))
		for _, e := range elements {
			end := ""
			if e.IntervalEnd {
				end = " (end of an interval)"
			}
			fmt.Fprintf(text, "    %s%s\n", elementText(s.KeyType.Name, e.Key), end)
		}
	}
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return fmt.Errorf("listing the firewall's chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name != table.Name {
			continue
		}
		fmt.Fprintf(text, "  chain %s", c.Name)
		if c.Hooknum != nil && c.Priority != nil {
			fmt.Fprintf(text, " type %s hook %d priority %d", c.Type, *c.Hooknum, *c.Priority)
		}
		text.WriteByte('\n')
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return fmt.Errorf("listing the rules of the firewall chain %s: %w", c.Name, err)
		}
		for _, r := range rules {
			text.WriteString("    " + ruleText(r) + "\n")
		}
	}
	return nil
}

func elementText(kind string, key []byte) string {
	if address, ok := netip.AddrFromSlice(key); ok && (kind == "ipv4_addr" || kind == "ipv6_addr") {
		return address.String()
	}
	return bytesText(key)
}

func ruleText(r *nftables.Rule) string {
	var parts []string
	for _, e := range r.Exprs {
		parts = append(parts, exprText(e))
	}
	comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return fmt.Sprintf("handle %d comment %q: %s", r.Handle, comment, strings.Join(parts, "; "))
}

// exprText is an expression with its fields that aren't zero.
func exprText(e expr.Any) string {
	value := reflect.Indirect(reflect.ValueOf(e))
	if value.Kind() != reflect.Struct {
		return fmt.Sprintf("%T", e)
	}
	words := []string{value.Type().Name()}
	for i := range value.NumField() {
		field := value.Field(i)
		if !value.Type().Field(i).IsExported() || field.IsZero() {
			continue
		}
		text := fmt.Sprint(field.Interface())
		if raw, ok := field.Interface().([]byte); ok {
			text = bytesText(raw)
		}
		words = append(words, value.Type().Field(i).Name+"="+text)
	}
	return strings.Join(words, " ")
}

// bytesText is a name, where bytes are one that is filled up with zeros, else hex in groups of four bytes.
func bytesText(raw []byte) string {
	name := bytes.TrimRight(raw, "\x00")
	if len(name) > 1 && !bytes.ContainsFunc(name, func(r rune) bool { return r < '!' || r > '~' }) {
		return fmt.Sprintf("%q", name)
	}
	var groups []string
	for len(raw) > 4 {
		groups, raw = append(groups, hex.EncodeToString(raw[:4])), raw[4:]
	}
	return "0x" + strings.Join(append(groups, hex.EncodeToString(raw)), " ")
}
