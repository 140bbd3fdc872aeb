// Package flow makes and counts test traffic: datagrams with sequence numbers,
// and bytes with a checksum. It owns what runs at one end of a flow, in a
// process of its own; package lab starts the ends in their namespaces and
// compares them. It never looks at the network's configuration.
package flow

import "math/bits"

// maxSequence bounds what a Counter remembers: 2^30 datagrams are 128 MiB.
const maxSequence = 1 << 30

// Counter tells new, repeated and late datagrams apart by their sequence
// numbers, which count from 0. It remembers each number, so it is exact.
type Counter struct {
	Received   uint64 // different datagrams
	Duplicated uint64 // further copies of them
	Reordered  uint64 // that came after one with a higher number

	seen []uint64 // a bit for each sequence number
	next uint64   // the highest number seen, plus one
}

// Add counts a datagram. It ignores numbers of 2^30 and above.
func (c *Counter) Add(seq uint64) {
	if seq >= maxSequence {
		return
	}
	word, bit := seq/64, uint64(1)<<(seq%64)
	for uint64(len(c.seen)) <= word {
		c.seen = append(c.seen, make([]uint64, len(c.seen)+1024)...)
	}
	if c.seen[word]&bit != 0 {
		c.Duplicated++
		return
	}
	c.seen[word] |= bit
	c.Received++
	if seq < c.next {
		c.Reordered++
		return
	}
	c.next = seq + 1
}

// LongestGap is the longest run of numbers below sent that never came.
func (c *Counter) LongestGap(sent uint64) uint64 {
	var longest, run uint64
	for seq := uint64(0); seq < sent; {
		var word uint64
		if i := seq / 64; i < uint64(len(c.seen)) {
			word = c.seen[i] >> (seq % 64)
		}
		left := min(64-seq%64, sent-seq)
		if word == 0 {
			run += left
			seq += left
			longest = max(longest, run)
			continue
		}
		zeros := min(uint64(bits.TrailingZeros64(word)), left)
		longest = max(longest, run+zeros)
		run = 0
		seq += zeros
		if zeros < left {
			seq += min(uint64(bits.TrailingZeros64(^(word >> zeros))), left-zeros)
		}
	}
	return longest
}
