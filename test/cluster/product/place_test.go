package product_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/test/cluster"
)

// Ports of `probe serve`.
const (
	httpPort = 8080
	bulkPort = 9000
	echoPort = 9001
)

// place is where a program runs: a pod, or else a host.
type place struct {
	name string
	pod  bool
}

func (p place) String() string {
	if p.pod {
		return "pod " + p.name
	}
	return p.name
}

// run runs a program of the image of test pods at a place: probe, or one of busybox.
func (w *world) run(ctx context.Context, at place, program string, args ...string) (string, error) {
	command := append([]string{program}, args...)
	switch {
	case at.pod:
		return w.Exec(ctx, at.name, command...)
	case program == "probe":
		command[0] = w.probe
	default:
		command = append([]string{"busybox"}, command...)
	}
	return w.OnNode(ctx, at.name, command...)
}

// said is what a client of the probe prints.
type said struct {
	Remote   string // the client as the server sees it, IP:PORT
	Hostname string // of the server
	Bytes    int64
	Sent     int
	Received int
	Millis   int64
}

// from is the client's address as the server sees it.
func (s said) from() string {
	host, _, err := net.SplitHostPort(s.Remote)
	if err != nil {
		return s.Remote
	}
	return host
}

// ask runs a client of the probe.
func (w *world) ask(ctx context.Context, at place, args ...string) (said, error) {
	var s said
	text, err := w.run(ctx, at, "probe", args...)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read what the probe said (%q): %w", text, err)
	}
	return s, nil
}

// get fetches a page over HTTP.
func (w *world) get(ctx context.Context, at place, address string, port int) (said, error) {
	return w.ask(ctx, at, "get", "--timeout=5s", "http://"+join(address, port)+"/")
}

// pingPattern fills echo requests, so that a capture shows those in the clear.
const pingPattern = "57" // W

// ping sends echo requests with size bytes of payload; all have to be answered.
func (w *world) ping(ctx context.Context, at place, address string, size int) error {
	text, err := w.run(ctx, at, "ping", "-q", "-c", "2", "-A", "-W", "5", "-p", pingPattern, "-s", strconv.Itoa(size), address)
	if err != nil {
		return err
	}
	if !strings.Contains(text, " 0% packet loss") {
		return fmt.Errorf("ping said %q", text)
	}
	return nil
}

func join(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// runPods runs a pod of the probe on a node for each name, and waits until they are ready. Each has its name as its
// label app.
func (w *world) runPods(t *testing.T, nodeOf map[string]string) {
	t.Helper()
	for name, node := range nodeOf {
		pod := cluster.Pod{Name: name, Node: node, Labels: map[string]string{"app": name}}
		if err := w.RunPod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	for name := range nodeOf {
		if err := w.WaitPodReady(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// podIP is a pod's address.
func (w *world) podIP(t *testing.T, name string) netip.Addr {
	t.Helper()
	return w.choose(t, name, w.PodIPs)
}

// clusterIP is a Service's address.
func (w *world) clusterIP(t *testing.T, service *corev1.Service) netip.Addr {
	t.Helper()
	return w.choose(t, "service "+service.Name, func(context.Context, string) (all []netip.Addr, err error) {
		for _, text := range service.Spec.ClusterIPs {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			all = append(all, address)
		}
		return all, nil
	})
}

// serve runs a probe's server on a host until the test ends.
func (w *world) serve(t *testing.T, host string) {
	t.Helper()
	cmd, err := w.Command(t.Context(), host, w.probe, "serve")
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // killed with the test's context
	w.eventually(t, "the probe on "+host+" serves", func(ctx context.Context) error {
		_, err := w.get(ctx, place{name: host}, "127.0.0.1", httpPort)
		return err
	})
}

// expose makes a Service of one pod, and waits until kube-proxy has it on all nodes. Its ports are those given, httpPort
// among them; with none given, all of the probe's.
func (w *world) expose(t *testing.T, pod string, nodePort bool, ports ...corev1.ServicePort) *corev1.Service {
	t.Helper()
	service, err := w.Expose(t.Context(), cluster.Service{
		Name: pod, Selector: map[string]string{"app": pod}, NodePort: nodePort, Ports: ports,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's context has ended by now.
		err := w.Client().CoreV1().Services(metav1.NamespaceDefault).Delete(context.Background(), pod, metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	address := w.clusterIP(t, service).String()
	for _, node := range w.nodes {
		w.eventually(t, "service "+pod+" works on "+node, func(ctx context.Context) error {
			_, err := w.get(ctx, place{name: node}, address, httpPort)
			return err
		})
	}
	return service
}

// nodePort is where a Service's port is on every node.
func nodePort(t *testing.T, service *corev1.Service, port int) int {
	t.Helper()
	for _, p := range service.Spec.Ports {
		if int(p.Port) == port {
			return int(p.NodePort)
		}
	}
	t.Fatalf("service %s has no port %d", service.Name, port)
	return 0
}

// netnsOf opens the network namespace of a place.
func (w *world) netnsOf(t *testing.T, at place) netns.NsHandle {
	t.Helper()
	name, err := w.run(t.Context(), at, "readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if link, err := os.Readlink(file); err != nil || link != strings.TrimSpace(name) {
			continue
		}
		handle, err := netns.GetFromPath(file)
		if err != nil {
			continue // the process has just ended
		}
		t.Cleanup(func() { _ = handle.Close() })
		return handle
	}
	t.Fatalf("no process of this machine is in the network namespace of %v, %s", at, name)
	return -1
}

// inNetns starts a goroutine whose sockets are in a network namespace. The thread that it uses ends with it.
func inNetns(ns netns.NsHandle, do func() error) <-chan error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		if err := netns.Set(ns); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		result <- do()
	}()
	return result
}
