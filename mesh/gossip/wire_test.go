package gossip_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"testing"
)

// memberlist's message types, as a key holder sees them.
const (
	pingType     = 0
	suspectType  = 3
	aliveType    = 4
	deadType     = 5
	pushPullType = 6
	compoundType = 7
	userType     = 8
	compressType = 9
	streamType   = 10
	crcType      = 12
)

func meshCipher(t testing.TB) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(meshKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcm
}

// sealPacket encrypts a packet as who has the gossip key can.
func sealPacket(t testing.TB, plain []byte) []byte { return seal(t, nil, plain) }

// sealStream does the same to a stream.
func sealStream(t testing.TB, plain []byte) []byte {
	header := binary.BigEndian.AppendUint32([]byte{streamType}, uint32(len(plain)+29))
	return append(header, seal(t, header, plain)...)
}

func seal(t testing.TB, header, plain []byte) []byte {
	gcm := meshCipher(t)
	sealed := make([]byte, 1+gcm.NonceSize())
	sealed[0] = 1
	_, _ = rand.Read(sealed[1:])
	return gcm.Seal(sealed, sealed[1:], plain, header)
}

// openPacket decrypts a packet, and takes the checksum off.
func openPacket(t testing.TB, packet []byte) []byte {
	plain := open(t, nil, packet)
	if plain[0] == crcType {
		return plain[5:]
	}
	return plain
}

func openStream(t testing.TB, stream []byte) []byte { return open(t, stream[:5], stream[5:]) }

func open(t testing.TB, header, sealed []byte) []byte {
	t.Helper()
	gcm := meshCipher(t)
	end := 1 + gcm.NonceSize()
	plain, err := gcm.Open(nil, sealed[1:end], sealed[end:], header)
	if err != nil {
		t.Fatalf("what members send isn't encrypted as it was thought: %v", err)
	}
	return plain
}
