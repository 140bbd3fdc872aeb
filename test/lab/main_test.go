package lab_test

import (
	"os"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/bare"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, map[string]lab.Helper{bare.HelperName: bare.Helper, "owner": ownerMain}))
}
