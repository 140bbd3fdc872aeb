package gossip_test

import (
	"math"
	"regexp"
	"slices"
	"testing"
)

var memberNames = regexp.MustCompile(`member=(\S+)`)

// memberName is the one under which n is in the gossip now.
func (n *node) memberName() string {
	all := memberNames.FindAllStringSubmatch(n.log.String(), -1)
	return all[len(all)-1][1]
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
			send(t, "udp", "127.0.1.1", nodes[2], sealPacket(t, said(suspectType, victim, "n1/0011223344556677")))
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
			if victim.Counters()["gossip-incarnation"] == 0 {
				t.Errorf("counted: %v", victim.Counters())
			}
		})
	}
}
