package cni

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

// detacher takes attachments from the kernel. It opens what it needs when it needs it.
type detacher struct {
	// hold has the process that removes the devices hold the socket of nftables, see guard.Remover. With many requests each
	// would have such a process until this one ends; then rather this one waits, once, in its end.
	hold    bool
	host    *bridge.Host
	remover *guard.Remover
}

func (d *detacher) close() {
	if d.host != nil {
		d.host.Close()
	}
}

// detach removes the interfaces of attachments, and takes these from the sets of senders. It returns an error or nil for each. What
// isn't there any more is no error; nor is an element that stays, as long as its port goes: nobody can send by it, and the agent
// removes it.
func (d *detacher) detach(all []store.Attachment) []error {
	errs := make([]error, len(all))
	if d.host == nil {
		host, err := openHost()
		if err != nil {
			return slices.Repeat([]error{err}, len(all))
		}
		d.host = host
	}
	unguarded := d.unguard(all)
	ends := make([]bridge.End, len(all))
	for i, a := range all {
		ends[i].Name = a.HostInterface()
		ends[i].MAC, _ = net.ParseMAC(a.MAC) // without it the interface is found by its name
	}
	for i, err := range d.host.Detach(ends...) {
		if err != nil {
			errs[i] = wrap(CodeKernel, fmt.Sprintf("removing the interface of %s", all[i].ID), errors.Join(err, unguarded))
		}
	}
	return errs
}

// detachOne is detach of one.
func (d *detacher) detachOne(a store.Attachment) error { return d.detach([]store.Attachment{a})[0] }

// unguard is the reverse of config.guard.
func (d *detacher) unguard(all []store.Attachment) error {
	var ports []guard.Port
	for _, a := range all {
		if port, err := guard.PortOf(a); err == nil { // else nobody knows the elements
			ports = append(ports, port)
		}
	}
	if len(ports) == 0 {
		return nil
	}
	if d.remover == nil {
		remover, err := guard.NewRemover()
		if err != nil {
			return err
		}
		if d.hold {
			d.host.Hold(remover.Descriptor())
		}
		d.remover = remover
	}
	return d.remover.Remove(ports...)
}
