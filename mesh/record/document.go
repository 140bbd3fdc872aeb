package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/keys"
)

// MaxDocumentSize is the largest signed document in bytes. With MaxNetworks networks one has less than 3 KiB; the rest is
// for the roster: some 900 pods with names of 40 bytes in all.
const MaxDocumentSize = 64 << 10

// documentVersion is the first byte of a signed document. Behind it: 64 bytes of Ed25519 signature, then the payload.
const documentVersion = 1

// documentContext keeps a signature over a document from being one over anything else.
const documentContext = "weaveguard document v1"

// Document is what a node says about itself beyond its record, which has the document's version and hash.
type Document struct {
	Version  uint64    // not 0; another one for each document of one identity, and growing
	Networks []Network // sorted by name, MaxNetworks at most
	// Roster is what is attached on the node, sorted as by Attachment.Compare, each once.
	Roster []Attachment
	// Omitted is how many more attachments there are, that there was no room for.
	Omitted uint32
}

// Validate returns an error that names the first field that isn't valid.
func (d Document) Validate() error {
	if d.Version == 0 {
		return errors.New("the document's version is 0, which stands for none")
	}
	if len(d.Networks) > MaxNetworks {
		return fmt.Errorf("%d networks, want %d at most", len(d.Networks), MaxNetworks)
	}
	for i, n := range d.Networks {
		if err := n.Validate(); err != nil {
			return fmt.Errorf("network %q: %w", n.Name, err)
		}
		if i > 0 && d.Networks[i-1].Name >= n.Name {
			return fmt.Errorf("network %q follows %q, want them sorted by name, each once", n.Name, d.Networks[i-1].Name)
		}
	}
	for i, a := range d.Roster {
		if err := a.Validate(); err != nil {
			return fmt.Errorf("attachment %q: %w", a, err)
		}
		if i > 0 && d.Roster[i-1].Compare(a) >= 0 {
			return fmt.Errorf("attachment %q follows %q, want them sorted, each once", a, d.Roster[i-1])
		}
	}
	return nil
}

// HashDocument is the SHA-256 of a signed document, as the record has it.
func HashDocument(raw []byte) [sha256.Size]byte { return sha256.Sum256(raw) }

// SignDocument returns the document of node as it goes over the wire, at most MaxDocumentSize bytes, the same for equal
// ones. The node's name is signed with it, and isn't in it.
func SignDocument(node string, d Document, signer keys.Identity) ([]byte, error) {
	err := validateName(node)
	if err == nil {
		err = d.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("signing the document of node %q: %w", node, err)
	}
	payload, err := encodeDocument(d)
	if err != nil {
		return nil, fmt.Errorf("encoding the document of node %q: %w", node, err)
	}
	raw := slices.Concat([]byte{documentVersion}, signer.Sign(message(documentContext, node, payload)), payload)
	if len(raw) > MaxDocumentSize {
		return nil, fmt.Errorf("the document of node %q: %w: %d bytes, at most %d", node, ErrSize, len(raw), MaxDocumentSize)
	}
	return raw, nil
}

// OpenDocument decodes what SignDocument made for node, and verifies it with the identity that the caller knows to be the
// node's. An error is one of ErrSize, ErrVersion, ErrMalformed and ErrSignature, wrapped.
func OpenDocument(node string, raw []byte, identity keys.PublicIdentity) (Document, error) {
	d, err := openDocument(node, raw, identity)
	if err != nil {
		return Document{}, fmt.Errorf("document of node %q: %w", node, err)
	}
	return d, nil
}

