package product_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
)

const (
	// inARow is how many rotations of a node follow each other.
	inARow = 5
	// beyond is for how many seconds the traffic goes on after the last rotation.
	beyond = 5
)

// rotations are changes of keys under traffic.
type rotations struct {
	*world
	running *traffic
	netns   map[place]netns.NsHandle // of those that traffic goes from and to
	open    []netip.AddrPort         // ends of what is in the clear by design
}

// in is the network namespace of a place.
func (r *rotations) in(t *testing.T, at place) netns.NsHandle {
	t.Helper()
	if _, has := r.netns[at]; !has {
		r.netns[at] = r.netnsOf(t, at)
	}
	return r.netns[at]
}

// testRotation changes keys in all the ways that users have for it: nothing is lost, no connection ends, and the underlay
// shows nothing of what should be in the tunnels.
func (w *world) testRotation(t *testing.T) {
	r := &rotations{world: w, running: w.newTraffic(t), netns: map[place]netns.NsHandle{}}
	connections := r.connections(t)
	under := w.watchUnderlay(t)
	r.start(t, connections)
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"one node rotates", r.testOne},
		{"all nodes rotate at once", r.testAll},
		{"one node rotates again and again", r.testAgain},
		{"what isn't a request is refused", r.testRefused},
		{"weaveguard rotate --wait", r.testCommand},
		{"a node rotates without the API server", r.testWithoutAPIServer},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			step.do(t)
			r.running.check(t, w)
		})
		if !ok {
			break // what follows would count the same loss, or wait for the same rotation
		}
	}
	r.running.goOn(t, w, beyond)
	r.running.stop(t)
	seen := under.stop(t, w)
	t.Run("the underlay shows nothing of it", func(t *testing.T) { seen.judge(t, r.open, 100<<20) })
}

// connections are all ways on which a connection goes through a tunnel whose keys change, to the pod of node 2.
func (r *rotations) connections(t *testing.T) []connection {
	t.Helper()
	ways := []struct {
		name   string
		from   place
		target func(service *corev1.Service, port int) netip.AddrPort
	}{
		{"pod to pod", place{pod1, true}, nil},
		{"outside to NodePort", place{name: cluster.Outside}, r.throughNodePort(t)},
		{"pod to NodePort", place{pod1, true}, r.throughNodePort(t)},
		{"host to ClusterIP", place{name: r.nodes[0]}, func(service *corev1.Service, port int) netip.AddrPort {
			return netip.AddrPortFrom(r.clusterIP(t, service), uint16(port))
		}},
	}
	ports := []corev1.ServicePort{servicePort(httpPort)}
	for i := range ways {
		ports = append(ports, servicePort(streamPort+i))
	}
	service := r.expose(t, pod2, true, ports...)
	to, address := r.in(t, place{pod2, true}), r.podIP(t, pod2)
	var all []connection
	for i, way := range ways {
		at := netip.AddrPortFrom(address, uint16(streamPort+i))
		c := connection{name: way.name, from: r.in(t, way.from), to: to, dial: at, listen: at, pace: 500_000}
		if way.target != nil {
			c.dial = way.target(service, streamPort+i)
		}
		all = append(all, c)
	}
	return all
}

// throughNodePort finds a NodePort of node 3, where no pod of the Service is. The way there is in the clear.
func (r *rotations) throughNodePort(t *testing.T) func(*corev1.Service, int) netip.AddrPort {
	return func(service *corev1.Service, port int) netip.AddrPort {
		at := netip.AddrPortFrom(r.address[r.nodes[2]], uint16(nodePort(t, service, port)))
		r.open = append(r.open, at)
		return at
	}
}

func servicePort(port int) corev1.ServicePort {
	return corev1.ServicePort{Name: "port-" + strconv.Itoa(port), Port: int32(port), TargetPort: intstr.FromInt(port)}
}

// start starts the connections, and datagrams between the pods of each two nodes: 40 Mbit/s each way between the first
// two, and 1,000 a second each way from both to the third.
func (r *rotations) start(t *testing.T, connections []connection) {
	t.Helper()
	r.running.send(t, r.world, r.between(t, pod1, pod2, 4167, 1200))
	r.running.send(t, r.world, r.between(t, pod1, pod3, 1000, 200))
	r.running.send(t, r.world, r.between(t, pod2, pod3, 1000, 200))
	for _, c := range connections {
		r.running.connect(t, c)
	}
	r.running.goOn(t, r.world, 1)
}

func (r *rotations) between(t *testing.T, from, to string, rate, size int) load {
	t.Helper()
	return load{
		name: from + " and " + to, from: r.in(t, place{from, true}), to: r.in(t, place{to, true}),
		address: r.podIP(t, to), rate: rate, size: size,
	}
}

// testOne has one node rotate: its Node shows how far that is, and what came of it.
func (r *rotations) testOne(t *testing.T) {
	node := r.nodes[1]
	watch, before := r.watchNode(t, node), r.mustNodeKey(t, node)
	began := time.Now()
	r.annotate(t, node, "now")
	after := r.awaitRotated(t, node, before)
	t.Logf("the Node said that it has its next key %.1f s after it was asked to", time.Since(began).Seconds())
	watch.sawRotation(t, r.world)
	r.awaitWG(t)
	yaml := r.kubectl(t, "get", "node", node, "-o", "yaml")
	for _, line := range []string{
		fmt.Sprintf("%s: %q", keyGeneration, strconv.Itoa(after.generation)),
		fmt.Sprintf("%s: %s", publicKey, after.publicKey),
		fmt.Sprintf("%s: %q", keyRotatedAt, after.rotatedAt.Format(time.RFC3339)),
		keyRotation + ": idle",
	} {
		if !strings.Contains(yaml, "\n    "+line+"\n") {
			t.Errorf("kubectl get node %s -o yaml doesn't say %s:\n%s", node, line, yaml)
		}
	}
	r.describes(t, node, "Normal", "KeyRotationStarted")
	r.describes(t, node, "Normal", "KeyRotationFinished")
}

