package agents_test

import (
	"os"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m, nil)) }
