package vm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/output"
	"github.com/weaveguard/weaveguard/test/vm"
)

// ownerEnv makes this test binary run a machine until it is killed.
const ownerEnv = "WEAVEGUARD_TEST_VM_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		_, err := vm.Run(context.Background(), vm.Options{Log: os.Stdout}, []string{"sh", "-c", "echo running; exec sleep 10000"})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(lab.Main(m, nil))
}

func TestRun(t *testing.T) {
	here := t.TempDir()
	mark := fmt.Sprintf("wgvm-%08x", rand.Uint32())
	files := []string{"/etc/" + mark, "/var/lib/" + mark, "/tmp/" + mark, filepath.Join(here, mark)}
	script := `
		pwd; uname -r; echo WORD=$WORD; id -u; touch "$@" && echo touched
		test -w /proc/sysrq-trigger; ip -brief link | awk '{print "link " $1}'
		mkdir /run/shared && mount -t virtiofs -o ro root /run/shared && mount -o remount,rw /run/shared
		touch "/run/shared/$4" 2>/dev/null || echo refused
		ip link add wg0 type wireguard && wg show wg0
		for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd if=/dev/zero bs=64k count=1 2>/dev/null | tr '\0' x; done; echo end
		exit 7`
	var out output.Buffer
	code, err := vm.Run(t.Context(), vm.Options{Log: &out, Env: []string{"WORD=hello"}, Dir: here},
		append([]string{"sh", "-c", script, "sh"}, files...))
	if err != nil || code != 7 {
		t.Errorf("exit code %d, want 7: %v", code, err)
	}
	for _, want := range []string{here + "\n", "cloud-amd64\n", "WORD=hello\n", "0\n", "touched\n", "refused\n", "interface: wg0\n", "end\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if n := strings.Count(out.String(), "x"); n < 12*64<<10 {
		t.Errorf("%d of %d bytes of output came", n, 12*64<<10)
	}
	for line := range strings.Lines(out.String()) {
		if name, ok := strings.CutPrefix(line, "link "); ok && name != "lo\n" && !strings.HasPrefix(name, "dummy") {
			t.Errorf("the machine has a network device: %s", name)
		}
	}
	if t.Failed() {
		t.Log(strings.ReplaceAll(out.String(), strings.Repeat("x", 64<<10), "x…"))
	}
	for _, file := range files {
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what the machine wrote is here: %s (%v)", file, err)
		}
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	if _, err := vm.Run(t.Context(), vm.Options{}, []string{"/no/such/program"}); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("a program that isn't there: %v", err)
	}
}

func TestKernelThatDies(t *testing.T) {
	_, err := vm.Run(t.Context(), vm.Options{}, []string{"sh", "-c", "echo c >/proc/sysrq-trigger"})
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("a panic of the kernel: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out output.Buffer
	var err error
	var running sync.WaitGroup
	running.Go(func() {
		_, err = vm.Run(ctx, vm.Options{Log: &out}, []string{"sh", "-c", "echo running; exec sleep 10000"})
	})
	lab.Eventually(t, 2*time.Minute, "the machine runs its command", func() error { return says(out.String(), "running") })
	started := descendants(t, os.Getpid())
	cancel()
	running.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a machine whose time is up: %v", err)
	}
	gone(t, started)
}

// TestOwnerDies kills a process that runs a machine.
func TestOwnerDies(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out output.Buffer
	owner := exec.Command(self)
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	owner.Stdout, owner.Stderr = &out, &out
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, 2*time.Minute, "the machine runs its command", func() error { return says(out.String(), "running") })
	started := descendants(t, owner.Process.Pid)
	if len(started) < 2 {
		t.Errorf("the owner has started the processes %v; want qemu and virtiofsd", started)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // killed
	gone(t, started)
}

// TestLab runs the lab's own tests on a kernel with WireGuard, at a rate that
// an emulated machine carries.
func TestLab(t *testing.T) {
	out := vm.RunTests(t, vm.Options{Env: []string{"WEAVEGUARD_TEST_RATE=200"}}, vm.Tests{
		Package: "./test/lab", Run: "^(TestWireGuard|TestHostsHaveTheirOwn)$",
	})
	for _, want := range []string{"WireGuard in the kernel: true", "latest handshake", " 0 lost", "--- PASS: TestWireGuard"} {
		if err := says(out, want); err != nil {
			t.Error(err)
		}
	}
}

func says(output, want string) error {
	if !strings.Contains(output, want) {
		return fmt.Errorf("the output lacks %q", want)
	}
	return nil
}

// descendants lists the processes below one.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	var all []int
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		lab.Eventually(t, 10*time.Second, fmt.Sprintf("process %d ends", pid), func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("it is there: %s", stat)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return err
			}
			return nil
		})
	}
}
