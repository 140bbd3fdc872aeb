package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	captureBuffer = 256 << 20 // of the socket, above the system's limit
	maxPacket     = 256 << 10
	drainQuiet    = 50 * time.Millisecond // Stop waits until nothing has come for so long,
	drainLimit    = 10 * time.Second      // but no longer than this
)

// Capture watches the underlay. It sees each frame once, as a host sends it
// into the fabric. (One frame can hold several datagrams or segments that the
// sender's kernel has left together.)
type Capture struct {
	File string // a pcap file with the first 64 MiB; it goes with the lab

	markers [][]byte
	conn    *socket.Conn
	bridges func(index int) bool
	cancel  context.CancelFunc
	done    chan struct{}
	pcap    *pcapWriter

	mu     sync.Mutex
	report CaptureReport
}

// CaptureReport is what a capture has seen.
type CaptureReport struct {
	Packets   int
	Bytes     int64
	Marked    int    // packets that contain one of the markers
	Fragments int    // IP fragments
	Dropped   int    // packets that the capture was too slow for: it hasn't seen all
	First     string // a dump of the first marked packet
	Err       error  // why the capture ended early
}

func (r CaptureReport) String() string {
	s := fmt.Sprintf("%d packets, %d bytes, %d with a marker, %d fragments, %d missed", r.Packets, r.Bytes, r.Marked, r.Fragments, r.Dropped)
	if r.Err != nil {
		s += fmt.Sprintf(", ended early: %v", r.Err)
	}
	return s
}

// Capture starts to watch the underlay. filter is an expression of tcpdump, ""
// for everything; markers are what to look for in packets. It runs until Stop
// or until the lab is closed.
func (l *Lab) Capture(t testing.TB, filter string, markers ...[]byte) *Capture {
	t.Helper()
	c, err := l.capture(t.Context(), filter, markers)
	if err != nil {
		t.Fatalf("capturing %q on the underlay: %v", filter, err)
	}
	return c
}

func (l *Lab) capture(ctx context.Context, filter string, markers [][]byte) (*Capture, error) {
	program, err := l.compileFilter(ctx, filter)
	if err != nil {
		return nil, err
	}
	var conn *socket.Conn
	err = l.machine.ns.do(func() (err error) {
		conn, err = packetSocket(program)
		return err
	})
	if err != nil {
		return nil, err
	}
	pcap, err := newPcap(l.dir.Path)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Capture{
		File: pcap.file.Name(), markers: markers, conn: conn, pcap: pcap,
		cancel: cancel, done: make(chan struct{}), bridges: l.bridgeLookup(),
	}
	go func() {
		defer close(c.done)
		c.read(reading)
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.captures = append(l.captures, c)
	return c, nil
}

// bridgeLookup tells the fabric's bridges from its ports. What a bridge passes
// up to itself (broadcasts) would be seen twice.
func (l *Lab) bridgeLookup() func(int) bool {
	known := map[int]bool{}
	return func(index int) bool {
		is, ok := known[index]
		if !ok {
			link, err := l.links.LinkByIndex(index)
			is = err == nil && link.Type() == "bridge"
			known[index] = is
		}
		return is
	}
}

// packetSocket opens a packet socket on all interfaces of the thread's network
// namespace, for frames that come in.
func packetSocket(program []bpf.RawInstruction) (*socket.Conn, error) {
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "capture", nil)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	err = conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer)
	if err == nil {
		err = conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil && len(program) > 0 {
		err = conn.SetBPF(program)
	}
	if err == nil {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		err = conn.Bind(&unix.SockaddrLinklayer{Protocol: all})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the packet socket: %w", err), conn.Close())
	}
	return conn, nil
}

