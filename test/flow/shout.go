package flow

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// shoutEvery is how long a shout waits between two datagrams.
const shoutEvery = 5 * time.Millisecond

// Shout sends a payload over UDP again and again, whatever comes of it, until ctx ends, and calls tried each time. An
// error is that of the socket.
func Shout(ctx context.Context, to netip.AddrPort, payload []byte, tried func()) error {
	conn, err := net.ListenUDP("udp", nil) // not connected, so that no error of one datagram is told of the next
	if err != nil {
		return err
	}
	defer conn.Close()
	tick := time.NewTicker(shoutEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_, _ = conn.WriteToUDPAddrPort(payload, to)
			tried()
		}
	}
}
