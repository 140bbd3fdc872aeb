package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// runtime calls the plugin as container runtimes do: by libcni, with its cache of results.
type runtime struct {
	*node
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

// runtime has a list of our plugin, with changes to its configuration, and of more behind it.
func (n *node) runtime(version string, changes map[string]any, more ...map[string]any) *runtime {
	n.Helper()
	var plugin map[string]any
	if err := json.Unmarshal(n.config(changes), &plugin); err != nil {
		n.Fatal(err)
	}
	maps.DeleteFunc(plugin, func(key string, _ any) bool { return key == "cniVersion" || key == "name" })
	plugins := append([]map[string]any{plugin}, more...)
	text, err := json.Marshal(map[string]any{"cniVersion": version, "name": "weaveguard", "plugins": plugins})
	if err != nil {
		n.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(text)
	if err != nil {
		n.Fatal(err)
	}
	return &runtime{node: n, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{binDir}, n.TempDir(), nil)}
}

func attachment(container string, sandbox ns.NetNS) *libcni.RuntimeConf {
	c := &libcni.RuntimeConf{ContainerID: container, IfName: "eth0"}
	if sandbox != nil {
		c.NetNS = sandbox.Path()
	}
	return c
}

// on runs f where a runtime runs.
func (r *runtime) on(f func(ctx context.Context) error) error {
	return r.ns.Do(func(ns.NetNS) error { return f(r.Context()) })
}

func (r *runtime) add(a *libcni.RuntimeConf) (result types.Result, err error) {
	err = r.on(func(ctx context.Context) error { result, err = r.cni.AddNetworkList(ctx, r.list, a); return err })
	return result, err
}

func (r *runtime) check(a *libcni.RuntimeConf) error {
	return r.on(func(ctx context.Context) error { return r.cni.CheckNetworkList(ctx, r.list, a) })
}

func (r *runtime) del(a *libcni.RuntimeConf) error {
	return r.on(func(ctx context.Context) error { return r.cni.DelNetworkList(ctx, r.list, a) })
}

func (r *runtime) gc(valid ...types.GCAttachment) error {
	return r.on(func(ctx context.Context) error {
		return r.cni.GCNetworkList(ctx, r.list, &libcni.GCArgs{ValidAttachments: valid})
	})
}

func (r *runtime) status() error {
	return r.on(func(ctx context.Context) error { return r.cni.GetStatusNetworkList(ctx, r.list) })
}

// wantCode wants an error of the CNI spec with this code.
func wantCode(t *testing.T, what string, err error, code uint) {
	t.Helper()
	var coded *types.Error
	if !errors.As(err, &coded) || coded.Code != code {
		t.Errorf("%s: %v, want an error of code %d", what, err, code)
	}
}

// families are subnets of a node by the families of its pods.
var families = map[string][]string{
	"IPv4": {"10.32.5.0/24"}, "IPv6": {"fd00:5::/64"}, "dual stack": {"10.32.5.0/24", "fd00:5::/64"},
}

// Each verb by libcni, in each version of the spec that has it and with pods of each family, with what the spec says of it.
func TestByLibcni(t *testing.T) {
	for family, subnets := range families {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(family+", "+version, func(t *testing.T) { testVersion(t, subnets, version) })
		}
	}
}

