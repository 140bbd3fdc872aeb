package gossip

import (
	"bytes"
	"sync/atomic"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// wornIncarnation is the incarnation from which a member's name is worn out. It counts from 1, one up for each record and each
// objection to what others say of the member, so only somebody who means ill gets there. Behind the highest, 2³²-1, it
// starts again at 0, which no member listens to.
const wornIncarnation = 1 << 31

// worn looks for what is said of this node's member with an incarnation that wears out its name. Safe for concurrent
// use; nil looks for nothing.
type worn struct {
	name atomic.Pointer[string]
	out  chan string // one name that is worn out
}

func newWorn() *worn { return &worn{out: make(chan string, 1)} }

// watch looks for a name from now on.
func (w *worn) watch(name string) { w.name.Store(&name) }

// rumour is the beginning that memberlist's messages about members share.
type rumour struct {
	Incarnation uint32
	Node        string
}

// stateHeader and memberState are memberlist's parts of a state exchange, in its order of fields.
type (
	stateHeader struct {
		Nodes        int
		UserStateLen int
		Join         bool
	}
	memberState struct {
		Name        string
		Addr        []byte
		Port        uint16
		Meta        []byte
		Incarnation uint32
		State       int
		Vsn         []uint8
	}
)

// inPacket looks into a decrypted packet that was judged.
func (w *worn) inPacket(plain []byte) {
	name, named := w.named(plain)
	if !named {
		return
	}
	if len(plain) >= checksumSize && plain[0] == checksumKind {
		plain = plain[checksumSize:]
	}
	for _, part := range partsOf(plain) {
		if len(part) == 0 || part[0] != suspectKind && part[0] != aliveKind && part[0] != deadKind {
			continue
		}
		var said rumour
		if decoder(part[1:]).Decode(&said) == nil && said.Node == name {
			w.look(name, said.Incarnation)
		}
	}
}

// inStream looks into a decrypted stream that was judged.
func (w *worn) inStream(plain []byte) {
	name, named := w.named(plain)
	if !named || plain[0] != pushPullKind {
		return
	}
	d := decoder(plain[1:])
	var header stateHeader
	if d.Decode(&header) != nil {
		return
	}
	for range header.Nodes {
		var said memberState
		if d.Decode(&said) != nil {
			return
		}
		if said.Name == name {
			w.look(name, said.Incarnation)
		}
	}
}

// named is the name that is looked for, and whether it is anywhere in there.
func (w *worn) named(plain []byte) (string, bool) {
	if w == nil {
		return "", false
	}
	name := w.name.Load()
	if name == nil || !bytes.Contains(plain, []byte(*name)) {
		return "", false
	}
	return *name, true
}

func (w *worn) look(name string, incarnation uint32) {
	if incarnation < wornIncarnation {
		return
	}
	select {
	case w.out <- name:
	default:
	}
}

// decoder reads MessagePack as memberlist does, so that nobody says one thing to it and another to worn.
func decoder(data []byte) *codec.Decoder {
	return codec.NewDecoderBytes(data, new(codec.MsgpackHandle))
}
