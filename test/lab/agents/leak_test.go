package agents_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// The agent is killed and the tunnel's device is gone: what a pod sends to another node's pod doesn't leave in the clear,
// though the host has a default route. Without the table and the unreachable route it does, so the capture can tell.
func TestNothingLeaksWithoutAgentAndDevice(t *testing.T) {
	m := agents.Up(t, 2)
	if m.Kernel {
		t.Skip("the device goes with the userspace daemon, and here the kernel has WireGuard")
	}
	n := m.Nodes[0]
	pods := podsOn(t, m.Nodes, "leak")
	n.MustRun(t, "ip", "route", "add", "default", "via", m.Nodes[1].Addr4.String())
	const marker = "weaveguard-leak-marker-31415926535"
	capture := m.Lab.Capture(t, "", []byte(marker))
	sender := pods[0].MustStart(t, lab.Command{Name: "sender", Path: "bash", Args: []string{"-c", fmt.Sprintf(
		"while :; do echo -n %s >/dev/udp/%s/9999 && echo sent; sleep 0.005; done 2>/dev/null", marker, pods[1].Addr)}})
	more := func() {
		t.Helper()
		before := strings.Count(sender.Log(), "sent")
		lab.Eventually(t, 10*time.Second, "100 more datagrams are sent", func() error {
			if got := strings.Count(sender.Log(), "sent") - before; got < 100 {
				return fmt.Errorf("%d are", got)
			}
			return nil
		})
	}
	more()
	if err := n.Agent.Kill(); err != nil {
		t.Log(err)
	}
	if err := n.Userspace.Kill(); err != nil {
		t.Log(err)
	}
	more()
	guarded := capture.Stop()
	if guarded.Marked != 0 || guarded.Packets == 0 || guarded.Dropped != 0 {
		t.Errorf("with the guards the capture has seen %v\n%s", guarded, guarded.First)
	}

	bare := m.Lab.Capture(t, "", []byte(marker))
	n.MustRun(t, "nft", "delete", "table", "inet", "weaveguard")
	n.MustRun(t, "ip", "route", "del", "unreachable", agents.PodRange.String())
	more()
	if seen := bare.Stop(); seen.Marked == 0 {
		t.Errorf("without the guards the capture has seen %v, so it can't tell", seen)
	}
}
