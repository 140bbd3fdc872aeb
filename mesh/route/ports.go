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

// ports puts interfaces of pods back on their bridges: those that somebody took off, or put on another one, and those of a
// bridge that was removed and made again. Onto a bridge that isn't ours, whatever its name, it puts none.
func (a *Applier) ports(c *changes, links links, bridges []view.Bridge) {
	ours := make(map[int]bool) // by index
	for _, bridge := range bridges {
		if link := links.byName[bridge.Name]; link != nil && isOurBridge(link) {
			ours[link.Attrs().Index] = true
		}
	}
	astray := slices.ContainsFunc(links.names(), func(name string) bool {
		link := links.byName[name]
		return strings.HasPrefix(name, store.PortPrefix) && (!ours[link.Attrs().MasterIndex] || isDown(link))
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
		mac, err := net.ParseMAC(at.MAC)
		if link == nil || link.Type() != "veth" || bridge == nil || !ours[bridge.Attrs().Index] || err != nil || isNew(at) {
			continue
		}
		if link.Attrs().MasterIndex == bridge.Attrs().Index && !isDown(link) {
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

func isDown(link netlink.Link) bool { return link.Attrs().Flags&net.FlagUp == 0 }

// isNew reports whether the plugin may be at it still. One of the future is of a clock that was set back since.
func isNew(at store.Attachment) bool {
	age := time.Since(at.Created)
	return age >= 0 && age < plugTime
}
