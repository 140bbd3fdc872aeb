package mesh

import (
	"log/slog"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// postman is a Gossip that only brings messages.
type postman struct {
	Gossip
	mail [][]byte
}

func (p *postman) Messages() [][]byte { return p.mail }

// FuzzHear gives any bytes as a message from another agent, with a peer's true word before and a newer one behind it:
// never a panic, each message is taken or counted, and nobody else's word is taken for the peer's.
func FuzzHear(f *testing.F) {
	open := func() *keys.Store {
		store, err := keys.Open(f.TempDir())
		if err != nil {
			f.Fatal(err)
		}
		return store
	}
	own, peer := open(), open()
	generation := record.Generation{Number: 3, Key: keys.PublicKey{1}}
	say := func(to string, sequence uint64) []byte {
		ack := record.Ack{From: "peer", Sequence: sequence, Generation: generation}
		raw, err := record.SignAck(ack, to, own.Identity().Public(), peer.Identity())
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	first, last := say("self", 1), say("self", 1<<62)
	f.Add([]byte(nil))
	f.Add(first)
	f.Add(say("other", 5))
	f.Add(say("self", 7)[:70])
	f.Fuzz(func(t *testing.T, raw []byte) {
		post := &postman{mail: [][]byte{first, raw, last}}
		a := &Agent{
			Config: Config{Node: "self", Keys: own, Gossip: post, Log: slog.New(slog.DiscardHandler)},
			book:   newBook("self", own.Identity().Public()),
		}
		a.book.entries["peer"] = entry{record: record.Record{Identity: peer.Identity().Public()}}
		heard := a.hear(post.Messages())
		if len(heard)+int(a.book.refused[ackRefused]) != len(post.mail) {
			t.Errorf("of %d messages %d are taken and %d refused", len(post.mail), len(heard), a.book.refused[ackRefused])
		}
		var k acks
		k.take(heard)
		if got := k.of("peer", a.book); got != generation || k.heard["peer"].ack.Sequence != 1<<62 || len(k.heard) != 1 {
			t.Errorf("the peer's word is %v, of %v", got, k.heard)
		}
	})
}