func openDocument(node string, raw []byte, identity keys.PublicIdentity) (Document, error) {
	if len(raw) <= headerSize || len(raw) > MaxDocumentSize {
		return Document{}, fmt.Errorf("%w: %d bytes, want %d to %d", ErrSize, len(raw), headerSize+1, MaxDocumentSize)
	}
	if raw[0] != documentVersion {
		return Document{}, fmt.Errorf("%w %d: this agent knows version %d", ErrVersion, raw[0], documentVersion)
	}
	if err := validateName(node); err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	signature, payload := raw[1:headerSize], raw[headerSize:]
	// The signature first: decoding is the longer, and who isn't the node has no business with it.
	if identity.IsZero() || !identity.Verify(message(documentContext, node, payload), signature) {
		return Document{}, fmt.Errorf("%w: not by the node's identity, for this name", ErrSignature)
	}
	d, err := decodeDocument(payload)
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return d, nil
}

// wireDocument is the signed payload, encoded and extended by the same rules as wire.
type wireDocument struct {
	Version  uint64           `cbor:"1,keyasint"`
	Networks []wireNetwork    `cbor:"2,keyasint,omitempty"`
	Roster   []wireAttachment `cbor:"3,keyasint,omitempty"`
	Omitted  uint32           `cbor:"4,keyasint,omitempty"`
}

type wireNetwork struct {
	Name   string `cbor:"1,keyasint"`
	Range4 []byte `cbor:"2,keyasint,omitempty"`
	Range6 []byte `cbor:"3,keyasint,omitempty"`
	CIDR4  []byte `cbor:"4,keyasint,omitempty"`
	CIDR6  []byte `cbor:"5,keyasint,omitempty"`
}

func encodeDocument(d Document) ([]byte, error) {
	w := wireDocument{Version: d.Version, Roster: encodeRoster(d.Roster), Omitted: d.Omitted}
	for _, n := range d.Networks {
		network := wireNetwork{Name: n.Name}
		network.Range4, network.Range6 = familyBytes(n.Ranges)
		network.CIDR4, network.CIDR6 = familyBytes(n.CIDRs)
		w.Networks = append(w.Networks, network)
	}
	return marshal(w)
}

// familyBytes are the prefixes of each family, of which there is one at most.
func familyBytes(prefixes []netip.Prefix) (v4, v6 []byte) {
	for _, p := range prefixes {
		if p.Addr().Is4() {
			v4 = prefixBytes(p)
		} else {
			v6 = prefixBytes(p)
		}
	}
	return v4, v6
}

func decodeDocument(payload []byte) (Document, error) {
	var w wireDocument
	if err := unmarshalWithin(payload, &w, documentLimits); err != nil {
		return Document{}, err
	}
	if len(w.Networks) > MaxNetworks {
		return Document{}, fmt.Errorf("%d networks, want %d at most", len(w.Networks), MaxNetworks)
	}
	roster, err := decodeRoster(w.Roster)
	if err != nil {
		return Document{}, err
	}
	d := Document{Version: w.Version, Roster: roster, Omitted: w.Omitted}
	for _, network := range w.Networks {
		n := Network{Name: network.Name}
		var errs [2]error
		n.Ranges, errs[0] = familyPrefixes("range", network.Range4, network.Range6)
		n.CIDRs, errs[1] = familyPrefixes("cidr", network.CIDR4, network.CIDR6)
		if err := errors.Join(errs[:]...); err != nil {
			return Document{}, fmt.Errorf("network %q: %w", n.Name, err)
		}
		d.Networks = append(d.Networks, n)
	}
	if err := d.Validate(); err != nil {
		return Document{}, err
	}
	return d, nil
}

// familyPrefixes reads the prefixes that there are, IPv4 first.
func familyPrefixes(field string, v4, v6 []byte) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, raw := range []struct {
		field  string
		bytes  []byte
		family func(netip.Addr) bool
	}{{field + "4", v4, netip.Addr.Is4}, {field + "6", v6, is6}} {
		p, err := parsePrefix(raw.field, raw.bytes)
		if err == nil {
			err = validateCIDR(raw.field, p, raw.family)
		}
		switch {
		case err != nil:
			return nil, err
		case p.IsValid():
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, nil
}
