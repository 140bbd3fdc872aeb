package product_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/family"
)

// The pods that most tests talk between: one on each node, and a second one on the first.
const (
	pod1      = "web-1"
	pod2      = "web-2"
	pod3      = "web-3"
	neighbour = "neighbour" // of web-1
)

// path is a way that traffic takes, and what is claimed of it.
type path struct {
	from place
	to   netip.Addr
	// ports are where the far end's HTTP, bulk and echo servers are reached; the zero value means the usual ones.
	ports [3]int
	// asFrom is whose address the far end sees.
	asFrom netip.Addr
	// answers is the hostname of the far end.
	answers string
	// noPing: the address is a Service's, which answers no echo requests.
	noPing bool
	noUDP  bool
	// open: by design the first leg isn't in a tunnel, and the capture shows it to this address.
	open bool
}

// trafficCase is a group of paths.
type trafficCase struct {
	name  string
	paths []path
}

const gigabyte = 1 << 30 // bytes

// testTraffic shows that all kinds of traffic pass, and that nothing of what should be in the tunnels is on the
// underlay in the clear.
func (w *world) testTraffic(t *testing.T) {
	for _, host := range append([]string{cluster.Outside}, w.nodes...) {
		w.serve(t, host)
	}
	var closed, open []trafficCase
	for _, c := range w.trafficCases(t) {
		if c.isOpen() {
			open = append(open, c)
		} else {
			closed = append(closed, c)
		}
	}
	open = append(open, trafficCase{"control: host to host is in the clear", []path{w.control()}})

	under := w.watchUnderlay(t)
	w.tryAll(t, closed)
	t.Run("1 GB from pod to pod", func(t *testing.T) {
		s, err := w.ask(t.Context(), place{pod1, true}, "tcp", "--bytes="+strconv.Itoa(gigabyte), join(w.podIP(t, pod2).String(), bulkPort))
		if err != nil || s.Bytes != gigabyte {
			t.Fatalf("%+v, %v", s, err)
		}
		t.Logf("1 GB in %.1f s, with equal checksums at both ends", float64(s.Millis)/1000)
	})
	seen := under.stop(t, w)
	t.Run("the underlay shows nothing of it", func(t *testing.T) { seen.judge(t, nil, gigabyte) })

	under = w.watchUnderlay(t)
	w.tryAll(t, open)
	seen = under.stop(t, w)
	t.Run("the underlay shows nothing but what leaves the tunnels", func(t *testing.T) {
		var ends []netip.AddrPort
		for _, c := range open {
			for _, p := range c.paths {
				ends = append(ends, p.openEnds()...)
			}
		}
		if w.family == family.IPv6 {
			seen.forgiveTunnels()
		}
		seen.judge(t, ends, 1)
	})
}

// isOpen tells whether some of it isn't in a tunnel.
func (c trafficCase) isOpen() bool {
	return slices.ContainsFunc(c.paths, func(p path) bool { return p.open })
}

// tryAll sends all kinds of traffic along all paths of the cases.
func (w *world) tryAll(t *testing.T, cases []trafficCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, p := range c.paths {
				for _, err := range w.try(t.Context(), p) {
					t.Errorf("%v to %v: %v", p.from, p.to, err)
				}
			}
		})
	}
}

// control is traffic that the underlay shows.
func (w *world) control() path {
	from, to := w.nodes[0], w.nodes[1]
	return path{from: place{name: from}, to: w.address[to], asFrom: w.address[from], answers: to, open: true}
}

