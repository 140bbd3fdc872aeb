package agents_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// granted are the capabilities that the manifest gives to the agent, as setpriv(1) writes them.
var granted = []string{"net_admin", "dac_override"}

// With the capabilities of the manifest the agents do all that they are for.
func TestCapabilitiesSuffice(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 2)
	for _, n := range m.Nodes {
		ownDirs(t, n)
		n.Capabilities = granted
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	pods := podsOn(t, m.Nodes, "pod")
	pods[0].MustRun(t, "ping", "-c", "1", "-W", "5", pods[1].Addr.String())
	m.Nodes[0].Rotate(t)
	m.Nodes[0].AwaitKey(t, 1, rotationDeadline)
	pods[0].MustRun(t, "ping", "-c", "1", "-W", "5", pods[1].Addr.String())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Nodes[0].Agent.PID()))
	if err != nil {
		t.Fatal(err)
	}
	const netAdminAndDACOverride = "CapEff:\t0000000000001002" // bits 12 and 1, capabilities(7)
	if !strings.Contains(string(status), netAdminAndDACOverride) {
		t.Errorf("the agent has other capabilities than it should:\n%s", status)
	}
}

// Each of them is needed: without it an agent says what is missing, and isn't ready.
func TestEachCapabilityIsNeeded(t *testing.T) {
	t.Parallel()
	for _, missing := range []struct{ capability, says string }{
		{"net_admin", "NET_ADMIN"},
		{"dac_override", "permission denied"},
	} {
		t.Run(missing.capability, func(t *testing.T) {
			m := agents.New(t, 1)
			n := m.Nodes[0]
			ownDirs(t, n)
			if !m.Kernel {
				n.StartUserspace(t)
			}
			n.Capabilities = slices.DeleteFunc(slices.Clone(granted), func(c string) bool { return c == missing.capability })
			n.StartAgent(t)
			lab.Eventually(t, 30*time.Second, "the agent says what it can't do", func() error {
				if s, err := n.Status(t.Context()); err == nil && s.Ready {
					t.Fatal("the agent is ready: it doesn't need the capability")
				}
				if log := n.Agent.Log(); !strings.Contains(log, missing.says) {
					return fmt.Errorf("its log doesn't name %q", missing.says)
				}
				return nil
			})
		})
	}
}

// ownDirs gives the directories of the container runtime to another user, as some installers do.
func ownDirs(t *testing.T, n *agents.Node) {
	t.Helper()
	for _, dir := range []string{"/opt/cni/bin", "/etc/cni/net.d"} {
		n.MustRun(t, "sh", "-c", "mkdir -p "+dir+" && chown 1234:1234 "+dir+" && chmod 755 "+dir)
	}
}
