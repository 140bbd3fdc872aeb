// Package echo measures whether and how fast hosts answer ICMP echo requests (RFC 792, and RFC 4443, section 4.1). It
// owns its sockets for the time of one measurement, and changes nothing.
package echo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Target is who is asked, and from which address of this host.
type Target struct {
	Source, Address netip.Addr // of one family
}

// Options say how often is asked, and how long is waited.
type Options struct {
	Count    int           // requests to each target, one at least
	Interval time.Duration // from one request to a target to the next
	Timeout  time.Duration // after which a request counts as not answered
}

// Result is what came of the requests to a target.
type Result struct {
	Sent, Received int
	// Min, Avg and Max are the times from a request to its answer; 0 without answers.
	Min, Avg, Max time.Duration
	// Err is why the last request that couldn't be sent couldn't be; nil: all were sent.
	Err error
}

// Loss is the part of the requests that weren't answered, from 0 to 1.
func (r Result) Loss() float64 {
	if r.Sent == 0 {
		return 1
	}
	return 1 - float64(r.Received)/float64(r.Sent)
}

// ErrNotAllowed says that this process may have no socket for ICMP: it has no CAP_NET_RAW, and the kernel's setting
// net.ipv4.ping_group_range (icmp(7)) doesn't let its group go without.
var ErrNotAllowed = errors.New("this process may not send ICMP echo requests")

// Run asks all targets at once, and returns the results in their order. It takes as long as the requests' intervals and
// the last request's answer do. With an error there are no results: it is of the sockets (see ErrNotAllowed), or of ctx.
func Run(ctx context.Context, targets []Target, o Options) ([]Result, error) {
	m := newMeasurement(targets, o)
	defer m.close()
	for _, t := range targets {
		if err := m.open(t.Source); err != nil {
			return nil, fmt.Errorf("opening a socket for ICMP at %s: %w", t.Source, err)
		}
	}
	for _, s := range m.sockets {
		m.readers.Go(func() { m.read(s) })
	}
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for round := range o.Count {
		if round > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-tick.C:
			}
		}
		m.send(round)
	}
	late := time.NewTimer(o.Timeout)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.answered:
	case <-late.C:
	}
	return m.end(), nil
}

// notAllowed reports whether an error of opening a socket is about rights.
func notAllowed(err error) bool { return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) }
