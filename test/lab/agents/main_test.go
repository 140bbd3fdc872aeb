package agents_test

import (
	"os"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
)

// Tests that count no packets, and mostly wait, call t.Parallel: they run together when all the others have run.
func TestMain(m *testing.M) { os.Exit(lab.Main(m, nil)) }
