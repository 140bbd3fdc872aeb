package route

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"golang.org/x/sys/unix"
)

// ApplySysctls writes the settings that differ. One that the kernel doesn't have is an error unless it is
// optional.
func (a *Applier) ApplySysctls(ctx context.Context, sysctls []contract.Sysctl) (int, error) {
	c := a.begin(ctx)
	for _, sysctl := range sysctls {
		a.sysctl(c, sysctl)
	}
	if c.writes > 0 && len(c.errs) == 0 {
		// Some settings change others as they are written: forwarding sets accept_redirects (kernel's
		// ip-sysctl.rst, ip_forward).
		for _, sysctl := range sysctls {
			a.sysctl(c, sysctl)
		}
	}
	return c.result()
}

// Astray reports whether one of the settings could be read, and has another value than it should have, or ApplyBridges has left
// an interface of a pod to the plugin, which may have had the time that it needs since.
func (a *Applier) Astray(sysctls []contract.Sysctl) bool {
	return a.left.Load() || slices.ContainsFunc(sysctls, func(s contract.Sysctl) bool {
		have, err := os.ReadFile(filepath.Join(a.sysctlRoot, s.Key))
		return err == nil && differs(s, have)
	})
}

// differs reports whether a setting is to be written over what its file has.
func differs(want contract.Sysctl, have []byte) bool {
	now := strings.Join(strings.Fields(string(have)), " ")
	return now != want.Value && (want.From == "" || now == want.From)
}

func (a *Applier) sysctl(c *changes, want contract.Sysctl) {
	if !filepath.IsLocal(want.Key) {
		c.fail(fmt.Errorf("%q isn't the name of a kernel setting: it has to be a path under %s", want.Key, a.sysctlRoot))
		return
	}
	path := filepath.Join(a.sysctlRoot, want.Key)
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && want.Optional:
		return
	case errors.Is(err, fs.ErrNotExist):
		c.fail(fmt.Errorf("the kernel setting %s doesn't exist, and has to be %s: the kernel, or the %s that this "+
			"process sees, lacks it", want.Key, want.Value, a.sysctlRoot))
		return
	case err != nil:
		c.fail(fmt.Errorf("reading the kernel setting %s: %w", want.Key, err))
		return
	}
	if !differs(want, have) {
		return
	}
	c.write("setting "+want.Key+" to "+want.Value, func() error {
		err := writeSysctl(path, want.Value)
		if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: it is %s and can't be written from here; in a container, mount the host's "+
				"/proc/sys/net there writable (a hostPath volume); else run as root", err,
				strings.TrimSpace(string(have)))
		}
		return err
	})
}

// writeSysctl never makes a file: what isn't there isn't a setting.
func writeSysctl(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value + "\n")
	return errors.Join(err, file.Close())
}
