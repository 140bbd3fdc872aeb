package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/hashicorp/memberlist"
)

// What members hand on when they join or sync: the version byte, then for each record the length of the node's
// name, the name, the length of the record, the record. Lengths are unsigned varints (encoding/binary).
const (
	stateVersion = 1
	// maxStateSize bounds what is sent and taken at once, in bytes.
	maxStateSize = 1 << 20
)

var (
	errStateVersion   = errors.New("unknown version")
	errStateMalformed = errors.New("malformed")
)

// encodeState encodes records in random order, as many as fit: whoever syncs again and again gets them all.
func encodeState(records map[string][]byte) []byte {
	if len(records) == 0 {
		return nil
	}
	nodes := slices.Collect(maps.Keys(records))
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	buf := []byte{stateVersion}
	for _, node := range nodes {
		raw := records[node]
		if len(raw) == 0 || len(raw) > memberlist.MetaMaxSize || checkNodeName(node) != nil {
			continue
		}
		if len(buf)+2*binary.MaxVarintLen16+len(node)+len(raw) > maxStateSize {
			break
		}
		buf = binary.AppendUvarint(buf, uint64(len(node)))
		buf = append(buf, node...)
		buf = binary.AppendUvarint(buf, uint64(len(raw)))
		buf = append(buf, raw...)
	}
	return buf
}

// decodeState calls each for every record in buf, in order, if all of buf is well formed. The bytes belong to
// buf. Its errors are errStateVersion and errStateMalformed, wrapped.
func decodeState(buf []byte, each func(node string, raw []byte)) error {
	if len(buf) == 0 {
		return nil
	}
	if len(buf) > maxStateSize {
		return fmt.Errorf("%w: %d bytes, at most %d", errStateMalformed, len(buf), maxStateSize)
	}
	if buf[0] != stateVersion {
		return fmt.Errorf("%w %d", errStateVersion, buf[0])
	}
	type shared struct {
		node string
		raw  []byte
	}
	var all []shared
	for rest := buf[1:]; len(rest) > 0; {
		var node, raw []byte
		var err error
		if node, rest, err = cut(rest, maxNodeName); err != nil {
			return fmt.Errorf("node name: %w", err)
		}
		if err := checkNodeName(string(node)); err != nil {
			return fmt.Errorf("%w: %w", errStateMalformed, err)
		}
		if raw, rest, err = cut(rest, memberlist.MetaMaxSize); err != nil {
			return fmt.Errorf("record of node %q: %w", node, err)
		}
		all = append(all, shared{node: string(node), raw: raw})
	}
	for _, s := range all {
		each(s.node, s.raw)
	}
	return nil
}

// cut takes a length from 1 to most and as many bytes from the front of buf.
func cut(buf []byte, most uint64) (field, rest []byte, err error) {
	size, n := binary.Uvarint(buf)
	if n <= 0 || size == 0 || size > most || size > uint64(len(buf)-n) {
		return nil, nil, fmt.Errorf("%w length", errStateMalformed)
	}
	end := n + int(size)
	return buf[n:end:end], buf[end:], nil
}
