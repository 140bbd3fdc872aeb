package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BinariesEnv names the environment variable with a directory of binaries that
// Build takes instead of building, where there is no Go toolchain.
const BinariesEnv = "WEAVEGUARD_BIN"

// buildDirEnv is how Main tells Build where this process's binaries are.
const buildDirEnv = "WEAVEGUARD_LAB_BUILD_DIR"

// Build compiles a main package of this module, such as
// "./cmd/weaveguard-agent", once in a test process, statically, and returns
// the binary's path. With WEAVEGUARD_BIN set to a directory it only looks
// there, by the package's last element.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	path, err := build(pkg)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func build(pkg string) (string, error) {
	name := filepath.Base(pkg)
	if dir := os.Getenv(BinariesEnv); dir != "" {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("finding %s: %w", name, err)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("looking for %s in %s, which %s names: %w (build it there, or unset %s)", name, dir, BinariesEnv, err, BinariesEnv)
		}
		return path, nil
	}
	dir := os.Getenv(buildDirEnv)
	if dir == "" {
		return "", errors.New("lab.Build: TestMain of this package must call lab.Main")
	}
	path := filepath.Join(dir, name)
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("locking the build of %s: %w", pkg, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking the build of %s: %w", pkg, err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), BuildEnv...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// BuildEnv is the environment that programs are built with for a release, as in the Makefile.
var BuildEnv = []string{"CGO_ENABLED=0", "GOEXPERIMENT=runtimesecret"}

// ModuleRoot is the nearest directory at or above the working directory that
// has a go.mod.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the module: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the module: no go.mod at or above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
