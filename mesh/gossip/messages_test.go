package gossip_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// inbox gathers all that a node was sent.
type inbox struct {
	*node
	all []string
}

func (i *inbox) open() []string {
	for _, m := range i.Messages() {
		i.all = append(i.all, string(m))
	}
	return i.all
}

func (i *inbox) has(message string) bool { return slices.Contains(i.open(), message) }

func (n *node) send(t testing.TB, to, message string) {
	t.Helper()
	if err := n.Send(to, []byte(message)); err != nil {
		t.Errorf("%s: %v", n.name, err)
	}
}

// expectOnly waits for one more message, from a sender, and fails the test if then the box holds others than
// these. What was sent before that message, and is to come, has come by then.
func (i *inbox) expectOnly(t testing.TB, sender *node, want ...string) {
	t.Helper()
	const last = "the last message"
	sender.send(t, i.name, last)
	eventually(t, "the last message arrives at "+i.name, func() bool { return i.has(last) })
	got := slices.DeleteFunc(slices.Clone(i.all), func(m string) bool { return m == last })
	if !slices.Equal(got, want) {
		t.Errorf("%s was sent %q, want %q", i.name, got, want)
	}
}

func TestMessageReachesItsNodeAlone(t *testing.T) {
	nodes := mesh(t, 3)
	var boxes []*inbox
	for _, n := range nodes {
		boxes = append(boxes, &inbox{node: n})
	}
	before := nodes[1].changes.Load()
	nodes[0].send(t, "n2", "for n2")
	eventually(t, "the message is told like other news", func() bool { return nodes[1].changes.Load() > before })
	eventually(t, "the message arrives", func() bool { return boxes[1].has("for n2") })
	boxes[0].expectOnly(t, nodes[1])
	boxes[1].expectOnly(t, nodes[0], "for n2")
	boxes[2].expectOnly(t, nodes[0])
	for _, n := range nodes {
		if c := n.Counters(); len(c) > 0 {
			t.Errorf("%s: refused %v in a sound mesh", n.name, c)
		}
	}
}

// A node whose agent has just started has two members for the others, until they find out about the first one.
func TestMessageAfterRestart(t *testing.T) {
	tests := []struct {
		name string
		end  func(*node, testing.TB)
		host int
	}{
		{"after a goodbye", (*node).stop, 2},
		{"after a crash", (*node).crash, 2},
		{"at another address", (*node).crash, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nodes := mesh(t, 2)
			tt.end(nodes[1], t)
			again := &inbox{node: start(t, "n2", tt.host)}
			again.announce(t, []byte("n2 again"))
			again.Seek([]gossip.Target{nodes[0].target()})
			eventually(t, "the new start is seen", func() bool { return nodes[0].has("n2", []byte("n2 again")) })
			nodes[0].send(t, "n2", "hello again")
			eventually(t, "the message arrives", func() bool { return again.has("hello again") })
			again.expectOnly(t, nodes[0], "hello again")
		})
	}
}

// Who of several nodes of one name is meant, gossip can't know.
func TestMessageReachesAllOfOneName(t *testing.T) {
	sender := start(t, "n1", 1)
	first, second := &inbox{node: start(t, "same", 2)}, &inbox{node: start(t, "same", 3)}
	for _, n := range []*inbox{first, second} {
		n.announce(t, []byte(n.addr.String()))
		n.Seek([]gossip.Target{{Addr: sender.addr}})
	}
	eventually(t, "both are there", func() bool {
		return sender.has("same", []byte(first.addr.String())) && sender.has("same", []byte(second.addr.String()))
	})
	sender.send(t, "same", "for both")
	eventually(t, "both get it", func() bool { return first.has("for both") && second.has("for both") })
}

func TestMessageSize(t *testing.T) {
	nodes := mesh(t, 2)
	box := &inbox{node: nodes[1]}
	for _, size := range []int{1, 1024} {
		message := make([]byte, size)
		_, _ = rand.Read(message)
		nodes[0].send(t, "n2", string(message))
		eventually(t, fmt.Sprintf("%d random bytes arrive", size), func() bool { return box.has(string(message)) })
	}
	for _, size := range []int{0, 1025, 1 << 20} {
		err := nodes[0].Send("n2", make([]byte, size))
		if err == nil || !strings.Contains(err.Error(), `"n2"`) {
			t.Errorf("sending %d bytes: error %v, want one that names the node", size, err)
		}
	}
}

