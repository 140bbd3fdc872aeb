package weavenet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// logGroup is where Weave Net's rules log to.
const logGroup = 86

// dockerBridge is a bridge that Weave Net keeps apart from its own.
const dockerBridge = "docker0"

// rules removes Weave Net's chains of iptables and the rules in others' that are its, in one transaction.
func (d *Done) rules() error {
	for file, program := range map[string]string{"/proc/net/ip_tables_names": "iptables-legacy"} {
		if names, err := os.ReadFile(file); err == nil && len(bytes.Fields(names)) > 0 {
			d.left("rules of %s, if there are any: `%s-save | grep -i weave` shows them. They drop what pods are sent, and are gone after "+
				"a reboot: reboot before `kubectl uncordon`, or before containers start here", program, program)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("listing the chains of iptables: %w", err)
	}
	var own []*nftables.Chain
	number := 0
	for _, c := range chains {
		if contract.IsWeaveNetChain(c.Name) {
			own = append(own, c)
			continue
		}
		all, err := conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("listing the rules of the chain %s: %w", c.Name, err)
		}
		for _, rule := range all {
			if !ours(c, shapeOf(rule)) {
				continue
			}
			if err := conn.DelRule(rule); err != nil {
				return fmt.Errorf("removing a rule of the chain %s: %w", c.Name, err)
			}
			number++
		}
	}
	for _, c := range own {
		conn.FlushChain(c)
	}
	for _, c := range own {
		conn.DelChain(c)
	}
	if number+len(own) == 0 {
		return nil
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("removing Weave Net's rules of iptables: %w", err)
	}
	if number > 0 {
		d.removed("%d rules in chains of iptables", number)
	}
	for _, c := range own {
		d.removed("the chain %s of the table %s", c.Name, c.Table.Name)
	}
	return nil
}

// name is an interface's name in a rule.
type name struct {
	is  string // "": the rule asks for none
	not bool
}

// shape is a rule by what it asks for and does.
type shape struct {
	in, out name
	state   bool // of the connection
	others  int  // more that it asks for, or does
	comment string
	logs    bool // to logGroup
	verdict expr.VerdictKind
	decides bool
	chain   string // that it jumps to
}

// shapeOf reads a rule as iptables-nft writes it: in expressions of nftables, or as iptables' own.
func shapeOf(rule *nftables.Rule) shape {
	var s shape
	s.comment, _ = userdata.GetString(rule.UserData, userdata.TypeComment)
	var asked *name // that the next comparison is about
	inState := false
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Meta:
			asked, inState = nil, false
			switch e.Key {
			case expr.MetaKeyIIFNAME:
				asked = &s.in
			case expr.MetaKeyOIFNAME:
				asked = &s.out
			default:
				s.others++
			}
		case *expr.Cmp:
			switch {
			case asked != nil:
				text := bytes.TrimRight(e.Data, "\x00")
				asked.is, asked.not = string(text), e.Op == expr.CmpOpNeq
				if len(text) == len(e.Data) { // it is how a name begins, as in weave+
					s.others++
				}
			case !inState:
				s.others++
			}
			asked = nil
		case *expr.Ct:
			asked, inState = nil, e.Key == expr.CtKeySTATE
			s.state = s.state || inState
			if !inState {
				s.others++
			}
		case *expr.Bitwise:
			if !inState {
				s.others++
			}
		case *expr.Match:
			s.match(e)
		case *expr.Target:
			s.logs = s.logs || e.Name == "NFLOG"
			if e.Name != "NFLOG" {
				s.others++
			}
		case *expr.Log:
			s.logs = e.Group == logGroup
		case *expr.Verdict:
			s.verdict, s.decides, s.chain = e.Kind, true, e.Chain
		default:
			s.others++
		}
	}
	return s
}

// match reads what is asked for in iptables' own way.
func (s *shape) match(m *expr.Match) {
	switch m.Name {
	case "state", "conntrack":
		s.state = true
	case "comment":
		if text, ok := m.Info.(*xt.Comment); ok {
			s.comment = string(*text)
		}
	default:
		s.others++
	}
}

// ours reports whether a rule in a chain of others is Weave Net's: it jumps to a chain of Weave Net's, or is one of those that its
// router puts into FORWARD for its bridge, or guards its control port.
func ours(c *nftables.Chain, s shape) bool {
	if (s.verdict == expr.VerdictJump || s.verdict == expr.VerdictGoto) && contract.IsWeaveNetChain(s.chain) {
		return true
	}
	drops, accepts := s.decides && s.verdict == expr.VerdictDrop, s.decides && s.verdict == expr.VerdictAccept
	if c.Table.Name != "filter" {
		return false
	}
	if c.Name == "INPUT" {
		return drops && strings.Contains(s.comment, "Weave Net control port")
	}
	if c.Name != "FORWARD" || s.others > 0 {
		return false
	}
	none, bridge, elsewhere := name{}, name{is: contract.BridgeName}, name{is: contract.BridgeName, not: true}
	from := func(in, out name, state bool) bool { return s.in == in && s.out == out && s.state == state }
	switch {
	case drops:
		return from(none, bridge, false) || from(name{is: dockerBridge}, bridge, false)
	case accepts:
		return from(bridge, elsewhere, false) || from(bridge, bridge, false) || from(none, bridge, true)
	}
	return s.logs && !s.decides && from(none, bridge, true)
}

// setPrefix begins the names of Weave Net's sets.
const setPrefix = "weave-"

// setTypes are what they are.
var setTypes = []string{"hash:ip", "hash:net", "list:set"}

// sets removes the ipsets.
func (d *Done) sets() error {
	sets, err := netlink.IpsetListAll()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // the kernel has none
	}
	if err != nil {
		return fmt.Errorf("listing ipsets: %w", err)
	}
	// Lists of sets go before the sets in them.
	slices.SortStableFunc(sets, func(a, b netlink.IPSetResult) int { return strings.Compare(b.TypeName, a.TypeName) })
	var errs []error
	for _, s := range sets {
		if !strings.HasPrefix(s.SetName, setPrefix) || !slices.Contains(setTypes, s.TypeName) {
			continue
		}
		if err := netlink.IpsetDestroy(s.SetName); err != nil {
			errs = append(errs, fmt.Errorf("removing the ipset %s: %w", s.SetName, err))
			continue
		}
		d.removed("the ipset %s", s.SetName)
	}
	return errors.Join(errs...)
}
