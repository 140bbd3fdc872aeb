package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
)

// Pod is a sandbox that the CNI plugin attached.
type Pod struct {
	*lab.NetNS
	Addr   netip.Addr   // the first of Addrs
	Addrs  []netip.Addr // one of each of the pods' families, IPv4 first
	Config string       // of the plugin

	ID string // that the container runtime has of it

	node *Node
}

// usualConfig is what the container runtime gives to the plugin where the agent has set it up.
const usualConfig = `{"cniVersion":"1.0.0","name":"weaveguard","type":"weaveguard"}`

// AddPod makes a sandbox on the node and attaches it with the plugin that the agent installed.
func (n *Node) AddPod(t testing.TB, name string) *Pod {
	t.Helper()
	p := n.NewPod(t, name)
	if err := p.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// NewPod makes a sandbox that isn't attached yet.
func (n *Node) NewPod(t testing.TB, name string) *Pod {
	t.Helper()
	ns, err := n.NewNetNS(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return &Pod{NetNS: ns, Config: usualConfig, node: n, ID: n.Name + "-" + name}
}

// Attach attaches the pod.
func (p *Pod) Attach(ctx context.Context) error {
	out, err := p.plugin(ctx, "ADD")
	if err != nil {
		return fmt.Errorf("attaching pod %s on %s: %w\n%s", p.Name, p.node.Name, err, out)
	}
	addresses, err := addressesIn(out)
	if err == nil && len(addresses) != len(p.node.CIDRs) {
		err = fmt.Errorf("%d addresses, want %d", len(addresses), len(p.node.CIDRs))
	}
	if err != nil {
		return fmt.Errorf("attaching pod %s on %s: %w\n%s", p.Name, p.node.Name, err, out)
	}
	p.Addr, p.Addrs = addresses[0], addresses
	return nil
}

// addressesIn are the addresses in the result of ADD.
func addressesIn(result string) ([]netip.Addr, error) {
	var r struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, ip := range r.IPs {
		addresses = append(addresses, ip.Address.Addr())
	}
	return addresses, nil
}

// Remove detaches the pod.
func (p *Pod) Remove(t testing.TB) {
	t.Helper()
	if out, err := p.plugin(t.Context(), "DEL"); err != nil {
		t.Errorf("detaching pod %s: %v\n%s", p.Name, err, out)
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// AttachKilled begins to attach the pod, and kills the plugin after a while if it hasn't ended.
func (p *Pod) AttachKilled(t testing.TB, after time.Duration) {
	t.Helper()
	process := p.node.MustStart(t, p.command("ADD"))
	select {
	case <-process.Done():
	case <-time.After(after):
		_ = process.Kill() // it may end in between
	}
}

func (p *Pod) plugin(ctx context.Context, verb string) (string, error) {
	out, err := p.node.RunCommand(ctx, p.command(verb))
	p.node.mesh.secrets.keep("the plugin on "+p.node.Name, fmt.Sprint(out, err))
	return out, err
}

// command is the plugin as a runtime calls it.
func (p *Pod) command(verb string) lab.Command {
	return lab.Command{
		Path: "/opt/cni/bin/weaveguard",
		Env: []string{
			"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.ID, "CNI_NETNS=" + p.Path, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		},
		Stdin: strings.NewReader(p.Config),
	}
}
