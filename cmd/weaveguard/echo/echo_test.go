package echo_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/echo"
	"github.com/weaveguard/weaveguard/mesh/tunnel/tunneltest"
)

// The tests run in a network namespace of their own, where they may pull wires.
func TestMain(m *testing.M) { os.Exit(tunneltest.Isolate(m)) }

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func target(source, address string) echo.Target {
	return echo.Target{Source: netip.MustParseAddr(source), Address: netip.MustParseAddr(address)}
}

var quick = echo.Options{Count: 3, Interval: 10 * time.Millisecond, Timeout: time.Second}

// Who answers is told from who doesn't and from who can't be sent to, of both families at once.
func TestRun(t *testing.T) {
	ip(t, "link", "add", "hole", "type", "veth", "peer", "name", "bottom")
	t.Cleanup(func() { ip(t, "link", "delete", "hole") })
	ip(t, "link", "set", "bottom", "up")
	ip(t, "link", "set", "hole", "up", "arp", "off")
	ip(t, "address", "add", "10.9.9.1/32", "dev", "hole")
	ip(t, "route", "add", "10.9.0.0/24", "dev", "hole")
	ip(t, "route", "add", "unreachable", "10.9.1.0/24")
	t.Cleanup(func() { ip(t, "route", "delete", "unreachable", "10.9.1.0/24") })
	results, err := echo.Run(t.Context(), []echo.Target{
		target("127.0.0.1", "127.0.0.2"), target("127.0.0.1", "127.0.0.3"), target("::1", "::1"),
		target("10.9.9.1", "10.9.0.7"), target("10.9.9.1", "10.9.1.7"),
	}, quick)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results[:3] {
		if r.Sent != 3 || r.Received != 3 || r.Loss() != 0 || r.Err != nil || r.Min <= 0 || r.Avg < r.Min || r.Max < r.Avg ||
			r.Max > quick.Timeout {
			t.Errorf("target %d: %+v", i, r)
		}
	}
	if r := results[3]; r.Sent != 3 || r.Received != 0 || r.Loss() != 1 || r.Avg != 0 || r.Err != nil {
		t.Errorf("who is behind a hole: %+v", r)
	}
	if r := results[4]; r.Received != 0 || r.Loss() != 1 || r.Err == nil {
		t.Errorf("who can't be reached: %+v", r)
	}
}

// It ends when all have answered, and not when the last answer would be late.
func TestRunEndsWithTheLastAnswer(t *testing.T) {
	o := echo.Options{Count: 2, Interval: time.Millisecond, Timeout: time.Hour}
	if _, err := echo.Run(t.Context(), []echo.Target{target("127.0.0.1", "127.0.0.1")}, o); err != nil {
		t.Fatal(err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	o := echo.Options{Count: 2, Interval: time.Hour, Timeout: time.Hour}
	if _, err := echo.Run(ctx, []echo.Target{target("127.0.0.1", "127.0.0.1")}, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
}

// Without CAP_NET_RAW it goes by the kernel's sockets for echo requests, where those are allowed; else it says so.
func TestRunWithoutCapability(t *testing.T) {
	const name = "WEAVEGUARD_TEST_NO_RAW"
	if os.Getenv(name) != "" {
		results, err := echo.Run(t.Context(), []echo.Target{target("127.0.0.1", "127.0.0.1"), target("::1", "::1")}, quick)
		switch {
		case errors.Is(err, echo.ErrNotAllowed):
			os.Exit(3)
		case err != nil || results[0].Received != 3 || results[1].Received != 3:
			t.Fatalf("%+v, %v", results, err)
		}
		return
	}
	for setting, want := range map[string]int{"1 0": 3, "0 2147483647": 0} {
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(setting), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("setpriv", "--bounding-set", "-net_raw", "/proc/self/exe", "-test.run", "^TestRunWithoutCapability$")
		cmd.Args[3] = os.Args[0]
		cmd.Env = append(os.Environ(), name+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			t.Errorf("with the setting %q it ends with %v, want %d:\n%s", setting, err, want, out)
		}
	}
}
