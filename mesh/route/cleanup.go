package route

import (
	"context"

	"github.com/vishvananda/netlink"
)

// Cleanup removes all that is ours: routes, tunnel devices, and bridges, with or without ports. Settings of the
// kernel stay: others may rely on them by now.
func (a *Applier) Cleanup(ctx context.Context) (int, error) {
	c := a.begin(ctx)
	table, err := readRoutes()
	if err != nil {
		return 0, err
	}
	routes := table.surplus
	for _, route := range table.ours {
		routes = append(routes, route)
	}
	links, err := readLinks()
	if err != nil {
		return 0, err
	}
	c.removeRoutes(routes)
	for _, name := range links.names() {
		if link := links.byName[name]; isTunnel(link) || isOurBridge(link) {
			c.write("removing "+name, func() error { return netlink.LinkDel(link) })
		}
	}
	return c.result()
}