func TestMessageToTheAbsent(t *testing.T) {
	nodes := mesh(t, 2)
	nodes[0].Share(map[string][]byte{"known": []byte("by its record")})
	for _, to := range []string{"", "stranger", "known", "N2", "n2/0011223344556677"} {
		if err := nodes[0].Send(to, []byte("x")); !errors.Is(err, gossip.ErrAbsent) {
			t.Errorf("sending to %q: %v, want ErrAbsent", to, err)
		}
	}
	nodes[1].stop(t)
	eventually(t, "the leaving of n2 is seen", func() bool { return !nodes[0].sees("n2") })
	if err := nodes[0].Send("n2", []byte("x")); !errors.Is(err, gossip.ErrAbsent) {
		t.Errorf("sending to a node that left: %v, want ErrAbsent", err)
	}
}

// Sending while and after the gossip stops ends in ErrStopped, and nothing else.
func TestMessageWhileStopping(t *testing.T) {
	nodes := mesh(t, 2)
	var sending sync.WaitGroup
	for range 2 {
		sending.Go(func() {
			var err error
			for err == nil {
				err = nodes[0].Send("n2", []byte("x"))
			}
			if !errors.Is(err, gossip.ErrStopped) {
				t.Errorf("sending while stopping: %v, want ErrStopped", err)
			}
		})
	}
	nodes[0].stop(t)
	sending.Wait()
	for _, to := range []string{"n2", "stranger"} {
		if err := nodes[0].Send(to, []byte("x")); !errors.Is(err, gossip.ErrStopped) {
			t.Errorf("sending to %q after Stop: %v, want ErrStopped", to, err)
		}
	}
}

// A member that floods this node with messages takes no other one's place: what came before the flood is still there
// after it, and what comes while it lasts is taken.
func TestFloodOfMessages(t *testing.T) {
	n := start(t, "n1", 1)
	honest := start(t, "n3", 3)
	honest.Seek([]gossip.Target{n.target()})
	eventually(t, "they see each other", func() bool { return honest.sees("n1") && n.sees("n3") })
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil)
	if _, err := r.Join([]string{n.addr.String()}); err != nil {
		t.Fatal(err)
	}
	flood := func(messages int) {
		for range messages {
			if err := r.SendBestEffort(n.asMember(), make([]byte, 1024)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the member is known", func() bool { return n.sees("n2") })
	honest.send(t, "n1", "before")
	for n.Counters()["gossip-too-many-messages"] < 2000 {
		flood(100)
	}
	box := &inbox{node: n}
	if !box.has("before") {
		t.Error("what came before the flood is lost")
	}
	eventually(t, "an honest message arrives", func() bool {
		flood(10)
		honest.send(t, "n1", "meanwhile") // like an agent, again and again: a packet can be lost
		return box.has("meanwhile")
	})
}

// What a rogue member sends is refused for its size alone: what it means is for others to find out.
func TestMessageFromRogue(t *testing.T) {
	n := start(t, "n1", 1)
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil)
	if _, err := r.Join([]string{n.addr.String()}); err != nil {
		t.Fatal(err)
	}
	for _, message := range [][]byte{make([]byte, 1<<16+2), make([]byte, 1<<20), []byte("hello")} {
		if err := r.SendReliable(n.asMember(), message); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "large messages are counted", func() bool { return n.Counters()["gossip-message-size"] == 2 })
	box := &inbox{node: n}
	eventually(t, "the other one arrives", func() bool { return box.has("hello") })
	if len(box.all) != 1 || len(n.Counters()) != 1 {
		t.Errorf("received %d messages, counted %v", len(box.all), n.Counters())
	}
}

// Nobody without the gossip key can read a message on its way. What memberlist puts around it is as much as
// maxMessage allows for.
func TestMessageIsEncrypted(t *testing.T) {
	n := start(t, "n1", 1)
	tap, err := net.ListenPacket("udp", "127.0.0.2:7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	r := startRogue(t, "n2/0011223344556677", 2, nil, nil, func(c *memberlist.Config) { c.AdvertisePort = 7000 })
	if _, err := r.Join([]string{n.addr.String()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the member is seen", func() bool { return n.sees("n2") })
	message := bytes.Repeat([]byte("nobody else's business! "), 40)
	n.send(t, "n2", string(message))
	if err := tap.SetReadDeadline(time.Now().Add(40 * time.Second)); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 2000)
	for size := 0; size != len(message)+30; {
		if size, _, err = tap.ReadFrom(packet); err != nil {
			t.Fatalf("waiting for a packet with the message: %v", err)
		}
	}
	if bytes.Contains(packet, message[:24]) {
		t.Error("a message is sent in the clear")
	}
}
