package agents_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// weaveNet is what Weave Net leaves on a host, in short; mesh/weavenet has all of it. Its router drops whatever goes to an interface
// called weave and that its policy controller doesn't accept.
const weaveNet = `
ip link add weave address 8a:5c:11:22:33:44 type bridge
ip link add vethwe-bridge type veth peer name vethwe-pcap
ip link set vethwe-bridge master weave
ip link add vethwepl1a2b3c4 type veth peer name inside
ip link set vethwepl1a2b3c4 master weave
ip address add 10.32.0.1/12 dev weave
ip link set weave up
iptables -N WEAVE-NPC
iptables -I FORWARD 1 -o weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC
iptables -I FORWARD 2 -o weave -j DROP
iptables -t nat -N WEAVE
iptables -t nat -A WEAVE -s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE
iptables -t nat -A POSTROUTING -j WEAVE
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/weave
echo '{"name": "weave", "plugins": [{"type": "weave-net"}]}' > /etc/cni/net.d/10-weave.conflist
touch /opt/cni/bin/weave-plugin-2.8.1 /var/lib/weave/weave-netdata.db
ln -s weave-plugin-2.8.1 /opt/cni/bin/weave-net
`

// A node moves from Weave Net as docs/weave-net.md says: what it left is named, isn't touched while pods are attached to it, and is
// removed on request with the agent running, which then goes on by itself.
func TestMoveFromWeaveNet(t *testing.T) {
	t.Parallel() // it counts no packets
	m := agents.New(t, 2)
	n := m.Nodes[0]
	const stranger = "iptables -A FORWARD -i weave -p tcp --dport 25 -j DROP; iptables -N STRANGER"
	n.MustRun(t, "sh", "-ec", stranger)
	rules := func() string {
		return changing.ReplaceAllString(n.MustRun(t, "sh", "-ec", "iptables -S; iptables -t nat -S"), "")
	}
	n.MustRun(t, "sh", "-ec", "iptables -t nat -L > /dev/null")
	before := rules()
	n.MustRun(t, "sh", "-ec", weaveNet)
	for _, node := range m.Nodes {
		node.Start(t)
	}
	finds(t, n, diagnosis{cause: "it has left on this host: its bridge weave", remedy: "cleanup --weave-net", after: 2})
	if out, err := n.RunAgent(t.Context(), "cleanup", "--weave-net"); err == nil || !strings.Contains(err.Error(), "vethwepl1a2b3c4): drain the node") {
		t.Errorf("with a pod: %v\n%s", err, out)
	}
	n.MustRun(t, "ip", "link", "delete", "vethwepl1a2b3c4")
	out, err := n.RunAgent(t.Context(), "cleanup", "--weave-net")
	if err != nil || !strings.Contains(out, "removed: the interface weave\n") || !strings.Contains(out, "removed: /var/lib/weave\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := rules(); after != before {
		t.Errorf("the rules of others differ (< before, > after):\n%s", diff(sorted(before), sorted(after)))
	}
	m.WaitUp(t, time.Minute)
	a, b := n.AddPod(t, "pod"), m.Nodes[1].AddPod(t, "pod")
	b.MustRun(t, "ping", "-c", "2", "-i", "0.2", "-W", "5", a.Addr.String()) // to the interface weave
	lab.Eventually(t, 20*time.Second, "doctor finds nothing more", func() error {
		out, err := n.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "doctor")
		if err == nil && strings.Contains(out, "Weave Net") && !strings.HasPrefix(out, "nothing is wrong") {
			err = errors.New(out)
		}
		return err
	})
	if out, err := n.RunAgent(t.Context(), "cleanup", "--weave-net"); err != nil || out != "there is nothing of Weave Net's\n" {
		t.Errorf("the second time: %v\n%s", err, out)
	}
}
