package gossip_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// large is a message that fits into no packet.
func large(size int) []byte {
	message := make([]byte, size)
	_, _ = rand.Read(message)
	return message
}

func TestDeliveryComesWhole(t *testing.T) {
	nodes := mesh(t, 3)
	box := &inbox{node: nodes[1]}
	for _, size := range []int{1, 1024, 1025, 1<<16 + 1} {
		before := nodes[1].changes.Load()
		message := large(size)
		if err := nodes[0].Deliver("n2", message); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("%d bytes arrive", size), func() bool { return box.has(string(message)) })
		eventually(t, "they are told like other news", func() bool { return nodes[1].changes.Load() > before })
	}
	if got := len(box.open()); got != 4 {
		t.Errorf("%d messages came, want each once", got)
	}
	if others := append(nodes[0].Messages(), nodes[2].Messages()...); len(others) > 0 {
		t.Errorf("%d messages came to others", len(others))
	}
	for _, n := range nodes {
		if c := n.Counters(); len(c) > 0 {
			t.Errorf("%s: refused %v in a sound mesh", n.name, c)
		}
	}
	for _, size := range []int{0, 1<<16 + 2} {
		if err := nodes[0].Deliver("n2", make([]byte, size)); err == nil || !strings.Contains(err.Error(), `"n2"`) {
			t.Errorf("delivering %d bytes: %v, want an error that names the node", size, err)
		}
	}
}

func TestDeliveryToTheAbsent(t *testing.T) {
	nodes := mesh(t, 2)
	if err := nodes[0].Deliver("stranger", []byte("x")); !errors.Is(err, gossip.ErrAbsent) {
		t.Errorf("delivering to a stranger: %v, want ErrAbsent", err)
	}
	nodes[0].stop(t)
	if err := nodes[0].Deliver("n2", []byte("x")); !errors.Is(err, gossip.ErrStopped) {
		t.Errorf("delivering after Stop: %v, want ErrStopped", err)
	}
}

// A node that takes its messages slowly, or not at all, holds up those to others for a moment only, and Deliver never.
func TestDeliveryToOneThatStalls(t *testing.T) {
	sender, good := start(t, "n1", 1), &inbox{node: start(t, "n3", 3)}
	good.Seek([]gossip.Target{sender.target()})
	stalled, err := net.Listen("tcp", "127.0.0.2:7000") // takes connections, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stalled.Close() })
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil, func(c *memberlist.Config) { c.AdvertisePort = 7000 })
	if _, err := r.Join([]string{sender.addr.String()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are seen", func() bool { return sender.sees("n2") && sender.sees("n3") })
	message := large(1<<16 + 1)
	begin := time.Now()
	for err = nil; !errors.Is(err, gossip.ErrBusy); err = sender.Deliver("n2", message) {
		if err != nil || time.Since(begin) > 20*time.Second {
			t.Fatalf("filling the room for deliveries: %v", err)
		}
	}
	eventually(t, "there is room again", func() bool { return sender.Deliver("n3", []byte("whatever n2 does")) == nil })
	eventually(t, "it arrives", func() bool { return good.has("whatever n2 does") })
}

// A member that floods this node with what fits into no packet costs it a bounded amount of memory.
func TestFloodOfDeliveries(t *testing.T) {
	n := start(t, "n1", 1)
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil)
	if _, err := r.Join([]string{n.addr.String()}); err != nil {
		t.Fatal(err)
	}
	message := large(1 << 16)
	for n.Counters()["gossip-too-many-messages"] < 100 {
		if err := r.SendReliable(n.asMember(), message); err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
			t.Fatal(err)
		}
	}
	if held := len(n.Messages()); held == 0 || held > 64 {
		t.Errorf("%d messages are held, want 1 to 64", held)
	}
}