// compileFilter lets tcpdump compile its expression.
func (l *Lab) compileFilter(ctx context.Context, filter string) ([]bpf.RawInstruction, error) {
	if filter == "" {
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, "tcpdump", "-ddd", "-r", "-", filter)
	cmd.Stdin = bytes.NewReader(pcapHeader())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("compiling the filter %q: %w\n%s", filter, err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	program := make([]bpf.RawInstruction, len(lines)-1) // the first line counts them
	for i, line := range lines[1:] {
		in := &program[i]
		if _, err := fmt.Sscan(line, &in.Op, &in.Jt, &in.Jf, &in.K); err != nil {
			return nil, fmt.Errorf("compiling the filter %q: tcpdump said %q: %w", filter, line, err)
		}
	}
	return program, nil
}

// read takes packets until ctx ends, and then what is left in the socket.
func (c *Capture) read(ctx context.Context) {
	b := make([]byte, maxPacket)
	for {
		n, from, err := c.conn.Recvfrom(ctx, b, 0)
		if ctx.Err() != nil {
			if err == nil {
				c.see(b[:n], from)
			}
			break
		}
		if err != nil && !errors.Is(err, unix.ENETDOWN) { // a port went down: nothing to us
			c.fail(err)
			return
		}
		if err == nil {
			c.see(b[:n], from)
		}
	}
	for deadline := time.Now().Add(drainLimit); time.Now().Before(deadline); {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainQuiet)
		n, from, err := c.conn.Recvfrom(wait, b, 0)
		cancel()
		if err != nil {
			return
		}
		c.see(b[:n], from)
	}
	c.fail(fmt.Errorf("there was more to read %v after Stop", drainLimit))
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Err = fmt.Errorf("reading packets: %w", err)
}

// see counts a frame, if it came from a host.
func (c *Capture) see(frame []byte, from unix.Sockaddr) {
	if sll, ok := from.(*unix.SockaddrLinklayer); !ok || c.bridges(sll.Ifindex) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.report
	r.Packets++
	r.Bytes += int64(len(frame))
	if isFragment(frame) {
		r.Fragments++
	}
	for _, m := range c.markers {
		if bytes.Contains(frame, m) {
			r.Marked++
			if r.First == "" {
				r.First = dump(frame)
			}
			break
		}
	}
	if err := c.pcap.write(frame, time.Now()); err != nil && r.Err == nil {
		r.Err = err
	}
}

// Stop ends the capture, once it has seen what was sent before, and reports.
func (c *Capture) Stop() CaptureReport {
	c.cancel()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pcap != nil {
		c.countDrops()
		c.report.Err = errors.Join(c.report.Err, c.pcap.close(), c.conn.Close())
		c.pcap = nil
	}
	return c.report
}

// StopQuiet ends captures, which must have seen all, while the senders hold still: a capture ends when it is quiet.
func StopQuiet(t testing.TB, senders []*Process, captures ...*Capture) []CaptureReport {
	t.Helper()
	signal := func(s unix.Signal) {
		t.Helper()
		for _, sender := range senders {
			if err := sender.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(unix.SIGSTOP)
	var reports []CaptureReport
	for _, capture := range captures {
		report := capture.Stop()
		if report.Dropped != 0 || report.Err != nil {
			t.Errorf("the capture hasn't seen all: %v", report)
		}
		reports = append(reports, report)
	}
	signal(unix.SIGCONT)
	return reports
}

// Report is what the capture has seen so far.
func (c *Capture) Report() CaptureReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pcap != nil {
		c.countDrops()
	}
	return c.report
}

// countDrops adds what the kernel dropped since the last time; reading resets
// the kernel's count.
func (c *Capture) countDrops() {
	stats, err := c.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		c.report.Err = errors.Join(c.report.Err, fmt.Errorf("reading the capture's drop count: %w", err))
		return
	}
	c.report.Dropped += int(stats.Drops)
}

// isFragment reports whether an Ethernet frame holds an IP fragment (RFC 791,
// section 3.1; RFC 8200, section 4.5, as the first extension header).
func isFragment(frame []byte) bool {
	if len(frame) < 14+20 {
		return false
	}
	ip := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		const moreFragments, offset = 0x2000, 0x1fff
		return binary.BigEndian.Uint16(ip[6:])&(moreFragments|offset) != 0
	case unix.ETH_P_IPV6:
		return ip[6] == unix.IPPROTO_FRAGMENT
	}
	return false
}

// dump shows the addresses of an Ethernet frame and its first bytes.
func dump(frame []byte) string {
	s := ""
	if len(frame) >= 14 {
		s = fmt.Sprintf("%v > %v\n", net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6]))
	}
	return s + fmt.Sprintf("% x", frame[:min(len(frame), 256)])
}
