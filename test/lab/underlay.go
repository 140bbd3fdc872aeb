package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ifaFNoDAD makes an IPv6 address usable at once.
const ifaFNoDAD = unix.IFA_F_NODAD

// Cut takes the host off the underlay in silence: its port keeps its carrier,
// and what it sends or should get vanishes.
func (h *Host) Cut() error {
	port, err := h.lab.links.LinkByName(h.Name)
	if err != nil {
		return fmt.Errorf("cutting %s off: %w", h.Name, err)
	}
	if err := h.lab.links.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("cutting %s off: %w", h.Name, err)
	}
	return nil
}

// Heal undoes Cut and Partition for the host.
func (h *Host) Heal() error { return h.join(fabricBridge) }

// join puts the host's port on a bridge of the fabric.
func (h *Host) join(bridge string) error { return h.lab.join(h.Name, bridge) }

// join puts a port on a bridge of the fabric.
func (l *Lab) join(name, bridge string) error {
	master, err := l.links.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding the fabric's bridge %s: %w", bridge, err)
	}
	port, err := l.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the port of %s: %w", name, err)
	}
	if err := l.links.LinkSetMaster(port, master); err != nil {
		return fmt.Errorf("joining %s to the fabric's bridge %s: %w", name, bridge, err)
	}
	return nil
}

// setUp sets a port up.
func (l *Lab) setUp(name string) error {
	port, err := l.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the port of %s: %w", name, err)
	}
	if err := l.links.LinkSetUp(port); err != nil {
		return fmt.Errorf("setting the port of %s up: %w", name, err)
	}
	return nil
}

// Partition splits the underlay: hosts of one group reach each other and
// nobody else. Hosts in no group stay together. Heal undoes it.
func (l *Lab) Partition(groups ...[]*Host) error {
	for i, group := range groups {
		bridge := fmt.Sprintf("part%d", i)
		if _, err := l.links.LinkByName(bridge); err != nil {
			if err := l.addBridge(bridge); err != nil {
				return err
			}
		}
		for _, h := range group {
			if err := h.join(bridge); err != nil {
				return err
			}
		}
	}
	return nil
}

// Heal puts every host that is on back on the one fabric.
func (l *Lab) Heal() error {
	var errs []error
	for _, h := range l.Hosts {
		if h.machine != nil {
			errs = append(errs, h.Heal())
		}
	}
	return errors.Join(errs...)
}

// CutPair stops all traffic between two hosts, which both still reach the
// others, until heal is called.
func (l *Lab) CutPair(a, b *Host) (heal func() error, err error) {
	return l.drop("iifname "+a.Name+" oifname "+b.Name, "iifname "+b.Name+" oifname "+a.Name)
}

// BlockUDPBetween drops datagrams to the port of one of two hosts from the other, until heal is called.
func (l *Lab) BlockUDPBetween(from, to *Host, port uint16) (heal func() error, err error) {
	var matches []string
	for _, family := range []string{"ip", "ip6"} {
		matches = append(matches, fmt.Sprintf("iifname %s oifname %s ether type %s udp dport %d", from.Name, to.Name, family, port))
	}
	return l.drop(matches...)
}

// BlockUDP drops datagrams to the port that the host gets or sends, until heal
// is called.
func (l *Lab) BlockUDP(h *Host, port uint16) (heal func() error, err error) {
	return l.block(h, "udp", port)
}

// BlockTCP drops segments to the port that the host gets or sends, until heal
// is called.
func (l *Lab) BlockTCP(h *Host, port uint16) (heal func() error, err error) {
	return l.block(h, "tcp", port)
}

func (l *Lab) block(h *Host, protocol string, port uint16) (heal func() error, err error) {
	var matches []string
	for _, family := range []string{"ip", "ip6"} {
		for _, direction := range []string{"iifname", "oifname"} {
			matches = append(matches, fmt.Sprintf("%s %s ether type %s %s dport %d", direction, h.Name, family, protocol, port))
		}
	}
	return l.drop(matches...)
}

// drop adds rules that drop on the fabric what matches.
func (l *Lab) drop(matches ...string) (heal func() error, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx := context.Background() // nft on a private namespace is short
	if !l.blocking {
		const table = "add table bridge lab; add chain bridge lab forward { type filter hook forward priority 0; }"
		if _, err := l.Fabric.Run(ctx, "nft", table); err != nil {
			return nil, fmt.Errorf("making the fabric's filter: %w", err)
		}
		l.blocking = true
	}
	var handles []string
	for _, match := range matches {
		out, err := l.Fabric.Run(ctx, "nft", "--echo", "--handle", "add rule bridge lab forward "+match+" counter drop")
		if err != nil {
			return nil, fmt.Errorf("blocking on the fabric: %w", err)
		}
		fields := strings.Fields(out)
		at := slices.Index(fields, "handle")
		if at < 0 || at+1 >= len(fields) {
			return nil, fmt.Errorf("blocking on the fabric: nft didn't say the rule's handle: %s", out)
		}
		handles = append(handles, fields[at+1])
	}
	return func() error {
		var errs []error
		for _, handle := range handles {
			_, err := l.Fabric.Run(ctx, "nft", "delete rule bridge lab forward handle "+handle)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}, nil
}
