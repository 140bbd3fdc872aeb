// Package poll owns how plugins wait for what the kernel and other plugins do without telling anybody.
package poll

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// shortest is the pause after the first look, and a pause is perWaited times shorter than what was waited before it:
	// what many plugins wait for that run at once is mostly the processor, which looks take from each other.
	shortest  = 200 * time.Microsecond
	perWaited = 4
	longest   = 20 * time.Millisecond
)

// Until looks until done says true or an error, which it returns. When ctx has ended, it returns ctx's error as it is.
func Until(ctx context.Context, done func() (bool, error)) error {
	deadline, limited := ctx.Deadline()
	for begin := time.Now(); ; {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if limited && !time.Now().Before(deadline) {
			return context.DeadlineExceeded // of which the context hears when this thread lets go of the processor
		}
		pause(min(max(shortest, time.Since(begin)/perWaited), longest))
	}
}

// pause sleeps, or is shorter. It doesn't use Go's timers, which other threads would have to wait for.
func pause(d time.Duration) {
	timespec := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&timespec, nil)
}
