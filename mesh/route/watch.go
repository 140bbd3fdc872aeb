package route

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchBuffer is the size in bytes of the socket's buffer. An overflow costs no more than a needless look.
const watchBuffer = 1 << 20

// Watch calls changed after each change of links, addresses, routes, forwarding and reverse path filters, whoever
// made it, until ctx ends; then it returns nil. Changed must not block: it sets a latch. Changes that came too
// fast to be told count as one. The settings of bridges aren't told by the kernel.
func (a *Applier) Watch(ctx context.Context, changed func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("subscribing to the kernel's changes of links and routes: %w", err)
	}
	defer socket.Close()
	// Beyond the system's limit where that is allowed.
	if socket.SetReceiveBufferSize(watchBuffer, true) != nil {
		if err := socket.SetReceiveBufferSize(watchBuffer, false); err != nil {
			return fmt.Errorf("setting the buffer of the subscription to links and routes: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, socket.Close)
	defer stop()
	changed() // what changed before the subscription stood
	for {
		_, _, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS):
			changed()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		default:
			return fmt.Errorf("receiving the kernel's changes of links and routes: %w", err)
		}
	}
}
