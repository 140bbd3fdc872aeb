package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// clobber is the setting of Go's runtime that overwrites memory as the garbage collector frees it (package runtime,
// "Environment Variables"). Each look at a tunnel device leaves copies of its private key behind: without this a key
// that was given up would lie around in freed memory.
const clobber = "clobberfree=1"

// eraseFreed makes this program overwrite what it frees. The runtime reads its settings when it starts only, so the
// program starts again, as the same process.
func eraseFreed() error {
	settings := os.Getenv("GODEBUG")
	if strings.Contains(settings, "clobberfree=") {
		return nil // so it is, or so somebody wants it
	}
	if settings != "" {
		settings += ","
	}
	if err := os.Setenv("GODEBUG", settings+clobber); err != nil {
		return fmt.Errorf("setting $GODEBUG: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := unix.Exec(self, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("starting %s again: %w", self, err)
	}
	return nil
}
