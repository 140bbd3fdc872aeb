// Package port connects an interface of a pod, the end on the node, with a bridge.
package port

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connect makes a link a port of the bridge that reaches no other port. The bridge doesn't learn from it: it is told where the
// sandbox's MAC is, and no frame moves that, not even one to the bridge itself, which no firewall sees. It is safe to repeat.
func Connect(h *netlink.Handle, link netlink.Link, bridgeIndex int, mac net.HardwareAddr) error {
	name := link.Attrs().Name
	if err := h.LinkSetMasterByIndex(link, bridgeIndex); err != nil {
		return fmt.Errorf("making %s a port of the bridge: %w", name, err)
	}
	if err := h.LinkSetIsolated(link, true); err != nil {
		return fmt.Errorf("isolating the bridge port %s: %w", name, err)
	}
	if err := h.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("keeping the bridge from learning on %s: %w", name, err)
	}
	entry := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
		Flags: netlink.NTF_MASTER | netlink.NTF_STICKY, HardwareAddr: mac}
	if err := h.NeighSet(entry); err != nil {
		return fmt.Errorf("telling the bridge that %s leads to %s: %w", name, mac, err)
	}
	return nil
}
