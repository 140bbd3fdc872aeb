package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// NetNS is a network namespace on a host, for a sandbox: to attach with a CNI
// plugin and to run commands in. Those have the host's files and processes.
type NetNS struct {
	*Place
	Name string
	Path string // for CNI_NETNS, as the host sees it
	Host *Host

	file *os.File // holds it open
}

// NewNetNS makes a named network namespace, with only lo, up. It goes with the
// host or by Delete.
func (h *Host) NewNetNS(ctx context.Context, name string) (*NetNS, error) {
	if _, err := h.Run(ctx, "ip", "netns", "add", name); err != nil {
		return nil, err
	}
	n, err := h.OpenNetNS(name)
	if err != nil {
		return nil, err
	}
	if _, err := n.Run(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, n.Delete(ctx))
	}
	return n, nil
}

// OpenNetNS is a named network namespace that somebody made on the host.
func (h *Host) OpenNetNS(name string) (*NetNS, error) {
	n := &NetNS{Name: name, Path: "/run/netns/" + name, Host: h}
	host, err := h.namespaces()
	if err != nil {
		return nil, err
	}
	own := *host
	err = host.do(func() (err error) {
		own.net, err = os.Open(n.Path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace %s of %s: %w", name, h.Name, err)
	}
	n.file = own.net
	h.lab.mu.Lock()
	h.lab.netns = append(h.lab.netns, n)
	h.lab.mu.Unlock()
	n.Place = &Place{lab: h.lab, name: h.Name + "." + name, ns: &own}
	return n, nil
}

// Delete removes the namespace's name. The namespace itself lives until the
// last process in it ends.
func (n *NetNS) Delete(ctx context.Context) error {
	n.release()
	_, err := n.Host.Run(ctx, "ip", "netns", "del", n.Name)
	return err
}

// release lets go of the namespace.
func (n *NetNS) release() {
	n.setNamespaces(nil)
	_ = n.file.Close() // an error says that it is closed
}
