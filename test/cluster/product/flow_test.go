package product_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/flow"
)

// settle is how long the last datagrams may take to arrive.
const settle = 10 * time.Second

// datagramPort is that of the first flow of datagrams in a pod; each further one has the next.
const datagramPort = 7000

// traffic runs until it is stopped: numbered datagrams between pods in both directions, and TCP connections.
type traffic struct {
	flows   []*datagrams
	streams []*stream
}

// startTraffic starts datagrams between each two of the pods, and a TCP connection between the first two, and returns once all run.
func (w *world) startTraffic(t *testing.T, pods ...string) *traffic {
	t.Helper()
	in := map[string]netns.NsHandle{}
	for _, pod := range pods {
		in[pod] = w.netnsOf(t, place{pod, true})
	}
	f := w.newTraffic(t)
	for i, from := range pods {
		for _, to := range pods[i+1:] {
			f.send(t, w, load{name: from + " and " + to, from: in[from], to: in[to], address: w.podIP(t, to), rate: 500, size: 1000})
		}
	}
	at := netip.AddrPortFrom(w.podIP(t, pods[1]), streamPort)
	f.connect(t, connection{name: pods[0] + " to " + pods[1], from: in[pods[0]], to: in[pods[1]], dial: at, listen: at, pace: 4e6})
	f.goOn(t, w, 1)
	return f
}

// newTraffic is none yet. From now on the tunnels go before others on the machine's processors.
func (w *world) newTraffic(t *testing.T) *traffic {
	t.Helper()
	for _, node := range w.nodes {
		if err := w.Favour(t.Context(), node, "/weaveguard-agent", "userspace"); err != nil {
			t.Fatal(err)
		}
	}
	return &traffic{}
}

// load says what datagrams go where.
type load struct {
	name       string // of the ends
	from, to   netns.NsHandle
	address    netip.Addr // of to
	rate, size int        // datagrams a second each way, and bytes of payload in each
}

// datagrams are a running load.
type datagrams struct {
	load
	there, back *end // that sends there, and that sends back
	began       time.Time
	due         [2]uint64 // how many are to arrive, there and back
}

// send adds a load, and returns once it runs.
func (f *traffic) send(t *testing.T, w *world, l load) {
	t.Helper()
	to := netip.AddrPortFrom(l.address, datagramPort+uint16(len(f.flows)))
	d := &datagrams{
		load:  l,
		back:  startEnd(t, l.to, flow.DatagramConfig{Local: to, Rate: l.rate, Size: l.size}),
		there: startEnd(t, l.from, flow.DatagramConfig{Peer: to, Rate: l.rate, Size: l.size}),
	}
	var hello flow.HelloAnswer
	w.eventually(t, "datagrams pass between "+l.name, func(context.Context) error {
		d.there.ask(t, flow.CommandHello, &hello)
		if !hello.Heard {
			return errors.New("no answer comes back")
		}
		return nil
	})
	d.there.ask(t, flow.CommandStart, &struct{}{})
	d.back.ask(t, flow.CommandStart, &struct{}{})
	d.began = time.Now()
	f.flows = append(f.flows, d)
}

// goOn returns when all of the traffic went on for so many seconds after the call.
func (f *traffic) goOn(t *testing.T, w *world, seconds int) {
	t.Helper()
	sent := map[*datagrams]uint64{}
	for _, d := range f.flows {
		sent[d] = d.there.sent(t)
	}
	received := map[*stream]int64{}
	for _, s := range f.streams {
		received[s] = s.received.Load()
	}
	w.eventually(t, "traffic goes on", func(context.Context) error {
		for _, d := range f.flows {
			if n := d.there.sent(t) - sent[d]; n < uint64(seconds*d.rate) {
				return fmt.Errorf("%d datagrams were sent between %s", n, d.name)
			}
		}
		for _, s := range f.streams {
			// It falls behind when the machine is busy; that it goes on is what counts.
			if n := s.received.Load() - received[s]; n < int64(seconds*s.pace/4) && !s.ended() {
				return fmt.Errorf("%d bytes came over the connection %s", n, s.name)
			}
		}
		return nil
	})
	for _, s := range f.streams {
		if s.ended() {
			t.Errorf("the TCP connection %s has ended", s.name) // finish tells why
		}
	}
}

