package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// Config is what an Applier needs.
type Config struct {
	Log *slog.Logger
	// SysctlRoot is where the kernel's settings are; "" is /proc/sys. A container may have the host's elsewhere.
	SysctlRoot string
	// StoreDir is the plugin's store of attachments; "": this host attaches no pods.
	StoreDir string
}

// Applier makes the kernel match. It keeps no state of the kernel: what it needs to know it reads. Each Apply
// method returns how many changes it made, and goes on after an error, so that one bad part costs no other. Not
// safe for concurrent use with itself, as it would race with its own changes.
type Applier struct {
	log        *slog.Logger
	sysctlRoot string
	storeDir   string
	left       atomic.Bool // an interface of a pod wasn't put back, since the plugin may be about to do that
}

// New returns an Applier for the network namespace of its callers.
func New(config Config) *Applier {
	if config.SysctlRoot == "" {
		config.SysctlRoot = "/proc/sys"
	}
	return &Applier{log: config.Log, sysctlRoot: config.SysctlRoot, storeDir: config.StoreDir}
}

// errNoChange says that a write found its work done, by somebody else or by the kernel.
var errNoChange = errors.New("nothing to change")

// changes counts what one call changes in the kernel, and gathers what went wrong. Everything that an Applier
// writes goes through write. It lives as long as the call.
type changes struct {
	ctx    context.Context
	log    *slog.Logger
	writes int
	errs   []error
}

func (a *Applier) begin(ctx context.Context) *changes {
	return &changes{ctx: ctx, log: a.log}
}

// write makes one change, and reports whether it was made. What says what is being done, as in "adding X".
func (c *changes) write(what string, change func() error) bool {
	err := c.ctx.Err()
	if err == nil {
		err = change()
	}
	if errors.Is(err, errNoChange) {
		return false
	}
	if err != nil {
		c.fail(fmt.Errorf("%s: %w", what, err))
		return false
	}
	c.writes++
	c.log.Debug(what)
	view.Changed(c.ctx, what)
	return true
}

func (c *changes) fail(err error) {
	c.errs = append(c.errs, err)
}

func (c *changes) result() (int, error) {
	return c.writes, errors.Join(c.errs...)
}

// dump reads a list from the kernel. The kernel breaks off a list that changed while it was read (NLM_F_DUMP_INTR,
// and EINTR in the library); such a list may lack entries, so it is read again.
func dump[T any](what string, list func() (T, error)) (T, error) {
	const attempts = 20
	var (
		result T
		err    error
	)
	for range attempts {
		if result, err = list(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return result, fmt.Errorf("reading the kernel's %s: %w", what, err)
	}
	return result, nil
}
