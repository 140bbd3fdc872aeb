package thread_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/thread"
)

// TestMain runs the tests on the main thread's goroutine, so that Do meets it.
func TestMain(m *testing.M) {
	runtime.LockOSThread()
	os.Exit(m.Run())
}

func TestDo(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		thread.Do(func() {
			if unix.Gettid() == unix.Getpid() {
				t.Error("on the main thread")
			}
			if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
				t.Error(err)
			}
			inside, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/uts", unix.Gettid()))
			if err != nil || inside == before {
				t.Errorf("namespace inside is %s, %v", inside, err)
			}
		})
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/uts")
		if err == nil && ns != before {
			t.Errorf("thread %s has stayed in %s", task.Name(), ns)
		}
	}
}
