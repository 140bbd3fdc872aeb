package product_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/family"
)

// markers are in all that test pods send: the first in the payloads of the probe, the second in echo requests.
var markers = [][]byte{[]byte("WEAVEGUARD-TEST-PLAINTEXT"), bytes.Repeat([]byte("W"), 16)}

// watch looks into every packet that passes the bridge between the hosts, while it passes.
type watch struct {
	stdin io.Closer
	mark  []byte // the payload of the datagram that ends it
	done  chan struct{}

	seen sightings // the reader's until done is closed
	err  error
}

// sightings are what a watch has seen.
type sightings struct {
	packets   int
	tunnelled int64        // bytes of the packets between tunnel ports
	clear     map[ends]int // packets with a marker
	inner     map[ends]int // packets from or to pods, outside of the tunnels
	fragments map[ends]int // first fragments of IP packets; the others have no ports
}

// ends are both ends of a packet; ports are 0 where there are none.
type ends struct{ from, to netip.AddrPort }

func (e ends) String() string { return fmt.Sprintf("%s > %s", e.from, e.to) }

// has tells whether an address and port is one of the ends.
func (e ends) has(a netip.AddrPort) bool { return e.from == a || e.to == a }

// watchScript runs tcpdump until standard input ends, so that it ends with whoever started it.
const watchScript = `tcpdump "$@" </dev/null & pid=$!; read -r _; kill -TERM $pid; wait $pid`

// watchUnderlay begins to look, and returns once packets are seen. (In its immediate mode tcpdump would have a buffer for
// a thousand packets, however large. The buffer is for a minute in which this test gets no processor: the daemons that carry
// the traffic go before it.)
func (w *world) watchUnderlay(t *testing.T) *watch {
	t.Helper()
	cmd, err := w.Command(context.WithoutCancel(t.Context()), cluster.Fabric, "sh", "-c", watchScript, "tcpdump", "-i", api.FabricBridge,
		"-n", "-Z", "root", "--packet-buffered", "--buffer-size=524288", "-w", "-")
	if err != nil {
		t.Fatal(err)
	}
	u := &watch{mark: []byte("end of watch " + rand.Text()), done: make(chan struct{})}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	stderr, err3 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	u.stdin = stdin
	t.Cleanup(func() {
		_ = stdin.Close() // however often
		<-u.done
	})
	lines := bufio.NewReader(stderr)
	first, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(first, "listening on") {
		err = fmt.Errorf("tcpdump said %q", first)
	}
	go func() {
		defer close(u.done)
		u.err = errors.Join(err, u.follow(cmd, stdout, lines))
	}()
	return u
}

// follow looks until the mark comes, and then ends tcpdump.
func (u *watch) follow(cmd *exec.Cmd, packets, said io.Reader) error {
	reader := newPackets(packets)
	u.seen = sightings{clear: map[ends]int{}, inner: map[ends]int{}, fragments: map[ends]int{}}
	err := reader.header()
	for err == nil {
		var frame []byte
		if frame, err = reader.next(); err != nil || bytes.Contains(frame, u.mark) {
			break
		}
		u.seen.add(frame)
	}
	_ = u.stdin.Close()
	_, _ = io.Copy(io.Discard, packets)
	rest, _ := io.ReadAll(said)
	if !strings.Contains(string(rest), "\n0 packets dropped by kernel") {
		err = errors.Join(err, fmt.Errorf("not every packet was seen: tcpdump said %q", rest))
	}
	return errors.Join(err, cmd.Wait())
}

// stop ends the watch after all that was sent before, and returns what it has seen.
func (u *watch) stop(t *testing.T, w *world) sightings {
	t.Helper()
	const send = `printf %s "$1" >"/dev/udp/$2/9"` // to the discard port, where nobody listens
	w.on(t, cluster.Fabric, "bash", "-c", send, "bash", string(u.mark), w.addressOf(t, cluster.ControlPlane).String())
	w.eventually(t, "the watch ends", func(context.Context) error {
		select {
		case <-u.done:
			return nil
		default:
			return errors.New("it hasn't seen its mark yet")
		}
	})
	if u.err != nil {
		t.Fatalf("watch the underlay: %v", u.err)
	}
	return u.seen
}

// podRanges hold all pods of a cluster that gives podCIDRs.
var podRanges = family.Dual.Of(netip.MustParsePrefix(cluster.DefaultPodCIDR), netip.MustParsePrefix(cluster.DefaultPodCIDR6))

