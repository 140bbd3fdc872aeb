package vm_test

import (
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/vm"
)

// TestAgents runs whole agents on hosts of a lab, over the kernel's WireGuard.
func TestAgents(t *testing.T) {
	out := vm.RunTests(t, vm.Options{Memory: 3072, Env: []string{"WEAVEGUARD_LAB_RATE=40"}}, vm.Tests{
		Package: "./test/lab/agents",
		Run:     "^(TestMesh|TestJoin|TestAgentRestart|TestLoopChangesNothing|TestForeignBridge)$",
		Binaries: []string{
			"./cmd/weaveguard-agent", "./cmd/weaveguard", "./cmd/weaveguard-cni",
			"github.com/containernetworking/plugins/plugins/meta/portmap",
		},
	})
	if !strings.Contains(out, "WireGuard of the kernel") {
		t.Error("the tests didn't use the kernel's WireGuard")
	}
}

// TestTunnels runs the tests of mesh/tunnel against the kernel's WireGuard.
func TestTunnels(t *testing.T) {
	vm.RunTests(t, vm.Options{Env: []string{"WEAVEGUARD_TEST_WIREGUARD=kernel"}}, vm.Tests{Package: "./mesh/tunnel"})
}

// TestRoutes runs the tests of mesh/route, which make WireGuard devices where the kernel can.
func TestRoutes(t *testing.T) {
	vm.RunTests(t, vm.Options{}, vm.Tests{Package: "./mesh/route", Run: "TestKernelMaker|TestDevice|TestRoutes"})
}

// TestFirewall runs the tests of mesh/firewall on a kernel some years older than that of most machines.
func TestFirewall(t *testing.T) {
	vm.RunTests(t, vm.Options{}, vm.Tests{Package: "./mesh/firewall"})
}
