package route

import (
	"context"
	"fmt"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// ApplyDevices gives the tunnel devices, which must exist, loose reverse path filtering, our alias, their MTU and
// addresses, and brings them up. The filter comes first: until a device is up it has no socket, so no peer's
// packet meets a strict one. Devices that aren't among them are left alone.
func (a *Applier) ApplyDevices(ctx context.Context, devices []view.Device) (int, error) {
	c := a.begin(ctx)
	links, err := readLinks()
	if err != nil {
		return 0, err
	}
	for _, device := range devices {
		link := links.byName[device.Name]
		switch {
		case link == nil:
			c.fail(fmt.Errorf("the tunnel device %s doesn't exist: it has to be made before it gets addresses",
				device.Name))
		case !isTunnel(link):
			c.fail(fmt.Errorf("the interface %s isn't a tunnel device of Weaveguard but %s: remove it "+
				"(`ip link delete %s`) or rename it", device.Name, describe(links.host(link)), device.Name))
		default:
			// The kernel takes the maximum of this and the setting of "all", so 0 wouldn't help (kernel's
			// ip-sysctl.rst, rp_filter).
			a.sysctl(c, contract.Sysctl{Key: "net/ipv4/conf/" + device.Name + "/rp_filter", Value: "2"})
			c.adopt(link, device.MTU)
			c.addresses(link, a.withFamilies(c, device.Name, device.Addresses))
		}
	}
	return c.result()
}

func describe(link contract.HostLink) string {
	if link.Kind == "" {
		return "a physical interface"
	}
	return "a " + link.Kind + " interface"
}
