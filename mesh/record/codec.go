package record

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/fxamacker/cbor/v2"

	"github.com/weaveguard/weaveguard/keys"
)

// wire is the signed payload: a CBOR map (RFC 8949) with integer keys, in core deterministic encoding. Addresses
// are their bytes in network order; endpoints have the port behind, prefixes the length in bits. A key that this
// version doesn't know is passed over, so a later one can add a field; a change of meaning takes a new version.
type wire struct {
	Identity        []byte           `cbor:"1,keyasint"`
	Sequence        uint64           `cbor:"2,keyasint"`
	Generations     []wireGeneration `cbor:"3,keyasint"`
	Endpoint4       []byte           `cbor:"4,keyasint,omitempty"`
	Endpoint6       []byte           `cbor:"5,keyasint,omitempty"`
	PodCIDR4        []byte           `cbor:"6,keyasint,omitempty"`
	PodCIDR6        []byte           `cbor:"7,keyasint,omitempty"`
	MTU             uint16           `cbor:"8,keyasint,omitempty"`
	DocumentVersion uint64           `cbor:"9,keyasint,omitempty"`
	DocumentHash    []byte           `cbor:"10,keyasint,omitempty"`
}

type wireGeneration struct {
	_      struct{} `cbor:",toarray"`
	Number uint32
	Key    []byte
}

// marshal and unmarshal make the mode of the CBOR library anew each time: that costs little.
func marshal(w any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(w)
}

// limits are how deep and wide what is decoded may be, also in what is passed over.
type limits struct{ levels, elements, pairs int }

// The limits of records and Acks, and those of documents, in which later versions have lists of what is on a node.
var (
	recordLimits   = limits{levels: 4, elements: 16, pairs: 64}
	documentLimits = limits{levels: 8, elements: 8192, pairs: 8192}
)

func unmarshal(payload []byte, w any) error { return unmarshalWithin(payload, w, recordLimits) }

func unmarshalWithin(payload []byte, w any, l limits) error {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  l.levels,
		MaxArrayElements: l.elements,
		MaxMapPairs:      l.pairs,
	}.DecMode()
	if err != nil {
		return err
	}
	return mode.Unmarshal(payload, w)
}

func encode(r Record) ([]byte, error) {
	w := wire{
		Identity:        r.Identity[:],
		Sequence:        r.Sequence,
		Endpoint4:       endpointBytes(r.Endpoint4),
		Endpoint6:       endpointBytes(r.Endpoint6),
		PodCIDR4:        prefixBytes(r.PodCIDR4),
		PodCIDR6:        prefixBytes(r.PodCIDR6),
		MTU:             r.MTU,
		DocumentVersion: r.DocumentVersion,
	}
	if r.DocumentVersion != 0 {
		w.DocumentHash = r.DocumentHash[:]
	}
	for _, g := range r.Generations {
		w.Generations = append(w.Generations, wireGeneration{Number: g.Number, Key: g.Key[:]})
	}
	return marshal(w)
}

func decode(payload []byte) (Record, error) {
	var w wire
	if err := unmarshal(payload, &w); err != nil {
		return Record{}, err
	}
	r := Record{Sequence: w.Sequence, MTU: w.MTU, DocumentVersion: w.DocumentVersion}
	for _, g := range w.Generations {
		key, err := fixed[keys.PublicKey]("a generation's key", g.Key)
		if err != nil {
			return Record{}, err
		}
		r.Generations = append(r.Generations, Generation{Number: g.Number, Key: key})
	}
	var errs [6]error
	r.Identity, errs[0] = fixed[keys.PublicIdentity]("identity", w.Identity)
	r.Endpoint4, errs[1] = parseEndpoint("endpoint4", w.Endpoint4)
	r.Endpoint6, errs[2] = parseEndpoint("endpoint6", w.Endpoint6)
	r.PodCIDR4, errs[3] = parsePrefix("podCIDR4", w.PodCIDR4)
	r.PodCIDR6, errs[4] = parsePrefix("podCIDR6", w.PodCIDR6)
	if len(w.DocumentHash) > 0 {
		r.DocumentHash, errs[5] = fixed[[sha256.Size]byte]("document hash", w.DocumentHash)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return Record{}, err
	}
	return r, r.Validate()
}

// fixed turns exactly 32 bytes into an array type.
func fixed[A ~[32]byte](field string, raw []byte) (A, error) {
	if len(raw) != 32 {
		return A{}, fmt.Errorf("%s has %d bytes, want 32", field, len(raw))
	}
	return A([32]byte(raw)), nil
}

func endpointBytes(e netip.AddrPort) []byte {
	if !e.IsValid() {
		return nil
	}
	return binary.BigEndian.AppendUint16(e.Addr().AsSlice(), e.Port())
}

func parseEndpoint(field string, raw []byte) (netip.AddrPort, error) {
	if len(raw) == 0 {
		return netip.AddrPort{}, nil
	}
	if len(raw) < 2 {
		return netip.AddrPort{}, fmt.Errorf("%s has %d bytes", field, len(raw))
	}
	cut := len(raw) - 2
	addr, ok := netip.AddrFromSlice(raw[:cut])
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%s has %d bytes", field, len(raw))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(raw[cut:])), nil
}

func prefixBytes(p netip.Prefix) []byte {
	if !p.IsValid() || p.Bits() > math.MaxUint8 {
		return nil
	}
	return append(p.Addr().AsSlice(), byte(p.Bits()))
}

func parsePrefix(field string, raw []byte) (netip.Prefix, error) {
	if len(raw) == 0 {
		return netip.Prefix{}, nil
	}
	cut := len(raw) - 1
	addr, ok := netip.AddrFromSlice(raw[:cut])
	if !ok {
		return netip.Prefix{}, fmt.Errorf("%s has %d bytes", field, len(raw))
	}
	return netip.PrefixFrom(addr, int(raw[cut])), nil
}
