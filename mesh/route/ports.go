package route

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/cni/port"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// plugTime is how long the plugin may take to make an interface a port of its bridge. Until then nobody helps it.
const plugTime = 5 * time.Second

// ports puts interfaces of pods back on their bridges: those that somebody took off, and those of a bridge that was removed
// and made again.
func (a *Applier) ports(c *changes, links links, bridges []view.Bridge) {
	astray := slices.ContainsFunc(links.names(), func(name string) bool {
		return strings.HasPrefix(name, store.PortPrefix) && isAstray(links.byName[name])
	})
	if !astray || a.storeDir == "" {
		return
	}
	attached, err := store.ListIn(a.storeDir)
	if err != nil && len(attached) == 0 {
		c.fail(fmt.Errorf("finding out whose interfaces aren't on their bridge: %w", err))
		return
	}
	h := &netlink.Handle{} // of this namespace
	for _, at := range attached {
		link, bridge := links.byName[at.HostIfName], links.byName[at.Bridge]
		wanted := slices.ContainsFunc(bridges, func(b view.Bridge) bool { return b.Name == at.Bridge })
		mac, err := net.ParseMAC(at.MAC)
		if link == nil || bridge == nil || !wanted || err != nil || !isAstray(link) || time.Since(at.Created) < plugTime {
			continue
		}
		c.write(fmt.Sprintf("putting %s of the pod %s/%s back on the bridge %s", at.HostIfName, at.PodNamespace, at.PodName, at.Bridge), func() error {
			err := errors.Join(port.Connect(h, link, bridge.Attrs().Index, mac), netlink.LinkSetUp(link))
			if gone(err) {
				return errNoChange
			}
			return err
		})
	}
}

// isAstray reports whether an interface is no port of a bridge, or is down.
func isAstray(link netlink.Link) bool {
	return link.Attrs().MasterIndex == 0 || link.Attrs().Flags&net.FlagUp == 0
}
