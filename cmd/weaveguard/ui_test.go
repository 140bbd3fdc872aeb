package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weaveguard/weaveguard/test/output"
)

// portOf is what differs from run to run in what a command that serves says.
var portOf = regexp.MustCompile(`:[0-9]+/`)

// checkServed runs a command until it says where it serves, checks that the page of the node is there, interrupts the command, and
// checks that it ends well: served SIGNAL NODE COMMAND ARG... What it said is in served.out, with PORT for the port, and served.err.
func checkServed(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}
	if neg || len(args) < 3 || signals[args[0]] == 0 {
		ts.Fatalf("usage: served INT|TERM NODE COMMAND ARG...")
	}
	cmd := exec.Command(args[2], args[3:]...)
	var stdout, stderr output.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = ts.Getenv("WORK"), environment(ts), &stdout, &stderr
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }() // it has ended, if all went well
	address := awaitURL(ts, &stdout, ended)
	for path, want := range map[string]string{"": "<title>Weaveguard</title>", "v1/status": `"node":"` + args[1] + `"`, "v1/topology": `"nodes":`} {
		response, err := http.Get(address + path)
		ts.Check(err)
		body, err := io.ReadAll(response.Body)
		ts.Check(err)
		ts.Check(response.Body.Close())
		if response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			ts.Fatalf("%s%s: %s: %s; want %s", address, path, response.Status, body, want)
		}
	}
	ts.Check(cmd.Process.Signal(signals[args[0]]))
	select {
	case err := <-ended:
		ts.Check(err)
	case <-time.After(10 * time.Second):
		ts.Fatalf("SIG%s doesn't end it", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs("served.out"), portOf.ReplaceAll([]byte(stdout.String()), []byte(":PORT/")), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("served.err"), []byte(stderr.String()), 0o600))
}

// awaitURL waits until a command says where it serves.
func awaitURL(ts *testscript.TestScript, said *output.Buffer, ended <-chan error) string {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if address, _, whole := strings.Cut(said.String(), " "); whole {
			return address
		}
		select {
		case err := <-ended:
			ts.Fatalf("it ended: %v", err)
		default:
		}
	}
	ts.Fatalf("it doesn't say where it serves: %q", said.String())
	return ""
}

// takePort listens on an address of loopback, which is $TAKEN, until the script ends.
func takePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: taken")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv("TAKEN", listener.Addr().String())
}
