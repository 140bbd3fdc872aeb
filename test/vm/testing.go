package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
)

// Tests says which tests of another package to run in a machine.
type Tests struct {
	Package  string   // "./test/lab"
	Run      string   // as of go test -run; "" means all
	Args     []string // further flags of the test binary, such as "-test.short"
	Tags     string   // build tags, with commas between them
	Binaries []string // main packages that the tests lab.Build
}

// RunTests compiles a package's tests and what they need here, runs them in a
// machine and returns what they print, which t logs as it comes. A failure in
// there fails t. TestMain must call lab.Main.
func RunTests(t testing.TB, o Options, tests Tests) string {
	t.Helper()
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "tests")
	compile(t, root, "test", "-c", "-tags", tests.Tags, "-o", binary, tests.Package)
	binaries := dir
	for _, pkg := range tests.Binaries {
		binaries = filepath.Dir(lab.Build(t, pkg)) // all are there, built once for all tests of this process
	}
	out := &testLog{t: t}
	o.Root, o.Log = root, out
	o.Dir = filepath.Join(root, tests.Package)
	o.Env = append([]string{lab.BinariesEnv + "=" + binaries}, o.Env...)
	command := append([]string{binary, "-test.v", "-test.run=" + tests.Run}, tests.Args...)
	code, err := Run(t.Context(), o, command)
	out.flush()
	if err != nil {
		t.Fatalf("running the tests of %s in a machine: %v", tests.Package, err)
	}
	if code != 0 {
		t.Fatalf("the tests of %s failed in the machine: exit code %d", tests.Package, code)
	}
	if strings.Contains(out.String(), "testing: warning: no tests to run") {
		t.Fatalf("no test of %s matches %q", tests.Package, tests.Run)
	}
	return out.String()
}

// compile runs the go command for a static binary.
func compile(t testing.TB, root string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), lab.BuildEnv...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(t.Context().Err(), context.Canceled) {
			t.Fatal("the test ended first")
		}
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// testLog logs whole lines to a test, and keeps all.
type testLog struct {
	t testing.TB

	mu   sync.Mutex
	all  bytes.Buffer
	line []byte
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(p)
	l.line = append(l.line, p...)
	if i := bytes.LastIndexByte(l.line, '\n'); i >= 0 {
		for line := range strings.Lines(string(l.line[:i+1])) {
			l.t.Log(strings.TrimSuffix(line, "\n"))
		}
		l.line = append([]byte(nil), l.line[i+1:]...)
	}
	return len(p), nil
}

// flush logs a last line that has no end.
func (l *testLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.t.Log(string(l.line))
		l.line = nil
	}
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
