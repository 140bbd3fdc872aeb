package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// wireGuardDir is where wgctrl looks for WireGuard in userspace.
const wireGuardDir = "/var/run/wireguard"

// startWireGuard serves files as WireGuard devices in userspace would, by the "cross-platform userspace
// implementation" (wireguard.com/xplatform), for commands that are run by `isolated`: wireguard FILE... A file is what a
// device answers to get=1, and named after it; there handshake_ago=SECONDS becomes the time of a handshake.
func startWireGuard(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: wireguard FILE...")
	}
	dir := ts.MkAbs("wireguard")
	ts.Check(os.MkdirAll(dir, 0o755))
	for _, file := range args {
		text := ts.ReadFile(file)
		listener, err := net.Listen("unix", filepath.Join(dir, strings.TrimSuffix(filepath.Base(file), ".uapi")+".sock"))
		ts.Check(err)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				conn, err := listener.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					answerWireGuard(conn, text)
				}
			}
		}()
		ts.Defer(func() {
			_ = listener.Close()
			<-ended
		})
	}
}

// answerWireGuard answers one request.
func answerWireGuard(conn net.Conn, text string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a connection has deadlines
	request := bufio.NewReader(conn)
	for {
		line, err := request.ReadString('\n')
		if err != nil || line == "\n" {
			break
		}
	}
	for line := range strings.Lines(text) {
		if ago, ok := strings.CutPrefix(strings.TrimSpace(line), "handshake_ago="); ok {
			seconds, _ := strconv.Atoi(ago)
			line = fmt.Sprintf("last_handshake_time_sec=%d\nlast_handshake_time_nsec=1\n", time.Now().Unix()-int64(seconds))
		}
		_, _ = io.WriteString(conn, line)
	}
	_, _ = io.WriteString(conn, "errno=0\n\n")
}

// isolated are the arguments of unshare(1) for a command that sees the script's WireGuard devices, nothing else in /run,
// and no network.
func isolated(ts *testscript.TestScript) []string {
	dir := ts.MkAbs("wireguard")
	ts.Check(os.MkdirAll(dir, 0o755))
	return []string{"--mount", "--net", "sh", "-ec", `run=$(readlink -f /var/run); mount -t tmpfs tmpfs "$run"; mkdir ` + wireGuardDir +
		`; mount --bind "$0" ` + wireGuardDir + `; exec "$@"`, dir}
}

// runIsolated runs a command so: isolated COMMAND ARG... The output is compared by `cmp stdout`, as of exec. This test
// needs root.
func runIsolated(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("unshare", append(isolated(ts), args...)...)
	if neg == (err == nil) {
		ts.Fatalf("%q ended with %v", args, err)
	}
}
