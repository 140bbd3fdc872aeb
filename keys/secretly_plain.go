//go:build !goexperiment.runtimesecret

package keys

// Secretly calls f. In a program that was built without GOEXPERIMENT=runtimesecret copies of private keys may outlive
// their use, on stacks and in the memory that signals save registers to.
func Secretly(f func()) { f() }
