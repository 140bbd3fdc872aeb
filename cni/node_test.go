package cni_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	_ "github.com/weaveguard/weaveguard/cni" // so that results aren't cached when the plugin changes
)

// binDir holds the plugin as runtimes find it, built once for all tests.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		return 1
	}
	var err error
	if binDir, err = os.MkdirTemp("", "weaveguard-cni-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binDir)
	build := exec.Command("go", "build", "-o", filepath.Join(binDir, "weaveguard"), "github.com/weaveguard/weaveguard/cmd/weaveguard-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the plugin: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// buildPlugins builds plugins of the CNI project beside ours.
func buildPlugins(t testing.TB, packages ...string) {
	t.Helper()
	for _, pkg := range packages {
		build := exec.Command("go", "build", "-o", binDir+"/", "github.com/containernetworking/plugins/plugins/"+pkg)
		build.Env = append(build.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
	}
}

func newNS(t testing.TB) ns.NetNS {
	t.Helper()
	n, err := testutils.NewNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNS(n) })
	return n
}

// closeNS removes a namespace, also one that a test has removed already.
func closeNS(n ns.NetNS) {
	_ = n.Close()
	_ = testutils.UnmountNS(n)
}

// in runs f in a namespace.
func in(t testing.TB, n ns.NetNS, f func() error) {
	t.Helper()
	if err := n.Do(func(ns.NetNS) error { return f() }); err != nil {
		t.Fatal(err)
	}
}

// node is a node in a network namespace of its own, with forwarding on as the agent leaves it.
type node struct {
	testing.TB
	ns      ns.NetNS
	dataDir string
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{TB: t, ns: newNS(t), dataDir: filepath.Join(t.TempDir(), "cni")}
	n.sysctl("net/ipv4/ip_forward", "1")
	n.sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		n.sysctl("net/bridge/bridge-nf-call-"+name, "1") // as where br_netfilter is loaded
	}
	return n
}

func (n *node) sysctl(key, value string) {
	n.Helper()
	in(n.TB, n.ns, func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
}

func (n *node) readSysctl(key string) string {
	n.Helper()
	var value string
	in(n.TB, n.ns, func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value
}

// netlink runs f with the node's netlink.
func (n *node) netlink(f func() error) {
	n.Helper()
	in(n.TB, n.ns, f)
}

// config is the network configuration as a runtime passes it, with changes; a nil value removes a key.
func (n *node) config(changes map[string]any) []byte {
	n.Helper()
	c := map[string]any{
		"cniVersion": "1.1.0", "name": "weaveguard", "type": "weaveguard",
		"subnets": []string{"10.32.5.0/24"}, "dataDir": n.dataDir,
		"readyFile": filepath.Join(n.dataDir, "no-such-ready-file.json"),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	b, err := json.Marshal(c)
	if err != nil {
		n.Fatal(err)
	}
	return b
}

// call is one run of the plugin.
type call struct {
	verb, container, netns, ifName, args string
	stdin                                []byte
	env                                  []string // overrides
}

func (n *node) command(c call) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binDir, "weaveguard"))
	if c.ifName == "" {
		c.ifName = "eth0"
	}
	cmd.Env = append([]string{"CNI_COMMAND=" + c.verb, "CNI_CONTAINERID=" + c.container, "CNI_NETNS=" + c.netns,
		"CNI_IFNAME=" + c.ifName, "CNI_ARGS=" + c.args, "CNI_PATH=" + binDir}, c.env...)
	cmd.Stdin = bytes.NewReader(c.stdin)
	return cmd
}

// run runs the plugin on the node, and returns its stdout, or its error.
func (n *node) run(c call) ([]byte, error) {
	n.Helper()
	cmd := n.command(c)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.ns.Do(func(ns.NetNS) error { return cmd.Run() })
	if stderr.Len() > 0 {
		n.Errorf("the plugin wrote to stderr: %s", stderr.String())
	}
	if err == nil {
		return stdout.Bytes(), nil
	}
	var coded types.Error
	if jsonErr := json.Unmarshal(stdout.Bytes(), &coded); jsonErr != nil {
		return nil, fmt.Errorf("%w, and no error of the CNI spec: %s", err, stdout.String())
	}
	return nil, &coded
}

