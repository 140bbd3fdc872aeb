package deploy_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/service"
)

func unit(t *testing.T, name string) *service.Unit {
	t.Helper()
	u, err := service.Read(filepath.Join("systemd", name+".service"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// What systemd says of the units, where it is installed. The program that they start isn't.
func TestUnitsVerify(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("there is no systemd-analyze here: the units are parsed only")
		return
	}
	dir := t.TempDir()
	args := []string{"verify"}
	for _, name := range []string{"weaveguard.service", "weaveguard-userspace.service"} {
		raw, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), "=/usr/local/bin/weaveguard-agent", "=/bin/true")
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// Both services are confined, keep what is attached, and are never given up.
func TestUnits(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"weaveguard", "weaveguard-userspace"} {
		u := unit(t, name)
		for setting, want := range map[string]string{
			"Environment":           "GOMEMLIMIT=192MiB",
			"CapabilityBoundingSet": "CAP_NET_ADMIN", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
			"PrivateTmp": "yes", "RestrictNamespaces": "yes", "SystemCallFilter": "@system-service", "MemoryDenyWriteExecute": "yes",
			"RuntimeDirectoryPreserve": "yes", "Restart": "always", "RestartSec": "1", "AmbientCapabilities": "", "User": "", "KillMode": "",
		} {
			if got := u.Value("Service", setting); got != want {
				t.Errorf("%s: %s=%s, want %q", name, setting, got, want)
			}
		}
		if !slices.Contains(strings.Fields(u.Value("Service", "RuntimeDirectory")), filepath.Base(contract.RunDir)) {
			t.Errorf("%s: RuntimeDirectory lacks %s", name, contract.RunDir)
		}
		if got := u.Value("Unit", "StartLimitIntervalSec"); got != "0" {
			t.Errorf("%s: StartLimitIntervalSec=%s: systemd gives up", name, got)
		}
	}
	agent := unit(t, "weaveguard")
	if got := agent.Value("Service", "StateDirectory"); got != filepath.Base(contract.StateDir) {
		t.Errorf("StateDirectory=%s, want that of %s", got, contract.StateDir)
	}
	// systemd sees to ReadWritePaths before ExecStartPre makes them, also where that has all privileges.
	made := strings.Fields(agent.Value("Service", "ExecStartPre"))[2:]
	for i, path := range strings.Fields(agent.Value("Service", "ReadWritePaths")) {
		if i >= len(made) || path != "-"+made[i] {
			t.Errorf("ReadWritePaths has %s, and ExecStartPre makes %q: on a new host the service doesn't start", path, made)
		}
	}
	if got := agent.Value("Service", "ProtectKernelTunables"); got == "yes" {
		t.Error("the agent can't write the network's settings")
	}
}

// The example has what the unit takes, and nothing else; and what it says is what the flags of the command line become.
func TestUnitEnvironment(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("systemd/weaveguard.env")
	if err != nil {
		t.Fatal(err)
	}
	agent, env := unit(t, "weaveguard"), service.Environment(string(raw))
	if got, want := slices.Sorted(maps.Keys(env)), agent.Variables(); !slices.Equal(got, want) {
		t.Errorf("the example has %q, and the unit takes %q", got, want)
	}
	env["WEAVEGUARD_FLAGS"] = "--address=192.0.2.1 --rotate-every=720h"
	want := []string{
		"/usr/local/bin/weaveguard-agent", "--peers=192.0.2.1,192.0.2.2,192.0.2.3", "--pod-cidr=", "--pod-range=10.32.0.0/12",
		"--gossip-key-file=/etc/weaveguard/key", "--plugin-dir=/usr/local/lib/weaveguard", "--address=192.0.2.1", "--rotate-every=720h",
	}
	if got := agent.Command(env); !slices.Equal(got, want) {
		t.Errorf("the command is %q, want %q", got, want)
	}
}
