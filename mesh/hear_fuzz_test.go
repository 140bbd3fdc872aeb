package mesh

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

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
	f.Add([]byte("d"))
	request, err := record.SignRequest(record.Request{From: "peer", Sequence: 9, Node: "self", Hash: [32]byte{1}}, "self", own.Identity().Public(), peer.Identity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	question, err := record.SignRowRequest(record.RowRequest{From: "peer", Sequence: 9}, "self", own.Identity().Public(), peer.Identity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(question)
	row, err := record.SignRow(record.Row{From: "peer", Answers: 8}, "self", own.Identity().Public(), peer.Identity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(row)
	f.Fuzz(func(t *testing.T, raw []byte) {
		post := &postman{mail: [][]byte{first, raw, last}}
		a := &Agent{
			Config: Config{Node: "self", Keys: own, Gossip: post, Log: slog.New(slog.DiscardHandler)},
			book:   newBook("self", own.Identity().Public()),
		}
		a.book.entries["peer"] = entry{record: record.Record{Identity: peer.Identity().Public()}}
		a.documents, a.answers, a.rows = newDocuments(), newAnswers(), newRows()
		if a.listen(time.Now()) != nothing || len(a.documents.held) > 0 {
			t.Errorf("a document that nobody asked for is taken")
		}
		if len(a.rows.heard) > 0 || len(a.rows.wanted) > 0 && !bytes.Equal(raw, question) {
			t.Errorf("a row that nobody asked for is taken, or a question that nobody asked")
		}
		refused := a.book.refused[ackRefused] + a.book.refused[documentRefused] + a.book.refused[requestRefused] +
			a.book.refused[rowRefused] + a.book.refused[rowRequestRefused]
		if refused > 1 || refused == 0 && len(raw) > 0 && raw[0] == record.DocumentKind {
			t.Errorf("refused %v", a.book.refused)
		}
		k := &a.rotation.acks
		if got := k.of("peer", a.book); got != generation || k.heard["peer"].ack.Sequence != 1<<62 || len(k.heard) != 1 {
			t.Errorf("the peer's word is %v, of %v", got, k.heard)
		}
	})
}