func testVersion(t *testing.T, subnets []string, version string) {
	since := map[string][]string{ // by verb, the versions that have it
		"CHECK": {"0.4.0", "1.0.0", "1.1.0"}, "GC": {"1.1.0"}, "STATUS": {"1.1.0"},
	}
	has := func(verb string) bool { return slices.Contains(since[verb], version) }
	n := newNode(t)
	r := n.runtime(version, map[string]any{"subnets": subnets})
	sandbox := newNS(t)
	one := attachment("one", sandbox)

	result, err := r.add(one)
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	if result.Version() != version {
		t.Errorf("ADD answers in version %s", result.Version())
	}
	var ips []current.IPConfig
	for _, ip := range latest(t, result).IPs {
		ips = append(ips, *ip)
	}
	if len(ips) != len(subnets) {
		t.Errorf("ADD answers with the addresses %v, of %v", ips, subnets)
	}
	if _, err := r.add(one); err == nil {
		t.Error("a second ADD of an attachment succeeds")
	}
	if has("CHECK") {
		r.checks(t, one, sandbox, ips)
	} else if err := r.check(one); err == nil {
		t.Error("CHECK succeeds in a version that hasn't got it")
	}
	if has("STATUS") {
		if err := r.status(); err != nil {
			t.Errorf("STATUS: %v", err)
		}
		wantCode(t, "STATUS without the agent", n.runtime(version, map[string]any{"subnets": nil}).status(), 50)
	}
	if has("GC") {
		r.collects(t)
	}
	for _, a := range []*libcni.RuntimeConf{one, one, attachment("one", nil), attachment("never", sandbox)} {
		if err := r.del(a); err != nil {
			t.Errorf("DEL of %s in %q: %v", a.ContainerID, a.NetNS, err)
		}
	}
	gone := newNS(t)
	two := attachment("two", gone)
	if _, err := r.add(two); err != nil {
		t.Fatalf("ADD: %v", err)
	}
	closeNS(gone)
	if err := r.del(two); err != nil {
		t.Errorf("DEL without the sandbox: %v", err)
	}
	n.wantNoLeftovers()
}

// latest is a result as the newest version has it.
func latest(t *testing.T, result types.Result) *current.Result {
	t.Helper()
	converted, err := current.NewResultFromResult(result)
	if err != nil {
		t.Fatal(err)
	}
	return converted
}

// checks spoils an attachment, which CHECK finds.
func (r *runtime) checks(t *testing.T, a *libcni.RuntimeConf, sandbox ns.NetNS, ips []current.IPConfig) {
	t.Helper()
	type step struct {
		what   string
		change func() error
		well   bool
	}
	mtu := func(mtu int) func() error {
		return onLink("eth0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
	}
	steps := []step{
		{"as ADD made it", func() error { return nil }, true},
		{"another MTU", mtu(1300), false},
		{"the MTU as before", mtu(1420), true},
	}
	for _, ip := range ips {
		var route netlink.Route
		steps = append(steps,
			step{"no route by " + ip.Gateway.String(), onLink("eth0", func(l netlink.Link) error {
				family := netlink.FAMILY_V4
				if ip.Gateway.To4() == nil {
					family = netlink.FAMILY_V6
				}
				routes, err := netlink.RouteList(l, family)
				if err != nil {
					return err
				}
				route = routes[slices.IndexFunc(routes, func(r netlink.Route) bool { return ip.Gateway.Equal(r.Gw) })]
				return netlink.RouteDel(&route)
			}), false},
			step{"the route as before", func() error { return netlink.RouteAdd(&route) }, true},
		)
	}
	for _, ip := range ips {
		steps = append(steps, step{"without " + ip.Address.String(), onLink("eth0", func(l netlink.Link) error {
			return netlink.AddrDel(l, &netlink.Addr{IPNet: &ip.Address})
		}), false})
	}
	for _, s := range steps {
		in(t, sandbox, s.change)
		if err := r.check(a); (err == nil) != s.well {
			t.Errorf("CHECK, %s: %v", s.what, err)
		}
	}
}

// collects has GC remove what the runtime doesn't list, and nothing else.
func (r *runtime) collects(t *testing.T) {
	t.Helper()
	kept, stale := attachment("kept", newNS(t)), attachment("stale", newNS(t))
	for _, a := range []*libcni.RuntimeConf{kept, stale} {
		if _, err := r.add(a); err != nil {
			t.Fatalf("ADD: %v", err)
		}
	}
	if err := r.gc(types.GCAttachment{ContainerID: "one", IfName: "eth0"}, types.GCAttachment{ContainerID: "kept", IfName: "eth0"}); err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := r.check(kept); err != nil {
		t.Errorf("CHECK of what GC keeps: %v", err)
	}
	if err := r.check(stale); err == nil {
		t.Error("GC left a stale attachment")
	}
	if err := r.del(kept); err != nil {
		t.Errorf("DEL: %v", err)
	}
}
