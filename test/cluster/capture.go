package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

// Capture is a running capture of what passes the fabric's bridge.
type Capture struct {
	// File is the pcap file; it is complete after Stop.
	File string

	cluster *Cluster
	cmd     *exec.Cmd
	stdin   io.Closer
	said    chan string // what tcpdump said, once it has ended
}

// captureScript runs tcpdump until standard input ends, so that it ends with whoever started it.
const captureScript = `tcpdump "$@" </dev/null & pid=$!; read -r _; kill -TERM $pid; wait $pid`

// endMark is the traffic of the datagram that marks the end of a capture: to the discard port, which
// nobody listens on.
const endMark = "udp dst port 9"

// captureTimeout bounds how long tcpdump may lag behind the traffic.
const captureTimeout = time.Minute

// Capture writes the packets on the underlay that match the filter (of pcap-filter(7), empty for all)
// to a pcap file with an absolute name. It returns once packets are being captured.
func (c *Cluster) Capture(ctx context.Context, file, filter string) (*Capture, error) {
	args := []string{
		"sh", "-c", captureScript, "tcpdump", "-i", api.FabricBridge, "-w", file,
		"-n", "-Z", "root", "--packet-buffered", "--immediate-mode", "--buffer-size=65536",
	}
	if filter != "" {
		args = append(args, "("+filter+") or ("+endMark+")")
	}
	cmd, err := c.Command(ctx, Fabric, args...)
	if err != nil {
		return nil, err
	}
	capture := &Capture{File: file, cluster: c, cmd: cmd, said: make(chan string, 1)}
	if capture.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("capture the underlay: %w", err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("capture the underlay: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("capture the underlay: %w", err)
	}
	lines := bufio.NewReader(stderr)
	first, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(first, "listening on") {
		_ = capture.stdin.Close()
		_ = cmd.Wait()
		return nil, fmt.Errorf("capture the underlay: tcpdump said %q", first)
	}
	go func() { // ends with tcpdump
		rest, _ := io.ReadAll(lines)
		capture.said <- string(rest)
	}()
	return capture, nil
}

// Stop ends the capture: its file then holds all that matched between the return of Capture and the
// call of Stop. It fails when packets were missed.
func (c *Capture) Stop(ctx context.Context) error {
	end, err := c.markEnd(ctx)
	if closeErr := c.stdin.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("end the capture: %w", closeErr))
	}
	said := <-c.said
	if waitErr := c.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("end the capture: %w: %s", waitErr, said))
	}
	if err != nil {
		return err
	}
	if !strings.Contains(said, "\n0 packets dropped by kernel") {
		return fmt.Errorf("the capture isn't complete: %s", said)
	}
	if err := os.Truncate(c.File, end); err != nil {
		return fmt.Errorf("end the capture: %w", err)
	}
	return nil
}

// markEnd sends a datagram of its own and waits until it is in the file: so is all that came before.
// It returns where in the file the datagram's record begins.
func (c *Capture) markEnd(ctx context.Context) (int64, error) {
	mark := "end of capture " + rand.Text()
	to, err := c.cluster.Address(ctx, ControlPlane)
	if err != nil {
		return 0, err
	}
	const send = `printf %s "$1" >"/dev/udp/$2/9"`
	if _, err := c.cluster.OnNode(ctx, Fabric, "bash", "-c", send, "bash", mark, to.String()); err != nil {
		return 0, fmt.Errorf("mark the end of the capture: %w", err)
	}
	file, err := os.Open(c.File)
	if err != nil {
		return 0, fmt.Errorf("read the capture: %w", err)
	}
	defer file.Close()
	search := markSearch{mark: []byte(mark)}
	err = Poll(ctx, captureTimeout, "tcpdump has written all", func(context.Context) error { return search.in(file) })
	// The pcap record's header, and those of Ethernet, IP and UDP, come before the payload.
	headers := int64(16 + 14 + 20 + 8)
	if to.Is6() {
		headers += 20
	}
	return search.at - headers, err
}

// markSearch looks for a mark in a file that grows.
type markSearch struct {
	mark []byte
	seen []byte // the end of what was read, shorter than the mark
	at   int64  // offset of what comes after the bytes seen, and in the end of the mark
}

func (s *markSearch) in(file io.Reader) error {
	buffer := make([]byte, 1<<20)
	for {
		n, err := file.Read(buffer)
		if n > 0 {
			window := append(s.seen, buffer[:n]...)
			start := s.at - int64(len(s.seen))
			if i := bytes.Index(window, s.mark); i >= 0 {
				s.at = start + int64(i)
				return nil
			}
			s.at += int64(n)
			s.seen = bytes.Clone(window[max(0, len(window)-len(s.mark)+1):])
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the mark isn't in the file yet")
		}
		if err != nil {
			return fatal{fmt.Errorf("read the capture: %w", err)}
		}
	}
}

// Read lists the packets of a finished capture that match the filter, one a line, as tcpdump does.
func (c *Capture) Read(ctx context.Context, filter string) ([]string, error) {
	args := []string{"-r", c.File, "-n", "-Z", "root"}
	if filter != "" {
		args = append(args, filter)
	}
	text, err := output(exec.CommandContext(ctx, "tcpdump", args...), "read the capture "+c.File)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), nil
}
