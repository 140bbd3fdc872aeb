package agents_test

import (
	"os"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
	"github.com/weaveguard/weaveguard/test/lab/bare"
)

// Tests that mostly wait, and count few packets or none, call t.Parallel: they run together when all the others have run.
func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, map[string]lab.Helper{bare.HelperName: bare.Helper, agents.DelegateHelper: agents.Delegate}))
}