// testAll has all nodes rotate at once.
func (r *rotations) testAll(t *testing.T) {
	before := map[string]nodeKey{}
	for _, node := range r.nodes {
		before[node] = r.mustNodeKey(t, node)
	}
	began := time.Now()
	r.annotate(t, "--all", "now")
	for _, node := range r.nodes {
		r.awaitRotated(t, node, before[node])
	}
	t.Logf("all Nodes said that they have their next key %.1f s after they were asked to", time.Since(began).Seconds())
	r.awaitWG(t)
}

// testAgain has one node rotate several times in a row, always by the same command.
func (r *rotations) testAgain(t *testing.T) {
	node := r.nodes[1]
	last := r.mustNodeKey(t, node)
	began := time.Now()
	for i := range inARow {
		r.annotate(t, node, "now")
		r.awaitKey(t, node, last.generation+i+1)
	}
	t.Logf("%d rotations took %.1f s", inARow, time.Since(began).Seconds())
	last.generation += inARow - 1
	r.awaitRotated(t, node, last)
	r.awaitWG(t)
}

// testRefused asks for a rotation in a way that nobody understands: that is said, and nothing else is done.
func (r *rotations) testRefused(t *testing.T) {
	node := r.nodes[0]
	watch, before := r.watchNode(t, node), r.mustNodeKey(t, node)
	// The API server refuses it before an agent sees it. (Before Kubernetes 1.30 the agent does, as mesh/kube's tests show.)
	if _, err := r.Kubectl(t.Context(), "annotate", "node", node, rotateKeys+"=tomorrow"); err == nil ||
		!saysAll(err.Error(), []string{rotateKeys, "takes one value: now"}) {
		t.Errorf("asking for a rotation tomorrow: %v", err)
	}
	r.eventually(t, "the request is removed", func(ctx context.Context) error {
		now, err := r.nodeKey(ctx, node)
		if err == nil && now != before {
			err = fmt.Errorf("the Node said %+v, and now says %+v", before, now)
		}
		return err
	})
	if s, err := r.status(t.Context(), node); err != nil || len(s.Generations) != 1 || int(s.Generations[0].Number) != before.generation {
		t.Errorf("%s has the keys %v, %v; want only key %d", node, s.Generations, err, before.generation)
	}
	if seen := watch.seen(); !slices.Equal(seen, []string{"idle"}) {
		t.Errorf("the Node said %q of its rotation, want nothing but idle", seen)
	}
}

// testCommand rotates with the agent's own command, and looks at what the agent says of it.
func (r *rotations) testCommand(t *testing.T) {
	node := r.nodes[0] // the one that refused before, so its next key is the next one
	before, rotated := r.mustNodeKey(t, node), r.metric(t, node, "weaveguard_rotations_total")
	said, err := r.cli(t.Context(), node, "rotate", "--wait", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var answer view.RotateAnswer
	want := view.RotateAnswer{State: view.RotateStarted, Generation: uint32(before.generation + 1)}
	if err := json.Unmarshal([]byte(said), &answer); err != nil || answer != want {
		t.Errorf("weaveguard rotate says %q, %v; want %+v", said, err, want)
	}
	if n := r.metric(t, node, "weaveguard_key_generation"); n != float64(want.Generation) {
		t.Errorf("the metrics say generation %v, want %d", n, want.Generation)
	}
	if n := r.metric(t, node, "weaveguard_rotations_total"); n != rotated+1 {
		t.Errorf("the metrics say %v rotations, want one more than %v", n, rotated)
	}
	key := r.awaitRotated(t, node, before)
	text, err := r.cli(t.Context(), node, "status", "--check")
	if err != nil || !saysAll(text, []string{fmt.Sprintf("key %d", want.Generation), key.publicKey}) {
		t.Errorf("weaveguard status says %v\n%s", err, text)
	}
	r.awaitWG(t)
}

// metric is the value of a metric without labels.
func (r *rotations) metric(t *testing.T, node, name string) float64 {
	t.Helper()
	text, err := r.run(t.Context(), place{name: node}, "wget", "-q", "-O", "-", "http://"+r.address[node].String()+":6782/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the metrics of %s have no %s:\n%s", node, name, text)
	return 0
}

// testWithoutAPIServer rotates from beginning to end while the API server answers nobody. Later the Node says so.
func (r *rotations) testWithoutAPIServer(t *testing.T) {
	node, command := r.nodes[2], buildProgram(t, "./cmd/weaveguard")
	before := r.mustNodeKey(t, node)
	resume := r.stopAPIServer(t)
	r.on(t, node, command, "rotate", "--wait", "--timeout="+patience.String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := r.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the API server wasn't away: %v", err)
	}
	resume()
	r.awaitRotated(t, node, before)
	r.awaitWG(t)
}

// stopAPIServer keeps the API server from running, and so from answering, until it is resumed.
func (r *rotations) stopAPIServer(t *testing.T) (resume func()) {
	t.Helper()
	signal := func(ctx context.Context, name string) error {
		_, err := r.OnNode(ctx, cluster.ControlPlane, "sh", "-c", "kill -"+name+" $(pidof kube-apiserver)")
		return err
	}
	t.Cleanup(func() { _ = signal(context.Background(), "CONT") }) // however often; the test's context has ended by now
	if err := signal(t.Context(), "STOP"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := signal(t.Context(), "CONT"); err != nil {
			t.Fatal(err)
		}
	}
}
