package gossip

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSegment is how large TCP segments of gossip are, in bytes, without headers. They fit every path that IPv6 works on
// (1280 bytes; RFC 8200, section 5): a path may be narrower than it seems to be, and nobody tell. Packets are larger,
// up to memberlist's 1400: with less in each, news takes longer, and what a packet loses the next exchange brings.
const maxSegment = 1280 - 40 - 20

// limitSegments keeps a connection that is dialled from sending, and from being sent, larger segments.
func limitSegments(_, _ string, c syscall.RawConn) error {
	var err error
	control := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, maxSegment)
	})
	return errors.Join(control, err)
}
