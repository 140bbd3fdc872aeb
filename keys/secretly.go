//go:build goexperiment.runtimesecret

package keys

import "runtime/secret"

// Secretly calls f, and erases what f leaves behind: registers and stack before it returns, what f allocated as soon as
// that is free (package runtime/secret, which is there when a program is built with GOEXPERIMENT=runtimesecret, as
// `make build` does). Whoever handles the bytes of a private key does so within.
func Secretly(f func()) { secret.Do(f) }
