package lab

import (
	"context"
	"net"
)

// Dial connects to an address as somebody in the place would: 127.0.0.1 is the place's own. The address has no name in it.
func (p *Place) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	ns, err := p.namespaces()
	if err != nil {
		return nil, err
	}
	err = ns.do(func() (err error) {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, network, address) // a socket stays where it was made
		return err
	})
	return conn, err
}
