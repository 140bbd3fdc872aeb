package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/lab"
)

// owned is what ownerMain says of its lab.
type owned struct {
	Dir  string
	PIDs []int
}

// ownerMain opens a lab, says what it made and waits to be killed.
func ownerMain([]string) int {
	l, err := lab.Open(context.Background(), lab.Options{Hosts: 2})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := owned{Dir: l.Dir()}
	for _, h := range l.Hosts {
		// In a session of its own, as daemons are.
		p, err := h.Start(context.Background(), lab.Command{Path: "setsid", Args: []string{"sleep", "1000"}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		o.PIDs = append(o.PIDs, h.InitPID(), p.PID())
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return 1
	}
	select {}
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(b)
}

func links(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("ip", "-br", "link").CombinedOutput()
	must(t, err)
	return string(out)
}

func TestNothingIsLeftOfADeadOwner(t *testing.T) {
	mountsBefore, linksBefore := mounts(t), links(t)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Args = []string{"wglab:owner", "-test.run=^$"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var o owned
	if err := json.NewDecoder(out).Decode(&o); err != nil {
		t.Fatal(errors.Join(err, cmd.Process.Kill(), cmd.Wait()))
	}
	if len(o.PIDs) != 4 {
		t.Errorf("the owner made the processes %v", o.PIDs)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed

	for _, pid := range o.PIDs {
		lab.Eventually(t, 10*time.Second, fmt.Sprintf("process %d ends with its owner", pid), func() error {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(b), ") Z ") {
				return errors.New("it is there")
			}
			return nil
		})
	}
	if _, err := os.Stat(o.Dir); err != nil {
		t.Errorf("directory of the dead owner: %v; want it left for the sweep", err)
	}
	lab.New(t, lab.Options{}) // sweeps
	if _, err := os.Stat(o.Dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("directory of the dead owner after a sweep: %v", err)
	}
	if after := mounts(t); after != mountsBefore {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mountsBefore, after)
	}
	if after := links(t); after != linksBefore {
		t.Errorf("links before:\n%s\nafter:\n%s", linksBefore, after)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	l, err := lab.Open(t.Context(), lab.Options{Hosts: 1})
	must(t, err)
	pid, dir := l.Hosts[0].InitPID(), l.Dir()
	l.Capture(t, "")
	_, err = l.Hosts[0].Start(t.Context(), lab.Command{Path: "setsid", Args: []string{"sleep", "1000"}})
	must(t, err)
	must(t, l.Close())
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("init of a host after Close: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("directory of the lab after Close: %v", err)
	}
}

func TestASecondLabDoesNotSweepTheFirst(t *testing.T) {
	first := lab.New(t, lab.Options{})
	second := lab.New(t, lab.Options{})
	for _, l := range []*lab.Lab{first, second} {
		if _, err := os.Stat(l.Dir()); err != nil {
			t.Error(err)
		}
	}
}
