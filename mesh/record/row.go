package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/weaveguard/weaveguard/keys"
)

// RowRequestKind is the first byte of a signed RowRequest, and RowKind that of a Row, which answers it. RowVersion is the second
// byte of both. Behind it: 64 bytes of Ed25519 signature, then the payload.
const (
	RowRequestKind = 'q'
	RowKind        = 'm'
	RowVersion     = 1
)

const (
	// MaxRowRequestSize is the largest signed RowRequest in bytes. This version's have at most 333, with the longest name and
	// the largest number; a later one's may have further fields.
	MaxRowRequestSize = 512
	// MaxRowCells is how many cells a Row has at most, and MaxRowSize the largest signed Row in bytes. This version's have at
	// most 41,297, with the longest name and the largest numbers; a Row of 199 cells has about 3,300.
	MaxRowCells = 2048
	MaxRowSize  = 48 << 10
)

var (
	rowRequestLetter = letter{
		name: "row request", article: "a", kind: RowRequestKind, version: RowVersion, most: MaxRowRequestSize,
		context: "weaveguard row request v1",
	}
	rowLetter = letter{
		name: "row", article: "a", kind: RowKind, version: RowVersion, most: MaxRowSize, context: "weaveguard row v1",
	}
)

// rowLimits are those of what is in a Row.
var rowLimits = limits{levels: 4, elements: MaxRowCells, pairs: 64}

// RowRequest is a node's question to another what that has measured of the ways to all others. It is for that node alone: its
// name and identity are signed with it, and aren't in it.
type RowRequest struct {
	From     string // the node that asks
	Sequence uint64 // grows with what From has to say to that node, so that a replay is known; not 0
}

// Validate returns an error that names the first field that isn't valid.
func (r RowRequest) Validate() error {
	if err := validateSender(r.From); err != nil {
		return err
	}
	if r.Sequence == 0 {
		return errors.New("the sequence number is missing")
	}
	return nil
}

func (r RowRequest) sender() string { return r.From }

// Row is what a node has measured of the ways to all others, in answer to a RowRequest. It is for the node that asked alone, as
// that is.
type Row struct {
	From    string    // the node that has measured
	Answers uint64    // the Sequence of the RowRequest, so that an answer to an earlier one is known; not 0
	Cells   []RowCell // sorted by Node, each once, at most MaxRowCells
}

// NodeTag stands for a node in a Row: the receiver knows the names, and a name has up to 253 bytes.
type NodeTag [8]byte

// TagOf returns the tag of the node with a name: the beginning of the SHA-256 of "weaveguard node tag", NUL and the name.
func TagOf(node string) NodeTag {
	hash := sha256.Sum256([]byte("weaveguard node tag\x00" + node))
	return NodeTag(hash[:])
}

// RowCell is what a node has measured of the way to another.
type RowCell struct {
	Node         NodeTag
	Up           bool          // the link's session stands
	RTT          time.Duration // in whole microseconds, up to 71 minutes; 0: no probe was answered
	Lost, Probes uint8         // of the latest probes, so many were lost
}

// Validate returns an error that names the first field that isn't valid.
func (r Row) Validate() error {
	if err := validateSender(r.From); err != nil {
		return err
	}
	switch {
	case r.Answers == 0:
		return errors.New("it answers nothing")
	case len(r.Cells) > MaxRowCells:
		return fmt.Errorf("it has %d cells, at most %d", len(r.Cells), MaxRowCells)
	}
	for i, c := range r.Cells {
		switch {
		case i > 0 && bytes.Compare(r.Cells[i-1].Node[:], c.Node[:]) >= 0:
			return fmt.Errorf("cell %d isn't behind the one before", i)
		case c.Lost > c.Probes:
			return fmt.Errorf("cell %d has lost %d of %d probes", i, c.Lost, c.Probes)
		case c.RTT < 0 || c.RTT%time.Microsecond != 0 || c.RTT > math.MaxUint32*time.Microsecond:
			return fmt.Errorf("cell %d has a time of %s", i, c.RTT)
		case c.RTT > 0 && c.Lost == c.Probes:
			return fmt.Errorf("cell %d has a time, and no answer", i)
		}
	}
	return nil
}

func (r Row) sender() string { return r.From }

// validateSender refuses the name of a sender that can't be in CBOR, or that no node has.
func validateSender(from string) error {
	if err := validateName(from); err != nil {
		return fmt.Errorf("the sender: %w", err)
	}
	if !utf8.ValidString(from) {
		return errors.New("the sender's name isn't UTF-8, which text in CBOR must be")
	}
	return nil
}

// SignRowRequest returns r as it goes over the wire to the node named to, at most MaxRowRequestSize bytes. The signer is the
// identity of r.From.
func SignRowRequest(r RowRequest, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	return rowRequestLetter.sign(r, wireRowRequest(r), to, toIdentity, signer)
}

// OpenRowRequest decodes what SignRowRequest made for the node named to with this identity, and verifies it with the identity
// that identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender and
// ErrSignature, wrapped.
func OpenRowRequest(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (RowRequest, error) {
	return openLetter(rowRequestLetter, raw, to, toIdentity, identityOf, decodeRowRequest)
}

// SignRow returns r as it goes over the wire to the node named to, at most MaxRowSize bytes. The signer is the identity of
// r.From.
func SignRow(r Row, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	wire := wireRow{From: r.From, Answers: r.Answers, Cells: make([]wireRowCell, len(r.Cells))}
	for i, c := range r.Cells {
		wire.Cells[i] = wireRowCell{Node: c.Node[:], Up: c.Up, RTT: uint32(c.RTT / time.Microsecond), Lost: c.Lost, Probes: c.Probes}
	}
	return rowLetter.sign(r, wire, to, toIdentity, signer)
}

// OpenRow decodes what SignRow made for the node named to with this identity, as OpenRowRequest does.
func OpenRow(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Row, error) {
	return openLetter(rowLetter, raw, to, toIdentity, identityOf, decodeRow)
}

// wireRowRequest and wireRow are the signed payloads, encoded and extended by the same rules as wire.
type wireRowRequest struct {
	From     string `cbor:"1,keyasint"`
	Sequence uint64 `cbor:"2,keyasint"`
}

type wireRow struct {
	From    string        `cbor:"1,keyasint"`
	Answers uint64        `cbor:"2,keyasint"`
	Cells   []wireRowCell `cbor:"3,keyasint"`
}

type wireRowCell struct {
	_            struct{} `cbor:",toarray"`
	Node         []byte
	Up           bool
	RTT          uint32 // microseconds
	Lost, Probes uint8
}

func decodeRowRequest(payload []byte) (RowRequest, error) {
	var w wireRowRequest
	if err := unmarshal(payload, &w); err != nil {
		return RowRequest{}, err
	}
	r := RowRequest(w)
	return r, r.Validate()
}

func decodeRow(payload []byte) (Row, error) {
	var w wireRow
	if err := unmarshalWithin(payload, &w, rowLimits); err != nil {
		return Row{}, err
	}
	r := Row{From: w.From, Answers: w.Answers}
	for i, c := range w.Cells {
		if len(c.Node) != len(NodeTag{}) {
			return Row{}, fmt.Errorf("the node of cell %d has %d bytes, want %d", i, len(c.Node), len(NodeTag{}))
		}
		r.Cells = append(r.Cells, RowCell{
			Node: NodeTag(c.Node), Up: c.Up, RTT: time.Duration(c.RTT) * time.Microsecond, Lost: c.Lost, Probes: c.Probes,
		})
	}
	return r, r.Validate()
}
