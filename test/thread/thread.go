// Package thread gives code an operating system thread to change: to move to
// other namespaces, or to tie processes to.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a thread of its own and waits. The thread ends with fn, and so
// does all that fn did to it. It is never the main thread, whose namespaces are
// what /proc/self shows of the process.
func Do(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return // locked: the runtime ends the thread
		}
		defer runtime.UnlockOSThread()
		Do(fn) // this goroutine holds the main thread meanwhile
	}()
	<-done
}
