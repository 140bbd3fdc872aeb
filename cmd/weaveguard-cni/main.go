// Command weaveguard-cni is the CNI plugin weaveguard. Container runtimes run it for every pod sandbox; see package
// cni for what it does.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/weaveguard/weaveguard/cni"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

func main() {
	runtime.LockOSThread() // the network namespace is the thread's
	if err := cni.Main(os.Stdout, contract.Version()); err != nil {
		if printErr := err.Print(); printErr != nil {
			fmt.Fprintf(os.Stderr, "weaveguard-cni: %v; and it can't be written to stdout: %v\n", err, printErr)
		}
		os.Exit(1)
	}
}
