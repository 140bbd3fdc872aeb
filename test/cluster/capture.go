package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

// Capture is a running capture of what passes the fabric's bridge.
type Capture struct {
	// File is the pcap file; it is complete after Stop.
	File  string
	cmd   *exec.Cmd
	stdin io.Closer
	said  chan string // what tcpdump said, once it has ended
}

// captureScript runs tcpdump until standard input ends, so that it ends with whoever started it.
const captureScript = `tcpdump "$@" </dev/null & pid=$!; read -r _; kill -TERM $pid; wait $pid`

// Capture writes the packets on the underlay that match the filter (of pcap-filter(7), empty for all)
// to a pcap file with an absolute name. It returns once packets are being captured.
func (c *Cluster) Capture(ctx context.Context, file, filter string) (*Capture, error) {
	args := []string{
		"sh", "-c", captureScript, "tcpdump",
		"-i", api.FabricBridge, "-w", file, "-U", "-n", "-Z", "root", "--buffer-size=65536",
	}
	if filter != "" {
		args = append(args, filter)
	}
	cmd, err := c.Command(ctx, Fabric, args...)
	if err != nil {
		return nil, err
	}
	capture := &Capture{File: file, cmd: cmd, said: make(chan string, 1)}
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

// Stop ends the capture. It fails when packets were missed.
func (c *Capture) Stop() error {
	if err := c.stdin.Close(); err != nil {
		return fmt.Errorf("end the capture: %w", err)
	}
	said := <-c.said
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("end the capture: %w: %s", err, said)
	}
	if !strings.Contains(said, "\n0 packets dropped by kernel") {
		return fmt.Errorf("the capture isn't complete: %s", said)
	}
	return nil
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
