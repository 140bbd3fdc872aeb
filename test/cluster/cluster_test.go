package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownerVariable makes this test binary a process that owns a cluster of that name until it is killed.
const ownerVariable = "WEAVEGUARD_TEST_CLUSTER_OWNER"

func TestMain(m *testing.M) {
	if name := os.Getenv(ownerVariable); name != "" {
		if _, err := cluster.Up(context.Background(), cluster.Options{Name: name, Nodes: 1, Log: os.Stderr}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("up")
		select {}
	}
	os.Exit(m.Run())
}

func TestCluster(t *testing.T) {
	ctx := t.Context()
	c := cluster.ForTest(t, cluster.Options{Nodes: 2})
	left := traces(t, c)

	t.Run("nodes wait for a network", func(t *testing.T) {
		cidrs := map[string]bool{}
		for _, name := range []string{"node-1", "node-2"} {
			node := awaitCondition(t, c, name, "cni plugin not initialized")
			cidr, err := netip.ParsePrefix(node.Spec.PodCIDR)
			if err != nil || !netip.MustParsePrefix(cluster.DefaultPodCIDR).Contains(cidr.Addr()) {
				t.Errorf("%s has podCIDR %q, %v", name, node.Spec.PodCIDR, err)
			}
			cidrs[node.Spec.PodCIDR] = true
			settings, err := c.OnNode(ctx, name, "cat", "/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/ipv4/ip_forward")
			if err != nil || strings.Join(strings.Fields(settings), " ") != "1 1" {
				t.Errorf("%s has bridge-nf-call-iptables and ip_forward %q, %v", name, settings, err)
			}
		}
		if len(cidrs) != 2 {
			t.Errorf("two nodes have podCIDRs %v", cidrs)
		}
	})
	t.Run("pods reach the API server", func(t *testing.T) {
		for _, node := range []string{"node-1", "node-2"} {
			pod := runOnHost(t, c, node)
			if service := claimOf(t, c, pod, "authentication.kubernetes.io/node-name"); service != node {
				t.Errorf("the token of %s says node %q, want %s", pod, service, node)
			}
			hostname, err := c.Exec(ctx, pod, "hostname")
			if err != nil || strings.TrimSpace(hostname) != node {
				t.Errorf("hostname in %s: %q, %v", pod, hostname, err)
			}
			if _, err := c.Kubectl(ctx, "logs", pod); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("the underlay is seen", func(t *testing.T) { testCapture(t, c) })
	t.Run("a node joins", func(t *testing.T) {
		node, err := c.AddNode(ctx)
		if err != nil {
			t.Fatal(err)
		}
		runOnHost(t, c, node) // it has the images
		if err := c.RemoveNode(ctx, node); err != nil {
			t.Fatal(err)
		}
		if nodes, err := c.Nodes(ctx); err != nil || len(nodes) != 2 {
			t.Errorf("after the removal of %s there are nodes %v, %v", node, nodes, err)
		}
	})
	t.Run("a node stops and starts", func(t *testing.T) { testStop(t, c) })

	left = append(left, traces(t, c)...)
	if err := c.Down(ctx); err != nil {
		t.Fatal(err)
	}
	expectNothing(t, c.Name(), left)
}

func testCapture(t *testing.T, c *cluster.Cluster) {
	ctx := t.Context()
	outside, err := c.Address(ctx, cluster.Outside)
	if err != nil {
		t.Fatal(err)
	}
	node, err := c.Address(ctx, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	capture, err := c.Capture(ctx, filepath.Join(t.TempDir(), "underlay.pcap"), "icmp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OnNode(ctx, "node-1", "busybox", "ping", "-c1", "-W5", outside.String()); err != nil {
		t.Error(err)
	}
	if err := capture.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	all, err := capture.Read(ctx, "")
	if err != nil || len(all) < 2 || strings.Contains(strings.Join(all, " "), "UDP") {
		t.Errorf("captured %q, %v, want echo requests and replies", all, err)
	}
	packets, err := capture.Read(ctx, "src "+node.String()+" and dst "+outside.String())
	if err != nil || len(packets) != 1 {
		t.Errorf("captured %q, %v, want one echo request", packets, err)
	}
	if _, err := c.Capture(ctx, filepath.Join(t.TempDir(), "no.pcap"), "no such filter"); err == nil {
		t.Error("a capture with a wrong filter started")
	}
}

func testStop(t *testing.T, c *cluster.Cluster) {
	ctx := t.Context()
	address, err := c.Address(ctx, "node-2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OnNode(ctx, "node-2", "touch", "/var/lib/kept", "/etc/cni/kept", "/run/lost"); err != nil {
		t.Fatal(err)
	}
	if err := c.StopNode(ctx, "node-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.OnNode(ctx, "node-1", "busybox", "ping", "-c1", "-W1", address.String()); err == nil {
		t.Errorf("the stopped node still answers at %s", address)
	}
	before, err := c.Client().CoreV1().Nodes().Get(ctx, "node-2", metav1.GetOptions{})
	if err != nil {
		t.Errorf("the object of the stopped node: %v", err)
	}
	if err := c.StartNode(ctx, "node-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.OnNode(ctx, "node-2", "sh", "-c", "test -e /var/lib/kept && test -e /etc/cni/kept && ! test -e /run/lost"); err != nil {
		t.Errorf("after a restart of node-2 /run isn't fresh, or its disk is: %v", err)
	}
	pod := cluster.Pod{Name: "after-restart", Node: "node-2", HostNetwork: true, Args: []string{"serve", "--http=:8081", "--tcp=", "--udp="}}
	if err := c.RunPod(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitPodReady(ctx, pod.Name); err != nil {
		t.Fatal(err)
	}
	after, err := c.Client().CoreV1().Nodes().Get(ctx, "node-2", metav1.GetOptions{})
	if err != nil || after.UID != before.UID || after.Spec.PodCIDR != before.Spec.PodCIDR {
		t.Errorf("the restart of node-2 made another node of it: %v", err)
	}
}

// TestKilled kills, in two clusters side by side, the process that owns one and the supervisor of the
// other.
func TestKilled(t *testing.T) {
	t.Run("owner", func(t *testing.T) {
		t.Parallel()
		name := fmt.Sprintf("test-owned-%d", os.Getpid())
		owner := exec.CommandContext(t.Context(), os.Args[0])
		owner.Env = append(os.Environ(), ownerVariable+"="+name)
		owner.Stderr = t.Output()
		stdout, err := owner.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "up\n" {
			t.Fatalf("the owner said %q, %v", line, err)
		}
		c, err := cluster.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		left := traces(t, c)
		if err := owner.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = owner.Wait() // it was killed
		expectNothing(t, name, left)
	})
	t.Run("supervisor", func(t *testing.T) {
		t.Parallel()
		c := cluster.ForTest(t, cluster.Options{Nodes: 1, NoPodCIDR: true})
		node, err := c.Client().CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{})
		if err != nil || node.Spec.PodCIDR != "" {
			t.Errorf("without a range for pods, the node has podCIDR %q, %v", node.Spec.PodCIDR, err)
		}
		left := traces(t, c)
		if err := syscall.Kill(supervisorOf(t, c), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err = cluster.Poll(t.Context(), time.Minute, "a sweep removes the cluster", func(ctx context.Context) error {
			if err := cluster.Sweep(ctx); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Dir(c.Kubeconfig())); err == nil {
				return fmt.Errorf("its directory is still there")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		expectNothing(t, c.Name(), left)
	})
}

// runOnHost runs a pod in a node's own network and waits for it.
func runOnHost(t *testing.T, c *cluster.Cluster, node string) (pod string) {
	t.Helper()
	pod = "host-" + node
	if err := c.RunPod(t.Context(), cluster.Pod{Name: pod, Node: node, HostNetwork: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitPodReady(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// claimOf has a pod ask the API server, by its ClusterIP, who the pod is.
func claimOf(t *testing.T, c *cluster.Cluster, pod, claim string) string {
	t.Helper()
	answer := ""
	err := cluster.Poll(t.Context(), time.Minute, pod+" reaches the API server", func(ctx context.Context) (err error) {
		answer, err = c.Exec(ctx, pod, "probe", "whoami")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var who struct {
		UserInfo struct {
			Username string
			Extra    map[string][]string
		}
	}
	if err := json.Unmarshal([]byte(answer), &who); err != nil {
		t.Fatalf("%s said %q: %v", pod, answer, err)
	}
	if who.UserInfo.Username != "system:serviceaccount:default:default" {
		t.Errorf("%s is %q", pod, who.UserInfo.Username)
	}
	return strings.Join(who.UserInfo.Extra[claim], " ")
}

func awaitCondition(t *testing.T, c *cluster.Cluster, name, message string) *corev1.Node {
	t.Helper()
	var node *corev1.Node
	err := cluster.Poll(t.Context(), time.Minute, name+" says "+message, func(ctx context.Context) (err error) {
		node, err = c.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := cluster.Condition(*node, corev1.NodeReady)
		if ready.Status != corev1.ConditionFalse || !strings.Contains(ready.Message, message) || node.Spec.PodCIDR == "" {
			return fmt.Errorf("ready is %s: %s; podCIDR %q", ready.Status, ready.Message, node.Spec.PodCIDR)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return node
}