// isPod tells whether an address is that of a pod.
func isPod(a netip.Addr) bool {
	return slices.ContainsFunc(podRanges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// packets reads a stream of packets in the form of pcap-savefile(5).
type packets struct {
	r     *bufio.Reader
	frame []byte
}

func newPackets(r io.Reader) *packets { return &packets{r: bufio.NewReaderSize(r, 1<<20)} }

func (p *packets) header() error {
	var h [24]byte
	if _, err := io.ReadFull(p.r, h[:]); err != nil {
		return fmt.Errorf("read tcpdump's stream: %w", err)
	}
	const magic, ethernet = 0xa1b2c3d4, 1
	if binary.NativeEndian.Uint32(h[:]) != magic || binary.NativeEndian.Uint32(h[20:]) != ethernet {
		return fmt.Errorf("read tcpdump's stream: it begins with %x", h)
	}
	return nil
}

// next returns a frame, which is valid until the next call.
func (p *packets) next() ([]byte, error) {
	var h [16]byte
	if _, err := io.ReadFull(p.r, h[:]); err != nil {
		return nil, fmt.Errorf("read tcpdump's stream: %w", err)
	}
	taken, whole := binary.NativeEndian.Uint32(h[8:]), binary.NativeEndian.Uint32(h[12:])
	if taken != whole {
		return nil, fmt.Errorf("read tcpdump's stream: it has %d of a frame's %d bytes", taken, whole)
	}
	p.frame = slices.Grow(p.frame[:0], int(taken))[:taken]
	if _, err := io.ReadFull(p.r, p.frame); err != nil {
		return nil, fmt.Errorf("read tcpdump's stream: %w", err)
	}
	return p.frame, nil
}

func (s *sightings) add(frame []byte) {
	s.packets++
	marked := slices.ContainsFunc(markers, func(m []byte) bool { return bytes.Contains(frame, m) })
	e, fragment, isIP := parse(frame)
	if !isIP {
		if marked {
			s.clear[e]++
		}
		return
	}
	if fragment {
		s.fragments[e]++
	}
	if marked {
		s.clear[e]++
	}
	if isPod(e.from.Addr()) || isPod(e.to.Addr()) {
		s.inner[e]++
	}
	if isTunnel(e.from) && isTunnel(e.to) {
		s.tunnelled += int64(len(frame))
	}
}

func isTunnel(a netip.AddrPort) bool { return a.Port() >= 51820 && a.Port() <= 51823 }

// parse reads the headers of an Ethernet frame with an IP packet in it (RFC 791, RFC 8200), which may be a first fragment.
func parse(frame []byte) (e ends, fragment, isIP bool) {
	const ethernet = 14
	if len(frame) < ethernet {
		return ends{}, false, false
	}
	var from, to netip.Addr
	var protocol byte
	var header int // bytes
	first := true  // or the only one
	switch ip := frame[ethernet:]; {
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800 && len(ip) >= 20:
		from, to = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		protocol, header = ip[9], int(ip[0]&0xf)*4
		first = binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
		fragment = first && ip[6]&0x20 != 0 // more fragments follow
	case binary.BigEndian.Uint16(frame[12:]) == 0x86dd && len(ip) >= 40:
		from, to = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		protocol, header = ip[6], 40
		const fragmentHeader = 44
		if protocol == fragmentHeader && len(ip) >= 48 {
			protocol, header = ip[40], 48
			first = binary.BigEndian.Uint16(ip[42:])>>3 == 0
			fragment = first
		}
	default:
		return ends{}, false, false
	}
	var ports [2]uint16
	const tcp, udp = 6, 17
	if at := ethernet + header; (protocol == tcp || protocol == udp) && first && len(frame) >= at+4 {
		ports[0], ports[1] = binary.BigEndian.Uint16(frame[at:]), binary.BigEndian.Uint16(frame[at+2:])
	}
	return ends{netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1])}, fragment, true
}

// forgiveTunnels forgets that packets of tunnels were fragmented. A host that was told that a pod gets no packet as large as
// its own takes that for the path to the pod's node, which is the tunnel's too.
func (s sightings) forgiveTunnels() {
	maps.DeleteFunc(s.fragments, func(e ends, _ int) bool { return isTunnel(e.from) && isTunnel(e.to) })
}

// judge compares what the underlay showed with what it may show: what comes from or goes to the open ends. At least so
// many bytes should have been in the tunnels.
func (s sightings) judge(t *testing.T, open []netip.AddrPort, tunnelled int64) {
	t.Helper()
	isOpen := func(e ends) bool { return slices.ContainsFunc(open, e.has) }
	for e, n := range s.clear {
		if !isOpen(e) {
			t.Errorf("%d packets with what pods said were in the clear: %v", n, e)
		}
	}
	for _, end := range open {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(s.clear)), func(e ends) bool { return e.has(end) }) {
			t.Errorf("nothing was seen of what was sent in the clear to %v: the watch would miss a leak", end)
		}
	}
	for e, n := range s.inner {
		t.Errorf("%d packets with a pod's address were outside of the tunnels: %v", n, e)
	}
	for e, n := range s.fragments {
		if !isOpen(e) { // what a pod sends outside in datagrams above its MTU, it fragments itself
			t.Errorf("%d packets were fragmented: %v", n, e)
		}
	}
	if s.tunnelled < tunnelled {
		t.Errorf("only %d bytes went through the tunnels", s.tunnelled)
	}
	t.Logf("%d packets were looked into; %d MB were in the tunnels", s.packets, s.tunnelled/1e6)
}
