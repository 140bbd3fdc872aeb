package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"

	"github.com/hashicorp/memberlist"
)

// memberlist's kinds of messages, and what its encryption adds.
const (
	suspectKind       = 3
	aliveKind         = 4
	deadKind          = 5
	pushPullKind      = 6
	compoundKind      = 7
	userKind          = 8
	compressedKind    = 9
	encryptedStream   = 10
	checksumKind      = 12
	checksumSize      = 5
	streamHeader      = 5  // encryptedStream and the length of what follows
	encryptionVersion = 1  // the other one, 0, pads; no member of ours uses it
	nonceSize         = 12 // behind the version
	encryptionCost    = 29 // version, nonce and tag
	// minNodeSize is less than a node takes in a state exchange, in bytes: the names of its fields are in it.
	minNodeSize = 32
)

var (
	errUndecryptable = errors.New(wrongKeyText)
	errCompressed    = errors.New("compressed message not supported")
	errNested        = errors.New("compound in a compound not supported")
	errSeveral       = errors.New("several requests or messages in a packet not supported")
	errClaim         = errors.New("remote state or message claims more than it brings, truncated")
)

// inspector opens what comes before memberlist does, and refuses what no member sends, and what would cost memberlist
// far more memory than it has bytes, or the process its life. Whoever has the gossip key can send that.
type inspector struct {
	ring *memberlist.Keyring
	worn *worn
}

// open decrypts what is longer than encryptionCost, as memberlist does.
func (i inspector) open(header, sealed []byte) ([]byte, error) {
	for _, key := range i.ring.GetKeys() {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		const text = 1 + nonceSize
		if plain, err := gcm.Open(nil, sealed[1:text], sealed[text:], header); err == nil {
			return plain, nil
		}
	}
	return nil, errUndecryptable
}

// judgePacket looks at the parts of a decrypted packet, and counts the messages for the agent in it. Members send one
// request, answer or message in a packet, and news of members with it.
func judgePacket(parts [][]byte) (messages int, err error) {
	others := 0
	for _, part := range parts {
		if len(part) == 0 {
			continue // memberlist refuses it
		}
		switch part[0] {
		case suspectKind, aliveKind, deadKind:
		case compressedKind:
			return 0, errCompressed // to 40 MiB each, one in the other
		case compoundKind:
			return 0, errNested
		case userKind:
			messages++
			others++
		default:
			others++
		}
	}
	if others > 1 {
		return 0, errSeveral
	}
	return messages, nil
}

// partsOf takes a decrypted packet apart as memberlist does: a checksum, if there is one, and a compound message: a byte
// with their number, two with the length of each, and the parts. What isn't one is one part.
func partsOf(plain []byte) [][]byte {
	if len(plain) >= checksumSize && plain[0] == checksumKind {
		plain = plain[checksumSize:]
	}
	if len(plain) == 0 || plain[0] != compoundKind {
		return [][]byte{plain}
	}
	if len(plain) < 2 || len(plain) < 2+2*int(plain[1]) {
		return nil // memberlist refuses it
	}
	lengths, rest := plain[2:2+2*int(plain[1])], plain[2+2*int(plain[1]):]
	var parts [][]byte
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n > len(rest) {
			break
		}
		parts, rest = append(parts, rest[:n]), rest[n:]
	}
	return parts
}

// judgeStream looks at a decrypted stream, of at least a byte, and counts the messages for the agent in it.
func judgeStream(plain []byte) (messages int, err error) {
	switch plain[0] {
	case compressedKind:
		return 0, errCompressed
	case pushPullKind:
		return 0, judgeHeader(plain[1:])
	case userKind:
		return 1, judgeHeader(plain[1:])
	}
	return 0, nil
}

// judgeHeader reads the header of a state exchange or of a message: a MessagePack map of numbers and flags, by which
// memberlist allocates memory.
func judgeHeader(data []byte) error {
	if len(data) == 0 || data[0]>>4 != 0x8 {
		return errClaim
	}
	size := uint64(len(data))
	fields, rest := int(data[0]&0xf), data[1:]
	for range fields {
		if len(rest) == 0 || rest[0]>>5 != 0b101 || len(rest) < 1+int(rest[0]&0x1f) {
			return errClaim
		}
		end := 1 + int(rest[0]&0x1f)
		name := string(rest[1:end])
		value, n := number(rest[end:])
		if n == 0 || value > size || name == "Nodes" && value > size/minNodeSize {
			return errClaim
		}
		rest = rest[end+n:]
	}
	return nil
}

// number reads a number that isn't negative, or a flag as zero, and says how long it is; 0 if it is something else.
func number(data []byte) (value uint64, n int) {
	if len(data) == 0 {
		return 0, 0
	}
	switch first := data[0]; {
	case first < 0x80:
		return uint64(first), 1
	case first == 0xc2 || first == 0xc3:
		return 0, 1
	case first >= 0xcc && first <= 0xcf || first >= 0xd0 && first <= 0xd3:
		n := 1 + 1<<(first&3)
		if len(data) < n {
			return 0, 0
		}
		for _, b := range data[1:n] {
			value = value<<8 | uint64(b)
		}
		return value, n // a negative one is a large one
	}
	return 0, 0
}
