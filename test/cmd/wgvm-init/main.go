// Command wgvm-init is process 1 of the machines of package vm. It isn't for
// people.
package main

import (
	"fmt"
	"os"

	"github.com/weaveguard/weaveguard/test/vm/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "wgvm-init is the first process of a test machine; to start one use wgvm")
		os.Exit(2)
	}
	if err := guest.Main(); err != nil {
		fmt.Println("wgvm:", err)
		os.Exit(1) // and the kernel panics, which ends the machine
	}
}