// check shows that all connections are up and carry data, and that every datagram came that was sent before: it returns how many.
func (f *traffic) check(t *testing.T, w *world) (all uint64) {
	t.Helper()
	f.goOn(t, w, 1)
	for _, d := range f.flows {
		d.due = [2]uint64{d.there.sent(t), d.back.sent(t)}
		all += d.due[0] + d.due[1]
	}
	f.arrived(t)
	return all
}

// stop ends the traffic: nothing of it may be lost. It returns how many datagrams that were.
func (f *traffic) stop(t *testing.T) (all uint64) {
	t.Helper()
	for _, d := range f.flows {
		var there, back flow.SentAnswer
		d.there.ask(t, flow.CommandStop, &there)
		d.back.ask(t, flow.CommandStop, &back)
		d.due = [2]uint64{there.Sent, back.Sent}
		all += there.Sent + back.Sent
		took := time.Since(d.began).Seconds()
		t.Logf("%d and %d datagrams of %d bytes went between %s in %.1f s, %.0f and %.0f a second", there.Sent, back.Sent, d.size, d.name,
			took, float64(there.Sent)/took, float64(back.Sent)/took)
	}
	f.arrived(t)
	for _, s := range f.streams {
		bytes, err := s.finish()
		if err != nil {
			t.Errorf("the TCP connection %s: %v", s.name, err)
		}
		t.Logf("%d MB went over one TCP connection, %s", bytes/1e6, s.name)
	}
	if !t.Failed() {
		t.Logf("none of %d datagrams is lost, and no connection", all)
	}
	return all
}

// arrived waits until all datagrams that are due came.
func (f *traffic) arrived(t *testing.T) {
	t.Helper()
	err := cluster.Poll(t.Context(), settle, "all datagrams came", func(context.Context) error {
		var all []error
		for _, d := range f.flows {
			all = append(all, d.lost(t, "there", d.due[0], d.back), d.lost(t, "back", d.due[1], d.there))
		}
		return errors.Join(all...)
	})
	if err != nil {
		t.Error(err)
	}
}

// lost tells which of the first datagrams of a direction, so many, haven't come to its end.
func (d *datagrams) lost(t *testing.T, direction string, due uint64, to *end) error {
	t.Helper()
	var came flow.CountAnswer
	to.ask(t, fmt.Sprintf("%s %d", flow.CommandCount, due), &came)
	if came.LongestGap == 0 {
		return nil
	}
	return fmt.Errorf("between %s, %s: of the first %d of %d bytes some are lost, at most %d in a row; %d came in all, and %d more were dropped by the receiving socket",
		d.name, direction, due, d.size, came.LongestGap, came.Received, came.SocketDrops)
}

// end is one end of a flow of datagrams, in a network namespace.
type end struct {
	commands io.WriteCloser
	answers  *json.Decoder
}

func startEnd(t *testing.T, ns netns.NsHandle, config flow.DatagramConfig) *end {
	t.Helper()
	config.Filler = markers[0]
	commands, in := io.Pipe()
	out, answers := io.Pipe()
	result := inNetns(ns, func() error {
		err := flow.Datagrams(config, commands, answers)
		return errors.Join(err, answers.CloseWithError(io.EOF))
	})
	e := &end{commands: in, answers: json.NewDecoder(out)}
	t.Cleanup(func() {
		_ = e.commands.Close()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
	e.hear(t, &struct{}{})
	return e
}

// sent is how many datagrams this end has sent so far.
func (e *end) sent(t *testing.T) uint64 {
	t.Helper()
	var answer flow.SentAnswer
	e.ask(t, flow.CommandSent, &answer)
	return answer.Sent
}

func (e *end) ask(t *testing.T, command string, answer any) {
	t.Helper()
	if _, err := fmt.Fprintln(e.commands, command); err != nil {
		t.Fatal(err)
	}
	e.hear(t, answer)
}

func (e *end) hear(t *testing.T, answer any) {
	t.Helper()
	if err := e.answers.Decode(answer); err != nil {
		t.Fatalf("hear from the end of a flow: %v", err)
	}
}
