package gossip

import (
	"net/netip"
	"sync/atomic"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// wornIncarnation is the incarnation from which a member's name is worn out. It counts from 1, one up for each record and
// each objection to what others say of the member, so only somebody who means ill gets there. Behind the highest, 2³²-1, it
// starts again at 0, which no member listens to.
const wornIncarnation = 1 << 31

// worn looks for what is said of this node's member that it can't answer: an incarnation that wears out its name, or that
// it is somewhere else, which those believe who hear it first. Safe for concurrent use; nil looks for nothing.
type worn struct {
	own atomic.Pointer[ownMember]
	out chan string // one name that is worn out
}

type ownMember struct {
	name string
	addr netip.AddrPort
}

// is reports whether a member is this node's; there is none before the first one's start.
func (o *ownMember) is(name string) bool { return o != nil && o.name == name }

func newWorn() *worn { return &worn{out: make(chan string, 1)} }

// watch looks for a name at an address from now on.
func (w *worn) watch(name string, addr netip.AddrPort) {
	w.own.Store(&ownMember{name, addr})
	select {
	case <-w.out: // the one before
	default:
	}
}

// rumour is what memberlist's messages about members begin with, in its order of fields, and where an alive one says that
// the member is.
type rumour struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
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

// inPacket looks into the parts of a decrypted packet that was judged. It decodes all of them: a name can be written in
// several ways.
func (w *worn) inPacket(parts [][]byte) {
	if w == nil {
		return
	}
	for _, part := range parts {
		if len(part) == 0 {
			continue
		}
		switch part[0] {
		case aliveKind:
			var said rumour
			if own := w.own.Load(); decoder(part[1:]).Decode(&said) == nil && own.is(said.Node) {
				w.look(own, said.Incarnation, addressFrom(said.Addr, said.Port))
			}
		case suspectKind, deadKind:
			var said struct {
				Incarnation uint32
				Node        string
			}
			if own := w.own.Load(); decoder(part[1:]).Decode(&said) == nil && own.is(said.Node) {
				w.look(own, said.Incarnation, own.addr)
			}
		}
	}
}

// inStream looks into a decrypted stream that was judged.
func (w *worn) inStream(plain []byte) {
	if w == nil || plain[0] != pushPullKind {
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
		if own := w.own.Load(); own.is(said.Name) {
			w.look(own, said.Incarnation, addressFrom(said.Addr, said.Port))
		}
	}
}

// look judges what is said of this node's member.
func (w *worn) look(own *ownMember, incarnation uint32, at netip.AddrPort) {
	if incarnation < wornIncarnation && at == own.addr {
		return
	}
	select {
	case w.out <- own.name:
	default:
	}
}

// decoder reads MessagePack as memberlist does, so that nobody says one thing to it and another to worn.
func decoder(data []byte) *codec.Decoder {
	return codec.NewDecoderBytes(data, new(codec.MsgpackHandle))
}