// add attaches a sandbox, which must work.
func (n *node) add(container string, sandbox ns.NetNS, changes map[string]any) *current.Result {
	n.Helper()
	out, err := n.run(call{verb: "ADD", container: container, netns: sandbox.Path(), stdin: n.config(changes)})
	if err != nil {
		n.Fatalf("ADD: %v", err)
	}
	return n.parse(out)
}

func (n *node) parse(out []byte) *current.Result {
	n.Helper()
	generic, err := create.CreateFromBytes(out)
	if err != nil {
		n.Fatalf("the result %s: %v", out, err)
	}
	r, err := current.NewResultFromResult(generic)
	if err != nil {
		n.Fatal(err)
	}
	return r
}

// fails runs the plugin, which must answer with an error of this code that has all these words.
func (n *node) fails(c call, code uint, words ...string) {
	n.Helper()
	out, err := n.run(c)
	var coded *types.Error
	if !errors.As(err, &coded) {
		n.Fatalf("%s answered %s, %v; want an error of code %d", c.verb, out, err, code)
	}
	if coded.Code != code {
		n.Errorf("%s: code %d (%v), want %d", c.verb, coded.Code, coded, code)
	}
	for _, w := range words {
		if !strings.Contains(coded.Error(), w) {
			n.Errorf("%s: the error %q lacks %q", c.verb, coded, w)
		}
	}
}

// del detaches, which must work.
func (n *node) del(container, netns string) {
	n.Helper()
	if _, err := n.run(call{verb: "DEL", container: container, netns: netns, stdin: n.config(nil)}); err != nil {
		n.Fatalf("DEL: %v", err)
	}
}

// leftovers lists what the plugin keeps on the node: its interfaces but the bridge, attachments, taken addresses.
func (n *node) leftovers() []string {
	n.Helper()
	var found []string
	n.netlink(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "wv") {
				found = append(found, "interface "+l.Attrs().Name)
			}
		}
		return err
	})
	for _, dir := range []string{"attachments", "addresses", "removals"} {
		entries, err := os.ReadDir(filepath.Join(n.dataDir, dir))
		if err != nil && !os.IsNotExist(err) {
			n.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, dir+"/"+e.Name())
		}
	}
	return found
}

func (n *node) wantNoLeftovers() {
	n.Helper()
	if found := n.leftovers(); len(found) > 0 {
		n.Errorf("left behind: %v", found)
	}
}

var errNoReply = errors.New("no reply")

// ping sends echo requests from a namespace until one is answered, and returns the TTL of the reply.
func ping(from ns.NetNS, to netip.Addr, within time.Duration) (ttl int, err error) {
	err = from.Do(func(ns.NetNS) error {
		network, listen, request, reply, proto := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
		if to.Is6() {
			network, listen, request, reply, proto = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
		}
		c, err := icmp.ListenPacket(network, listen)
		if err != nil {
			return err
		}
		defer c.Close()
		if to.Is6() {
			err = c.IPv6PacketConn().SetControlMessage(ipv6.FlagHopLimit, true)
		} else {
			err = c.IPv4PacketConn().SetControlMessage(ipv4.FlagTTL, true)
		}
		if err != nil {
			return err
		}
		echo := icmp.Message{Type: request, Body: &icmp.Echo{ID: 1234, Seq: 1, Data: []byte("weaveguard")}}
		b, err := echo.Marshal(nil)
		if err != nil {
			return err
		}
		for end := time.Now().Add(within); time.Now().Before(end); {
			if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
				return err
			}
			if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				return err
			}
			if got, ok := readReply(c, to, proto, reply); ok {
				ttl = got
				return nil
			}
		}
		return errNoReply
	})
	return ttl, err
}

func readReply(c *icmp.PacketConn, to netip.Addr, proto int, reply icmp.Type) (ttl int, ok bool) {
	buf := make([]byte, 1500)
	for {
		var size int
		var from net.Addr
		var err error
		if to.Is6() {
			var cm *ipv6.ControlMessage
			if size, cm, from, err = c.IPv6PacketConn().ReadFrom(buf); err == nil && cm != nil {
				ttl = cm.HopLimit
			}
		} else {
			var cm *ipv4.ControlMessage
			if size, cm, from, err = c.IPv4PacketConn().ReadFrom(buf); err == nil && cm != nil {
				ttl = cm.TTL
			}
		}
		if err != nil {
			return 0, false
		}
		m, err := icmp.ParseMessage(proto, buf[:size])
		if err == nil && m.Type == reply && from.String() == to.String() {
			return ttl, true
		}
	}
}