// trafficCases says who talks to whom, and as whom.
func (w *world) trafficCases(t *testing.T) []trafficCase {
	n1, n2, n3 := w.nodes[0], w.nodes[1], w.nodes[2]
	ip := map[string]netip.Addr{}
	for _, pod := range []string{pod1, pod2, pod3, neighbour} {
		ip[pod] = w.podIP(t, pod)
	}
	between := func(from, to string) path {
		return path{from: place{from, true}, to: ip[to], asFrom: ip[from], answers: to}
	}
	remote, near := w.expose(t, pod2, true), w.expose(t, neighbour, false)
	service := func(from place, s *corev1.Service) path {
		return path{from: from, to: w.clusterIP(t, s), answers: s.Name, noPing: true}
	}
	byNode := func(from place, node string) path {
		p := path{from: from, to: w.address[node], answers: pod2, noPing: true, open: true}
		for i, port := range []int{httpPort, bulkPort, echoPort} {
			p.ports[i] = nodePort(t, remote, port)
		}
		return p
	}
	out := w.address[cluster.Outside]
	return []trafficCase{
		{"pod to pod across nodes", []path{
			between(pod1, pod2), between(pod2, pod1), between(pod2, pod3), between(pod3, pod2), between(pod3, pod1), between(pod1, pod3),
		}},
		{"pod to pod on one node", []path{between(pod1, neighbour), between(neighbour, pod1)}},
		{"host to pod of another node, and back", []path{
			{from: place{name: n1}, to: ip[pod2], asFrom: w.gateway(n1), answers: pod2},
			{from: place{pod2, true}, to: w.gateway(n1), asFrom: ip[pod2], answers: n1},
		}},
		{"host to pod of its own, and back", []path{
			{from: place{name: n1}, to: ip[pod1], asFrom: w.gateway(n1), answers: pod1},
			{from: place{pod1, true}, to: w.gateway(n1), asFrom: ip[pod1], answers: n1},
			// A UDP server that listens at all addresses answers from the one nearest to the pod, the gateway's.
			{from: place{pod1, true}, to: w.address[n1], asFrom: ip[pod1], answers: n1, noUDP: true},
		}},
		{"pod to the address of another host", []path{
			{from: place{pod2, true}, to: w.address[n1], asFrom: w.address[n2], answers: n1, open: true},
		}},
		{"pod and host to a ClusterIP", []path{
			service(place{pod1, true}, remote), service(place{pod3, true}, remote), service(place{name: n1}, remote),
		}},
		{"pod to a pod of its node through a Service", []path{service(place{pod1, true}, near)}},
		{"pod to itself through a Service", []path{service(place{pod2, true}, remote), service(place{neighbour, true}, near)}},
		{"NodePort through another node", []path{
			byNode(place{cluster.Outside, false}, n3), byNode(place{name: n1}, n3), byNode(place{pod1, true}, n3),
		}},
		{"NodePort through the pod's node", []path{byNode(place{cluster.Outside, false}, n2)}},
		{"pod to an address outside, masqueraded", []path{
			{from: place{pod1, true}, to: out, asFrom: w.address[n1], answers: cluster.Outside, open: true},
			{from: place{pod3, true}, to: out, asFrom: w.address[n3], answers: cluster.Outside, open: true},
		}},
	}
}

// try sends all kinds of traffic along a path.
func (w *world) try(ctx context.Context, p path) (failed []error) {
	to := p.to.String()
	large := 9000 // bytes; fragmented before it gets into a tunnel
	if p.open {
		large = 1472 // the underlay's MTU, which is more than the pods': the way to the node has to stay as wide
	}
	if p.open && p.to.Is6() {
		// Nobody on the way fragments (RFC 8200, section 5): what is too large for the pods is lost, and senders learn that.
		// They send it again, as those of datagrams have to.
		large -= 20 // its header is larger
		for _, size := range []int{1400, large} {
			if !p.noPing {
				_ = w.ping(ctx, p.from, to, size)
			}
			_, _ = w.ask(ctx, p.from, "udp", "--timeout=1s", "--size="+strconv.Itoa(size), join(to, p.usedPorts()[2]))
		}
	}
	if !p.noPing {
		for _, size := range []int{56, 1400, large} {
			if err := w.ping(ctx, p.from, to, size); err != nil {
				failed = append(failed, err)
			}
		}
	}
	ports := p.usedPorts()
	switch s, err := w.get(ctx, p.from, to, ports[0]); {
	case err != nil:
		failed = append(failed, err)
	case s.Hostname != p.answers:
		failed = append(failed, fmt.Errorf("%s answers, want %s", s.Hostname, p.answers))
	case p.asFrom.IsValid() && s.from() != p.asFrom.String():
		failed = append(failed, fmt.Errorf("it comes from %s, want %s", s.from(), p.asFrom))
	}
	bulk, echo := join(to, ports[1]), join(to, ports[2])
	commands := []string{
		"tcp --bytes=1 " + bulk,
		"tcp --bytes=5000000 --timeout=30s " + bulk,
		"tcp --bytes=5000000 --timeout=30s --fetch " + bulk,
	}
	if !p.noUDP {
		for _, size := range []int{32, 1400, large} {
			commands = append(commands, fmt.Sprintf("udp --size=%d %s", size, echo))
		}
	}
	for _, command := range commands {
		_, err := w.ask(ctx, p.from, strings.Fields(command)...)
		// An agent makes its kernel forget what that learnt of the way to another node, which carries more than the pods there take:
		// tunnels need all of it.
		if p.open && p.to.Is6() && err != nil && strings.Contains(err.Error(), unix.EMSGSIZE.Error()) {
			_, err = w.ask(ctx, p.from, strings.Fields(command)...)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

func (p path) usedPorts() [3]int {
	if p.ports == [3]int{} {
		return [3]int{httpPort, bulkPort, echoPort}
	}
	return p.ports
}

// openEnds are the addresses and ports that the underlay may show a marker at; for echo requests, port 0.
func (p path) openEnds() []netip.AddrPort {
	if !p.open {
		return nil
	}
	var all []netip.AddrPort
	for _, port := range p.usedPorts() {
		all = append(all, netip.AddrPortFrom(p.to, uint16(port)))
	}
	if !p.noPing {
		all = append(all, netip.AddrPortFrom(p.to, 0))
	}
	return all
}
