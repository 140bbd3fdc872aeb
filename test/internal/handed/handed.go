// Package handed encodes what members of the gossip hand on when they exchange their state, as package gossip does.
package handed

import "encoding/binary"

// version is the first byte.
const version = 1

// Add puts a record of a node behind others; nil are none.
func Add(state []byte, node string, record []byte) []byte {
	if len(state) == 0 {
		state = []byte{version}
	}
	state = append(binary.AppendUvarint(state, uint64(len(node))), node...)
	return append(binary.AppendUvarint(state, uint64(len(record))), record...)
}
