package vm_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
	"github.com/weaveguard/weaveguard/test/output"
	"github.com/weaveguard/weaveguard/test/vm"
	"github.com/weaveguard/weaveguard/test/vm/guest"
)

const (
	// bootWithin is for how long what happens in an emulated machine that boots is waited for.
	bootWithin = 90 * time.Second
	// refusals is how often a pod is refused before the agent starts.
	refusals = 10
)

// bootScript is the boot of a node. It takes its address, the other node's, the address of a pod there, the marker, the
// plugin's configuration, how often the pod is refused before the agent starts, how far the clock is on in seconds, and the agent. As a kubelet does, it tries
// to start its pod from the first moment, and the pod sends the marker as soon as it is attached. The agent of a pod that
// isn't refused comes some seconds later.
const bootScript = `
set -eu
address=$1 peer=$2 to=$3 marker=$4 config=$5 refusals=$6 clock=$7
shift 7
date -s "@$(($(date +%s) + clock))" >/dev/null
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
ip link set eth0 up
ip address add "$address/24" dev eth0
ip route add default via "$peer" # so that whatever isn't held back leaves
sysctl -qw net.ipv4.ip_forward=1 # as on all nodes of Kubernetes
for dir in ` + contract.StateDir + ` /etc/cni/net.d /opt/cni/bin; do
	mkdir -p "` + guest.DiskDir + `$dir" "$dir"
	mount --bind "` + guest.DiskDir + `$dir" "$dir"
done
ip netns add pod
export CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin
agent() { echo "the agent starts"; "$@"; }
refused=0
until /opt/cni/bin/weaveguard <<<"$config"; do
	echo refused
	refused=$((refused + 1))
	if [ $refused = "$refusals" ]; then agent "$@" & fi
	sleep 0.1
done
echo attached
if [ $refused -lt "$refusals" ]; then (sleep 5; agent "$@") & fi # late
exec ip netns exec pod bash -c '` + sendLoop + `' bash "$marker" "$to"
`

// sendLoop sends a marker to an address without pause, whatever comes of it.
const sendLoop = `while :; do echo -n "$1" 2>/dev/null >/dev/udp/$2/9999; sleep 0.005; done 2>/dev/null`

// TestNothingLeaksThroughAReboot cuts the power of a node that is a machine with a kernel of its own, and boots it again. Its pod
// sends from the moment when it can be started, which is tried before there is an agent. Nothing of it is ever in the clear,
// but when the node's plugin is told not to wait for the agent.
func TestNothingLeaksThroughAReboot(t *testing.T) {
	r := newReboots(t)
	capture := r.Lab.Capture(t, "", []byte(r.there), []byte(r.here))
	first := r.boot(t, "", 0)
	r.hear(t, first)
	r.cut(t, first)
	second := r.boot(t, "", -time.Hour) // so that its handshakes seem to be replayed
	back := r.back(t, second)
	r.hear(t, second)
	faults.Record(t, faults.Measurement{
		Order: 14, Table: faults.Outages, Fault: "a node is cut off its power, and boots with its clock an hour back", Lane: faults.VM,
		Allowed: "back within 10 s of the agent's start", Recovery: back,
	})
	r.cut(t, second)
	if report := lab.StopQuiet(t, r.senders, capture)[0]; report.Marked != 0 {
		t.Errorf("through a reboot: %v\n%s", report, report.First)
	}
	for _, n := range []*booted{first, second} {
		before, _, started := strings.Cut(n.printed.String(), "the agent starts")
		if strings.Count(before, "refused\n") != refusals || !started {
			t.Errorf("the pod was tried %d times before the agent started (%t)", strings.Count(before, "refused\n"), started)
		}
	}

	capture = r.Lab.Capture(t, "", []byte(r.there))
	other := r.Lab.Capture(t, "", []byte(r.here))
	third := r.boot(t, fmt.Sprintf(`,"subnets":["%s"]`, r.cidr), 0)
	third.eventually(t, "without the guards of a node, its pod's marker is in the clear", func() error {
		if report := capture.Report(); report.Marked == 0 {
			return fmt.Errorf("the capture has seen: %v: this test can't tell", report)
		}
		return nil
	})
	r.cut(t, third)
	if report := lab.StopQuiet(t, r.senders, capture, other)[1]; report.Marked != 0 {
		t.Errorf("from the other node to one without guards: %v\n%s", report, report.First)
	}
	boots := map[string]bool{}
	for _, n := range []*booted{first, second, third} {
		id, _, _ := strings.Cut(n.printed.String(), "\n")
		boots[id] = true
	}
	if len(boots) != 3 {
		t.Errorf("the kernel was booted as %v, want three times", boots)
	}
}

