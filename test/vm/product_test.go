package vm_test

import (
	"os"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/vm"
	"github.com/weaveguard/weaveguard/test/vm/guest"
)

// some are the tests to run in the machine unless all are asked for: what depends on the kernel most. Emulation is slow.
func some(tests string) string {
	if full.Wanted() {
		return ""
	}
	return tests
}

// TestAgents runs whole agents on hosts of a lab, over the kernel's WireGuard; has damage repaired that is about the kernel's devices,
// routes, firewall and settings, and doctor find what is wrong. In full it follows the page of plain hosts, too, as the lane lab does each
// time; what systemd makes of it is TestSystemd's. What agents do when their kernel boots is TestNothingLeaksThroughAReboot's, with a
// kernel that does.
func TestAgents(t *testing.T) {
	args := []string{"-test.parallel=1"}
	if !full.Wanted() {
		args = append(args, "-test.skip=^TestDoctor$/^(wrong_.*|clashing_.*|MTU_.*|two_.*|unreachable_.*|no_WireGuard.*|clock_.*|blocked_.*)$")
	}
	out := vm.RunTests(t, measuring(t, vm.Options{Memory: 3072, Env: []string{"WEAVEGUARD_LAB_RATE=40"}}), vm.Tests{
		Package: "./test/lab/agents", Binaries: agentBinaries,
		Run: some("^(TestMesh|TestAgentRestart|TestLoopChangesNothing|TestNothingLeaksAtFirstBoot|TestFaultRepairs|TestDoctor)$"), Args: args,
	})
	if !strings.Contains(out, "WireGuard of the kernel") {
		t.Error("the tests didn't use the kernel's WireGuard")
	}
}

// TestRotation runs the lab's rotations over the kernel's WireGuard, at what an emulated machine carries. The clock is the
// machine's own, so it can be set. That one rotates again and again, that a peer's agent is killed at each step, that peers hold a
// rotation up and that a node joins takes long, and what the kernel adds, that agents adopt its devices and go on, others show: the
// cases that all rotate again and again, that the node's own agent is killed, and TestAgents.
func TestRotation(t *testing.T) {
	var less []string
	if !full.Wanted() {
		less = []string{"-test.skip=^TestRotation$/^(one_node_rotates_again_and_again|a_peer's_agent_is_killed_at_each_step|peers_hold_it_up|a_node_joins_in_the_middle)$"}
	}
	options := vm.Options{Memory: 3072, Env: []string{"WEAVEGUARD_LAB_RATE=40", full.Env + "=" + os.Getenv(full.Env)}}
	vm.RunTests(t, measuring(t, options), vm.Tests{
		Package: "./test/lab/agents", Run: "^(TestRotation|TestRotationWithoutAPeer|TestOldKeyIsGone|TestClockJumps)$",
		Args: less, Tags: "ownclock", Binaries: agentBinaries,
	})
}

// measuring keeps what tests in a machine measure of faults, if that is wanted.
func measuring(t *testing.T, o vm.Options) vm.Options {
	t.Helper()
	dir := os.Getenv(faults.DirEnv)
	if dir == "" {
		return o
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o.Disk, o.Env = dir, append(o.Env, faults.DirEnv+"="+guest.DiskDir)
	return o
}

// agentBinaries are what whole agents need.
var agentBinaries = []string{
	"./cmd/weaveguard-agent", "./cmd/weaveguard", "./cmd/weaveguard-cni", "./test/thief",
	"github.com/containernetworking/plugins/plugins/meta/portmap",
}

// TestTunnels runs the tests of mesh/tunnel against the kernel's WireGuard.
func TestTunnels(t *testing.T) {
	vm.RunTests(t, vm.Options{Env: []string{"WEAVEGUARD_TEST_WIREGUARD=kernel"}}, vm.Tests{Package: "./mesh/tunnel"})
}

// TestRoutes runs the tests of mesh/route, which make WireGuard devices where the kernel can.
func TestRoutes(t *testing.T) {
	vm.RunTests(t, vm.Options{}, vm.Tests{Package: "./mesh/route", Run: some("^(TestKernelMaker|TestDeviceIsSetUp|TestRoutesChange)$")})
}

// TestFirewall runs the tests of mesh/firewall on a kernel some years older than that of most machines.
func TestFirewall(t *testing.T) {
	vm.RunTests(t, vm.Options{}, vm.Tests{
		Package: "./mesh/firewall",
		Run: some("^(TestNothingLeavesInTheClear|TestSpoofedSourceIsDropped|TestForeignSourceOnTunnel|" +
			"TestPodIsMasqueradedOutOfTheCluster|TestSegmentSizeFitsTheRoute|TestTableFollowsThePlan)$"),
	})
}
