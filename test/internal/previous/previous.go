// Package previous builds the programs of the version before this one, for tests of upgrades.
package previous

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
)

// Commit is that of the previous version. Who makes a release moves it to the one before.
const Commit = "b74f7b6808b0b4de09a6166371bd8415eb15fdbf"

// Version is what the programs of Image say that they are.
const Version = "previous"

// Tree is the previous version's source, in a directory that goes with the test. It takes the repository's history.
func Tree(t testing.TB) string {
	t.Helper()
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	archive := exec.CommandContext(t.Context(), "git", "-C", root, "archive", "--format=tar", Commit)
	var said bytes.Buffer
	archive.Stderr = &said
	tar, err := archive.Output()
	if err != nil {
		t.Fatalf("the previous version, commit %s: %v: %s\nin a clone without its history: git fetch --unshallow", Commit, err, &said)
	}
	tree := t.TempDir()
	run(t, bytes.NewReader(tar), tree, "tar", "-x")
	return tree
}

// Build compiles main packages of the previous version, such as "./cmd/weaveguard-agent", statically, and returns the directory
// that they are in, each by its last element.
func Build(t testing.TB, packages ...string) string {
	t.Helper()
	tree, programs := Tree(t), t.TempDir()
	for _, pkg := range packages {
		run(t, nil, tree, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(programs, filepath.Base(pkg)), pkg)
	}
	return programs
}

// Image builds the previous version's image, and returns its docker archive, and the tree with its manifest.
func Image(t testing.TB) (archive, tree string) {
	t.Helper()
	tree = Tree(t)
	run(t, nil, tree, "make", "image", "VERSION="+Version)
	return filepath.Join(tree, "build", "weaveguard-image.tar"), tree
}

// run runs a command in a directory.
func run(t testing.TB, stdin *bytes.Reader, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), lab.BuildEnv...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("the previous version: %s: %w\n%s", name, err, out))
	}
}
