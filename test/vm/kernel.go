package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelPackage is Debian's package that depends on the newest kernel for
// virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// kernelEnv names the environment variable with a directory where a kernel's
// package is unpacked, to use that one.
const kernelEnv = "WEAVEGUARD_VM_KERNEL"

// kernel is an unpacked kernel.
type kernel struct {
	version string
	image   string // to boot
	modules string // directory with modules.dep
}

// moduleFile finds a module's file.
func (k kernel) moduleFile(name string) (string, error) {
	deps, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return "", fmt.Errorf("finding the module %s: %w", name, err)
	}
	for line := range strings.Lines(string(deps)) {
		file, _, _ := strings.Cut(line, ":")
		base, _, _ := strings.Cut(filepath.Base(file), ".ko")
		if strings.ReplaceAll(base, "-", "_") == name {
			return filepath.Join(k.modules, file), nil
		}
	}
	return "", fmt.Errorf("finding the module %s: the kernel %s has none", name, k.version)
}

// findKernel is the kernel that the environment names, or the one in the
// cache, which it fills first if it must.
func findKernel(ctx context.Context, cache string) (kernel, error) {
	if dir := os.Getenv(kernelEnv); dir != "" {
		return kernelIn(ctx, dir)
	}
	dir := filepath.Join(cache, "kernel")
	unlock, err := lockFile(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := fetchKernel(ctx, cache, dir); err != nil {
			return kernel{}, err
		}
	}
	return kernelIn(ctx, dir)
}

func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the cache: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// fetchKernel downloads the newest kernel and unpacks it to dir, whole or not
// at all. Where that fails it is tried once more with new package lists: those
// of the machine may be missing, or older than what the archive has.
func fetchKernel(ctx context.Context, cache, dir string) error {
	err := downloadKernel(ctx, cache, dir)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, errUpdate := run(ctx, cache, "apt-get", "-q", "update"); errUpdate != nil {
		return errors.Join(err, fmt.Errorf("updating the package lists: %w", errUpdate))
	}
	return downloadKernel(ctx, cache, dir)
}

func downloadKernel(ctx context.Context, cache, dir string) error {
	depends, err := run(ctx, cache, "apt-cache", "depends", kernelPackage)
	if err != nil {
		return fmt.Errorf("looking for a kernel: %w (this lane needs Debian's package %s; or set %s to a directory where a kernel package is unpacked)", err, kernelPackage, kernelEnv)
	}
	_, after, found := strings.Cut(depends, "Depends: ")
	name, _, _ := strings.Cut(after, "\n")
	if !found || !strings.HasPrefix(name, "linux-image-") {
		return fmt.Errorf("looking for a kernel: apt-cache says no version of %s: %s", kernelPackage, depends)
	}
	tmp, err := os.MkdirTemp(cache, "kernel.*.tmp")
	if err != nil {
		return fmt.Errorf("making room for the kernel: %w", err)
	}
	defer os.RemoveAll(tmp)
	if _, err := run(ctx, tmp, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", strings.TrimSpace(name)); err != nil {
		return fmt.Errorf("downloading the kernel: %w", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return errors.Join(fmt.Errorf("downloading the kernel: %d packages came", len(debs)), err)
	}
	unpacked := filepath.Join(tmp, "unpacked")
	if _, err := run(ctx, tmp, "dpkg-deb", "--extract", debs[0], unpacked); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return fmt.Errorf("keeping the kernel: %w", err)
	}
	return nil
}

// kernelIn is the kernel of an unpacked package.
func kernelIn(ctx context.Context, dir string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, errors.Join(fmt.Errorf("looking for one boot/vmlinuz-* in %s: there are %d", dir, len(images)), err)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := kernel{version: version, image: images[0], modules: filepath.Join(dir, "lib", "modules", version)}
	if _, err := os.Stat(filepath.Join(k.modules, "modules.dep")); errors.Is(err, os.ErrNotExist) {
		if _, err := run(ctx, dir, "depmod", "--basedir", dir, version); err != nil {
			return kernel{}, fmt.Errorf("indexing the kernel's modules: %w", err)
		}
	}
	return k, nil
}

// run runs a program in dir and returns its output.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running %s: %w\n%s", name, err, stderr.String())
	}
	return stdout.String(), nil
}