// reboots is a mesh of two nodes: one of a lab, and one that is a virtual machine, which keeps its disk and nothing else
// when its power is cut. A pod of each sends to the other.
type reboots struct {
	*agents.Mesh
	near        *agents.Pod
	address     netip.Addr // of the machine
	cidr        netip.Prefix
	disk        string
	tap         *os.File
	there, here string // markers of the machine's pod, and of those who send to it
	senders     []*lab.Process
	heard       *lab.Process // prints a line for each datagram that comes to the near pod
}

func newReboots(t *testing.T) *reboots {
	t.Helper()
	r := &reboots{
		Mesh: agents.New(t, 1), address: netip.MustParseAddr("10.99.0.200"), cidr: netip.MustParsePrefix("10.32.200.0/24"),
		disk: t.TempDir(), there: rand.Text(), here: rand.Text(),
	}
	n := r.Nodes[0]
	n.MustRun(t, "ip", "route", "add", "default", "via", r.address.String())
	n.Args = []string{"--peers", r.address.String()}
	n.Start(t)
	r.near = n.NewPod(t, "near")
	lab.Eventually(t, time.Minute, "a pod is attached", func() error { return r.near.Attach(t.Context()) })
	r.heard = r.near.MustStart(t, lab.Command{Path: "tcpdump", Args: []string{"-l", "-n", "-i", "eth0", "udp and src net " + r.cidr.String()}})
	first := r.cidr.Addr().Next().Next().String() // pod there
	send := lab.Command{Name: "sender", Path: "bash", Args: []string{"-c", sendLoop, "bash", r.here, first}}
	r.senders = []*lab.Process{r.near.MustStart(t, send), n.MustStart(t, send)}
	tap, err := r.Lab.Plug("vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	r.tap = tap
	return r
}

// booted is one boot of the machine.
type booted struct {
	printed output.Buffer
	cut     context.CancelFunc
	ended   chan struct{}
	err     error // once it has ended
}

// boot switches the machine on, with its clock so far on. Its pod's plugin gets more configuration than usual.
func (r *reboots) boot(t *testing.T, more string, clock time.Duration) *booted {
	t.Helper()
	n := r.Nodes[0]
	config := `{"cniVersion":"1.0.0","name":"weaveguard","type":"weaveguard"` + more + `}`
	args := []string{r.address.String(), n.Addr4.String(), r.near.Addr.String(), r.there, config, fmt.Sprint(refusals), fmt.Sprint(int(clock.Seconds()))}
	args = append(args, r.AgentCommand(r.address, []netip.Prefix{r.cidr}, n.Addr)...)
	ctx, cut := context.WithCancel(t.Context())
	b := &booted{cut: cut, ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		_, b.err = vm.Run(ctx, vm.Options{Memory: 1024, Log: &b.printed, Disk: r.disk, Tap: r.tap},
			append([]string{"bash", "-c", bootScript, "boot"}, args...))
	}()
	t.Cleanup(func() {
		cut()
		<-b.ended
		if t.Failed() {
			t.Logf("a boot of the machine:\n%s", b.printed.String())
		}
		raw, err := os.ReadFile(filepath.Join(r.disk, contract.StateDir, keys.FileName))
		if err == nil {
			err = r.LearnKeys("the machine", raw)
		}
		if err != nil {
			t.Error(err)
		}
		r.CheckText(t, "what the machine printed", b.printed.String())
	})
	return b
}

// eventually waits for something while the machine runs.
func (b *booted) eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	lab.Eventually(t, bootWithin, what, func() error {
		select {
		case <-b.ended:
			t.Fatalf("%s: the machine ended first: %v", what, b.err)
		default:
		}
		return check()
	})
}

// hear waits until the near pod has heard the machine's 50 times more.
func (r *reboots) hear(t *testing.T, b *booted) {
	t.Helper()
	before := strings.Count(r.heard.Log(), " UDP, ")
	began := time.Now()
	b.eventually(t, "the machine's pod is heard", func() error {
		if n := strings.Count(r.heard.Log(), " UDP, ") - before; n < 50 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	t.Logf("the machine's pod is heard %.1f s after it was switched on", time.Since(began).Seconds())
}

// back is how long it took from the agent's start until the near pod heard the machine's.
func (r *reboots) back(t *testing.T, b *booted) time.Duration {
	t.Helper()
	b.eventually(t, "the agent starts", func() error {
		if !strings.Contains(b.printed.String(), "the agent starts") {
			return errors.New("it hasn't started yet")
		}
		return nil
	})
	before := strings.Count(r.heard.Log(), " UDP, ")
	began := time.Now()
	b.eventually(t, "the machine's pod is heard", func() error {
		if strings.Count(r.heard.Log(), " UDP, ") == before {
			return errors.New("nothing is heard")
		}
		return nil
	})
	return time.Since(began)
}

// cut cuts the machine's power.
func (r *reboots) cut(t *testing.T, b *booted) {
	t.Helper()
	b.cut()
	if <-b.ended; !errors.Is(b.err, context.Canceled) {
		t.Fatalf("the machine ended: %v", b.err)
	}
}
