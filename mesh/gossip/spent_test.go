package gossip_test

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/view"
)

var memberNames = regexp.MustCompile(`member=(\S+)`)

// memberName is the one under which n is in the gossip now.
func (n *node) memberName() string {
	all := memberNames.FindAllStringSubmatch(n.log.String(), -1)
	return all[len(all)-1][1]
}

// spent says that a member has failed, with the highest incarnation.
func spent(t *testing.T, name string) []byte {
	return sealPacket(t, append([]byte{suspectType}, fields("Incarnation", number(math.MaxUint32), "Node", packed(name),
		"From", packed("n1/0011223344556677"))...))
}

// A member can't object to what is said of it with the highest incarnation: memberlist's number starts again at 0, which
// nobody listens to. It is heard under another name then.
func TestIncarnationIsSpent(t *testing.T) {
	const highest = math.MaxUint32
	said := func(kind byte, name, from string) []byte {
		return append([]byte{kind}, fields("Incarnation", number(highest), "Node", packed(name), "From", packed(from))...)
	}
	tests := []struct {
		name string
		says func(t *testing.T, nodes []*node, victim string)
	}{
		{"suspect", func(t *testing.T, nodes []*node, victim string) {
			send(t, "udp", "127.0.1.1", nodes[2], spent(t, victim))
		}},
		{"alive, to all", func(t *testing.T, nodes []*node, victim string) {
			packet := append([]byte{aliveType}, fields("Incarnation", number(highest), "Node", packed(victim),
				"Addr", packed("\x7f\x00\x00\x03"), "Port", number(6783), "Meta", packed("made up"), "Vsn", packed(versions))...)
			for _, n := range nodes {
				send(t, "udp", "127.0.1.1", n, sealPacket(t, compound(packet)))
			}
		}},
		{"left, to another", func(t *testing.T, nodes []*node, victim string) {
			send(t, "udp", "127.0.1.1", nodes[0], sealPacket(t, said(deadType, victim, victim)))
		}},
		{"in a state exchange", func(t *testing.T, nodes []*node, victim string) {
			state := fields("Name", packed(victim), "Addr", packed("\x7f\x00\x00\x03"), "Port", number(6783), "Meta", packed(""),
				"Incarnation", number(highest), "State", []byte{1}, "Vsn", packed(versions))
			exchange(t, nodes[2], sealStream(t, exchangeOf(2, 0, aliveMember("n9/0011223344556677", ""), state)))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nodes := mesh(t, 3)
			victim := nodes[2]
			for _, n := range nodes {
				n.Seek(nil) // whoever takes another name looks for others itself
			}
			before := victim.memberName()
			tt.says(t, nodes, before)
			eventually(t, "it takes another name", func() bool { return victim.memberName() != before })
			fresh := []byte("fresh")
			eventually(t, "it is in the gossip again, and announces", func() bool { return victim.Announce(fresh) == nil })
			for _, n := range nodes[:2] {
				eventually(t, "what it says is heard", func() bool { return n.sees("n3") && n.has("n3", fresh) })
				eventually(t, "it hears others", func() bool { return victim.sees(n.name) })
			}
			eventually(t, "messages reach it", func() bool {
				_ = nodes[0].Send("n3", []byte("hello"))
				return slices.ContainsFunc(victim.Messages(), func(m []byte) bool { return string(m) == "hello" })
			})
			if victim.Counters()["gossip-silenced"] == 0 {
				t.Errorf("counted: %v", victim.Counters())
			}
			if p := victim.Problems(); !slices.ContainsFunc(p, func(p view.Problem) bool { return strings.Contains(p.Message, before) }) {
				t.Errorf("problems: %v", p)
			}
		})
	}
}

// Whoever silences a member again and again makes it change its name once in ten seconds.
func TestNamesAreSpentSlowly(t *testing.T) {
	n := start(t, "n1", 1)
	for i := range 3 {
		before, began := n.memberName(), time.Now()
		eventually(t, "it takes another name", func() bool {
			send(t, "udp", "127.0.1.1", n, spent(t, before))
			return n.memberName() != before
		})
		if took := time.Since(began); i > 0 && took < 9*time.Second {
			t.Errorf("the name changed after %v", took)
		}
	}
}

// elsewhere says that a member is at 127.0.0.99, and announces nothing.
func elsewhere(t *testing.T, name string) []byte {
	return sealPacket(t, append([]byte{aliveType}, fields("Incarnation", number(1), "Node", packed(name), "Addr", packed("\x7f\x00\x00\x63"),
		"Port", number(6783), "Meta", packed(""), "Vsn", packed(versions))...))
}

// Somebody who is faster says where a new member is. It is heard, by its next name if need be.
func TestNameIsTakenBeforeItsMemberCame(t *testing.T) {
	nodes := mesh(t, 2)
	victim := start(t, "n3", 3)
	record := []byte("record of n3")
	victim.announce(t, record)
	name := victim.memberName()
	for _, n := range nodes {
		send(t, "udp", "127.0.0.99", n, elsewhere(t, name))
		eventually(t, "it is believed", func() bool { return n.sees("n3") })
	}
	victim.Seek([]gossip.Target{nodes[0].target()})
	for _, n := range nodes {
		eventually(t, "the node is heard", func() bool { return n.has("n3", record) })
	}
	eventually(t, "it has another name", func() bool { return victim.memberName() != name })
}

// A message reaches a node whose member somebody says to be elsewhere.
func TestMessageToANodeThatIsSaidToBeElsewhere(t *testing.T) {
	a, b := start(t, "n1", 1), start(t, "n2", 2)
	a.Seek([]gossip.Target{b.target()})
	eventually(t, "a member of its name is somewhere else", func() bool {
		send(t, "udp", "127.0.0.99", a, elsewhere(t, "n2/0011223344556677"))
		return a.sees("n2")
	})
	box := &inbox{node: b}
	eventually(t, "the message comes", func() bool {
		_ = a.Send("n2", []byte("hello"))
		return box.has("hello")
	})
}

// Made-up members leave no room; the member that takes another name is none of them.
func TestNameIsSpentInAFullMesh(t *testing.T) {
	nodes := mesh(t, 2)
	victim := nodes[1]
	const many = 2*8192 + 2000
	var members []byte
	for i := range many {
		members = append(members, aliveMember(fmt.Sprintf("n9/%016x", i), "")...)
	}
	exchange(t, victim, sealStream(t, exchangeOf(many, 0, members)))
	eventually(t, "there is no room", func() bool { return victim.Counters()["gossip-too-many-nodes"] > 0 })
	before := victim.memberName()
	send(t, "udp", "127.0.1.1", victim, spent(t, before))
	eventually(t, "it takes another name", func() bool { return victim.memberName() != before })
	fresh := []byte("fresh")
	eventually(t, "it announces", func() bool { return victim.Announce(fresh) == nil })
	eventually(t, "it is heard", func() bool { return nodes[0].has("n2", fresh) })
	eventually(t, "it hears", func() bool { return victim.sees("n1") })
}
