package agents_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// byHand is what `weaveguard attach -o json` says.
type byHand struct {
	ID, Netns, Interface, Network string
	Addresses, Gateways           []netip.Addr
	MTU                           int
	MAC                           string
}

// Network namespaces that the CLI attaches, named in each way, are as those that a runtime attaches: they talk across the
// mesh, also on a further network, and are gone without the agent and the namespace.
func TestAttachByHand(t *testing.T) {
	t.Parallel()
	m := agents.NewOf(t, 2, agents.Options{Pods: agents.Dual})
	for i, n := range m.Nodes {
		blue.write(t, n, i+1)
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	near, far := m.Nodes[0], m.Nodes[1]
	web := newNetNS(t, near, "web")
	job := newNetNS(t, far, "job")

	first := addressesOf(t, near.CLI(t, "attach", "web"))
	wanted := far.CIDR.Addr().Next().Next().Next().Next().Next() // the fifth of its CIDR
	process := job.MustStart(t, lab.Command{Path: "sleep", Args: []string{"1000"}})
	var second byHand
	decode(t, far.CLI(t, "attach", pidOn(t, far, process), "--id", "job", "--ip", wanted.String(), "-o", "json"), &second)
	if !slices.Contains(second.Addresses, wanted) || len(second.Addresses) != 2 || second.Network != "default" || second.MTU == 0 {
		t.Errorf("asked for %s, attach says %+v", wanted, second)
	}
	reach(t, web, second.Addresses...)
	reach(t, job, first...)

	if out, err := runCLI(t, near, "attach", "web"); err == nil || !strings.Contains(out, "web is attached already") {
		t.Errorf("a second attach says: %v", err)
	}
	if out, err := runCLI(t, near, "attach", "web", "--id", "other"); err == nil || !strings.Contains(out, "has an interface eth0 already") {
		t.Errorf("an interface that is there already: %v", err)
	}
	if out, err := runCLI(t, near, "attach", fmt.Sprint(1)); err == nil || !strings.Contains(out, "own network namespace") {
		t.Errorf("the host's own namespace: %v", err)
	}

	// A further interface, on a further network.
	onBlue := addressesOf(t, near.CLI(t, "attach", "web", "--ifname", "net1", "--network", "blue"))
	lab.Eventually(t, 30*time.Second, "the other host has the network too", func() error {
		_, err := runCLI(t, far, "attach", "/run/netns/job", "--ifname", "net1", "--network", "blue")
		return err
	})
	reach(t, job, onBlue...)
	wantAttached(t, near, 2)

	near.CLI(t, "detach", "web", "--ifname", "net1")
	near.CLI(t, "detach", "web", "--ifname", "net1") // again
	reach(t, job, first...)
	wantAttached(t, near, 1)

	// Without agent and namespace.
	if err := near.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := web.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	near.CLI(t, "detach", "web")
	if files := strings.TrimSpace(near.MustRun(t, "sh", "-c", "ls /run/weaveguard/cni/attachments /run/weaveguard/libcni/results")); strings.Contains(files, "web") {
		t.Errorf("detached, and still there is:\n%s", files)
	}
	near.StartAgent(t)
	lab.Eventually(t, 30*time.Second, "the address is free", func() error {
		return freeAgain(t, near, first[0])
	})
}

// freeAgain attaches another namespace with an address.
func freeAgain(t *testing.T, n *agents.Node, address netip.Addr) error {
	t.Helper()
	if _, err := n.Run(t.Context(), "ip", "netns", "add", "next"); err != nil && !strings.Contains(err.Error(), "File exists") {
		return err
	}
	_, err := runCLI(t, n, "attach", "next", "--ip", address.String())
	return err
}

func newNetNS(t *testing.T, n *agents.Node, name string) *lab.NetNS {
	t.Helper()
	ns, err := n.NewNetNS(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// pidOn is the number that a process has on its host.
func pidOn(t *testing.T, n *agents.Node, p *lab.Process) string {
	t.Helper()
	status := n.MustRun(t, "sh", "-c", "pgrep -x sleep")
	if fields := strings.Fields(status); len(fields) == 1 {
		return fields[0]
	}
	t.Fatalf("the processes of %s on %s: %q", p.Name, n.Name, status)
	return ""
}

// runCLI is the CLI's output and error, and the error that it ended with.
func runCLI(t *testing.T, n *agents.Node, args ...string) (string, error) {
	t.Helper()
	out, err := n.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), args...)
	if err != nil {
		return strings.Join(strings.Fields(err.Error()), " "), err
	}
	return out, nil
}

// addressesOf are what attach prints.
func addressesOf(t *testing.T, out string) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, line := range strings.Fields(out) {
		address, err := netip.ParseAddr(line)
		if err != nil {
			t.Fatalf("attach printed %q: %v", out, err)
		}
		all = append(all, address)
	}
	if len(all) == 0 {
		t.Fatal("attach printed no address")
	}
	return all
}

func decode(t *testing.T, text string, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), value); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}

// reach pings addresses from a namespace.
func reach(t *testing.T, from *lab.NetNS, addresses ...netip.Addr) {
	t.Helper()
	for _, address := range addresses {
		lab.Eventually(t, 20*time.Second, from.Name+" reaches "+address.String(), func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := from.Run(ctx, "ping", "-c", "1", "-W", "1", address.String())
			return err
		})
	}
}

// wantAttached waits for the agent to count this many interfaces.
func wantAttached(t *testing.T, n *agents.Node, want int) {
	t.Helper()
	lab.Eventually(t, 20*time.Second, "the agent counts what is attached", func() error {
		s, err := n.Status(t.Context())
		if err == nil && s.Attachments != want {
			err = fmt.Errorf("%d are attached, want %d", s.Attachments, want)
		}
		return err
	})
}
