package route_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/route"
	"golang.org/x/sys/unix"
)

func sysctl(t *testing.T, key string) string {
	t.Helper()
	value, err := os.ReadFile(filepath.Join("/proc/sys", key))
	must(t, err)
	return strings.TrimSpace(string(value))
}

func TestSysctls(t *testing.T) {
	a := newNamespace(t)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/accept_redirects", []byte("1"), 0))
	wanted := []contract.Sysctl{
		{Key: "net/ipv4/conf/all/accept_redirects", Value: "1"}, // which forwarding turns off
		{Key: "net/ipv4/ip_forward", Value: "1"},
		{Key: "net/ipv4/ip_local_port_range", Value: "20000 30000"}, // shown with a tab
		{Key: "net/nowhere/at_all", Value: "1", Optional: true},
	}
	applied(t, func() (int, error) { return a.ApplySysctls(t.Context(), wanted) })
	for _, want := range wanted[:3] {
		if got := strings.Join(strings.Fields(sysctl(t, want.Key)), " "); got != want.Value {
			t.Errorf("%s is %s", want.Key, got)
		}
	}
}

func TestSysctlErrorsSayWhatToDo(t *testing.T) {
	a := newNamespace(t)
	_, err := a.ApplySysctls(t.Context(), []contract.Sysctl{
		{Key: "net/nowhere/at_all", Value: "1"},
		{Key: "../../tmp/x", Value: "1"},
		{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
	})
	wants(t, err, "net/nowhere/at_all doesn't exist", `"../../tmp/x" isn't the name of a kernel setting`)
	if sysctl(t, "net/ipv6/conf/all/forwarding") != "1" {
		t.Error("the good one wasn't written")
	}
}

// In a container without privileges /proc/sys is read-only.
func TestReadOnlySysctls(t *testing.T) {
	newNamespace(t)
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	root := t.TempDir()
	must(t, unix.Mount("/proc/sys", root, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) }()
	a := route.New(route.Config{Log: slog.New(slog.DiscardHandler), SysctlRoot: root})
	wanted := []contract.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}}
	must(t, os.WriteFile(filepath.Join(root, "net/ipv4/ip_forward"), []byte("0"), 0))
	must(t, unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	writes, err := a.ApplySysctls(t.Context(), wanted)
	wants(t, err, "net/ipv4/ip_forward", "read-only", "hostPath", "it is 0")
	if writes != 0 {
		t.Errorf("%d writes", writes)
	}
	wanted[0].Value = "0" // what it is already needs no writing
	if _, err := a.ApplySysctls(t.Context(), wanted); err != nil {
		t.Error(err)
	}
}
