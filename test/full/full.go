// Package full tells tests whether they run with their full counts and long outages, as `make test-full` has them.
package full

import "os"

// Env is the variable that asks for it, with any value but the empty one.
const Env = "WEAVEGUARD_FULL"

// Wanted reports whether it is asked for.
func Wanted() bool { return os.Getenv(Env) != "" }
