package store_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weaveguard/weaveguard/cni/store"
)

func TestReadyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "cni.json")
	if _, err := store.ReadReady(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadReady without a file: %v, want ErrNotExist", err)
	}
	want := store.Ready{
		Bridge:   "weave",
		Subnets:  []netip.Prefix{netip.MustParsePrefix("10.32.5.0/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.32.5.1")},
		MTU:      1420,
	}
	if err := store.WriteReady(path, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	const text = `{"version":1,"bridge":"weave","subnets":["10.32.5.0/24"],"gateways":["10.32.5.1"],"mtu":1420}` + "\n"
	if err != nil || string(b) != text {
		t.Errorf("the file is %s, %v; want %s", b, err, text)
	}
	got, err := store.ReadReady(path)
	if err != nil {
		t.Fatal(err)
	}
	want.Version = 1
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestReadyFileRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni.json")
	for content, want := range map[string]string{
		``:                               "unexpected end",
		`{"version":1}`:                  "bridge is missing",
		`{"version":1,"bridge":"weave"}`: "subnets is empty",
		`{"version":2,"bridge":"weave"}`: "version is 2",
		`{"version":1,"bridge":"weave","subnets":["10.32.5.0/24"],"mtu":1420}`:                         "0 gateways",
		`{"version":1,"bridge":"weave","subnets":["10.32.5.0/24"],"gateways":["10.9.9.1"],"mtu":1420}`: "10.9.9.1",
		`{"version":1,"bridge":"weave","subnets":["10.32.5.0/24"],"gateways":["10.32.5.1"]}`:           "mtu is 0",
		`{"version":1,"bridge":"weave","subnets":["10.32.5/24"],"gateways":["10.32.5.1"],"mtu":1420}`:  "10.32.5/24",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := store.ReadReady(path)
		if !errors.Is(err, store.ErrReadyInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want ErrReadyInvalid with the path and %q", content, err, want)
		}
	}
	if err := store.WriteReady(path, store.Ready{Bridge: "weave"}); err == nil {
		t.Error("WriteReady wrote what ReadReady refuses")
	}
}
