package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/weaveguard/weaveguard/test/vm/guest"
)

// earlyModules are what mounting the root filesystem needs, in an order in
// which they load.
var earlyModules = [...]string{
	"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "fuse", "virtiofs", "overlay",
}

// modules are what Weaveguard and its tests use; a kernel that loads modules
// itself when they are needed would find most of them.
var modules = [...]string{
	"virtio_net", "wireguard", "tun", "veth", "bridge", "br_netfilter", "dummy", "nf_tables", "nf_conntrack", "nf_nat",
	"nft_chain_nat", "nft_masq", "nft_nat", "nft_ct", "nft_fib_inet", "nft_reject_inet", "nft_limit", "nft_log", "nft_redir",
	"nft_numgen", "nft_hash", "nft_compat", "xt_comment", "xt_mark", "xt_conntrack", "xt_MASQUERADE", "xt_addrtype",
}

// writeInitrd writes an initial RAM filesystem with the guest's first process.
func writeInitrd(file string, init []byte, k kernel, job guest.Job) error {
	archive := &cpio{}
	for _, dir := range []string{"/dev", guest.ModulesDir} {
		archive.add(dir, modeDir|0o755, 0, nil)
	}
	// The kernel opens it for process 1 before anything is mounted.
	archive.add("/dev/console", modeChar|0o600, consoleDevice, nil)
	for _, name := range earlyModules {
		source, err := k.moduleFile(name)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("reading the module %s: %w", name, err)
		}
		archive.add(path.Join(guest.ModulesDir, filepath.Base(source)), modeFile|0o644, 0, content)
		job.EarlyModules = append(job.EarlyModules, filepath.Base(source))
	}
	content, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("writing the job: %w", err)
	}
	archive.add(guest.JobFile, modeFile|0o600, 0, content)
	archive.add("/init", modeFile|0o755, 0, init)
	if err := os.WriteFile(file, archive.bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the initrd: %w", err)
	}
	return nil
}

// buildInit compiles the guest's first process.
func buildInit(ctx context.Context, root, dir string) ([]byte, error) {
	file := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", file, "./test/cmd/wgvm-init")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the guest's first process: %w\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the guest's first process: %w", err)
	}
	return b, nil
}

// Of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// consoleDevice is the device number 5:1 of /dev/console.
const consoleDevice = 5<<8 | 1

// cpio makes an archive in the "newc" format.
type cpio struct {
	b     bytes.Buffer
	inode int
}

func (c *cpio) add(name string, mode, device int, content []byte) {
	c.inode++
	name = name[1:] // relative
	fmt.Fprintf(&c.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", c.inode, mode, 0, 0, 1, 0,
		len(content), 0, 0, device>>8, device&0xff, len(name)+1, 0)
	c.b.WriteString(name)
	c.b.WriteByte(0)
	c.pad()
	c.b.Write(content)
	c.pad()
}

func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

func (c *cpio) bytes() []byte {
	c.add("/TRAILER!!!", 0, 0, nil)
	return c.b.Bytes()
}
