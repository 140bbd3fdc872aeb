package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/flow"
)

const (
	pathDeadline   = 10 * time.Second // for a new flow's path to work
	settleDeadline = 20 * time.Second // for the last datagrams to arrive
	settleQuiet    = 3 * time.Second  // an emulated machine can stand still for longer than one thinks
	settleMoment   = 500 * time.Millisecond
)

// FlowOptions says what datagrams go where.
type FlowOptions struct {
	From, To Location
	Addr     netip.AddrPort // of To's end, as From's reaches it
	Listen   netip.AddrPort // what To's end binds, where that isn't Addr (a Service)
	Source   netip.Addr     // From's address; the zero value leaves it to routing
	Rate     int            // datagrams a second, each way; 0 means 1000
	Size     int            // UDP payload in bytes; 0 means 200. 4167 × 1200 are 40 Mbit/s
	Marker   []byte         // repeated in the payload, for a Capture
	OneWay   bool           // nothing goes back
	DeadPath bool           // start even though nothing gets through
	Lossy    bool           // some are expected to be lost: Stop waits for the last ones for a moment only
}

// Flow is a running flow. Between its start and its Stop every datagram counts.
type Flow struct {
	options  FlowOptions
	from, to *talker
}

// StartFlow starts a flow of numbered UDP datagrams in both directions. It
// returns once the path is known to work, so that a first handshake or address
// resolution isn't counted.
func StartFlow(t testing.TB, o FlowOptions) *Flow {
	t.Helper()
	f, err := startFlow(o)
	if err != nil {
		t.Fatalf("starting a flow from %v to %v: %v", o.From, o.To, err)
	}
	if !o.DeadPath {
		Eventually(t, pathDeadline, fmt.Sprintf("a flow from %v to %v at %v", o.From, o.To, o.Addr), f.hello)
	}
	if err := f.begin(); err != nil {
		t.Fatalf("starting a flow from %v to %v: %v", o.From, o.To, err)
	}
	return f
}

func startFlow(o FlowOptions) (*Flow, error) {
	if o.Rate == 0 {
		o.Rate = 1000
	}
	if o.Size == 0 {
		o.Size = 200
	}
	if !o.Listen.IsValid() {
		o.Listen = o.Addr
	}
	f := &Flow{options: o}
	config := flow.DatagramConfig{Rate: o.Rate, Size: o.Size, Filler: o.Marker}
	var err error
	config.Local = o.Listen
	if f.to, err = o.To.location().talk("datagrams", config); err != nil {
		return nil, err
	}
	config.Local, config.Peer = netip.AddrPort{}, o.Addr
	if o.Source.IsValid() {
		config.Local = netip.AddrPortFrom(o.Source, 0)
	}
	if f.from, err = o.From.location().talk("datagrams", config); err != nil {
		return nil, err
	}
	for _, end := range []*talker{f.to, f.from} {
		if err := end.read(&struct{}{}); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *Flow) hello() error {
	var a flow.HelloAnswer
	if err := f.from.ask(flow.CommandHello, &a); err != nil {
		return err
	}
	if !a.Heard {
		return errors.New("no answer comes back")
	}
	return nil
}

func (f *Flow) begin() error {
	err := f.from.ask(flow.CommandStart, &struct{}{})
	if err == nil && !f.options.OneWay {
		err = f.to.ask(flow.CommandStart, &struct{}{})
	}
	return err
}

// Send lets the flow go on until From's end has sent n more datagrams.
func (f *Flow) Send(t testing.TB, n uint64) {
	t.Helper()
	var start, now flow.SentAnswer
	if err := f.from.ask(flow.CommandSent, &start); err != nil {
		t.Fatal(err)
	}
	// Thrice the time that it takes, and some more for a busy machine.
	deadline := 10*time.Second + 3*time.Duration(n)*time.Second/time.Duration(f.options.Rate)
	Eventually(t, deadline, fmt.Sprintf("the flow from %v sends %d more", f.options.From, n), func() error {
		if err := f.from.ask(flow.CommandSent, &now); err != nil {
			return err
		}
		if now.Sent-start.Sent < n {
			return fmt.Errorf("%d sent", now.Sent-start.Sent)
		}
		return nil
	})
}

// FlowReport is what became of a flow.
type FlowReport struct {
	From, To Location
	There    FlowCount // from From to To
	Back     FlowCount
}

// FlowCount is one direction of a flow, in datagrams.
type FlowCount struct {
	Sent        uint64
	Refused     uint64 // of Sent: the sender's kernel refused them
	Received    uint64 // different ones
	Duplicated  uint64 // further copies
	Reordered   uint64 // that came after a later one
	LongestGap  uint64 // the most that were lost in a row
	SocketDrops uint64 // arrived, but the receiver had no room: not the network's loss
	// Jumped is when the first came that others before it were missing from, lost or late; zero if none were.
	Jumped time.Time
}

// Lost is how many of those sent never came to the receiver's program. Where
// SocketDrops isn't 0, so many of them are no loss of the network.
func (c FlowCount) Lost() uint64 { return c.Sent - c.Received }

func (c FlowCount) String() string {
	s := fmt.Sprintf("%d sent, %d lost (at most %d in a row), %d refused, %d duplicated, %d reordered, %d dropped at the receiving socket",
		c.Sent, c.Lost(), c.LongestGap, c.Refused, c.Duplicated, c.Reordered, c.SocketDrops)
	if !c.Jumped.IsZero() {
		s += ", a first one missing at " + c.Jumped.UTC().Format("15:04:05.000")
	}
	return s
}

// Lost is the sum of both directions.
func (r FlowReport) Lost() uint64 { return r.There.Lost() + r.Back.Lost() }

func (r FlowReport) String() string {
	return fmt.Sprintf("from %v to %v: %s; back: %s", r.From, r.To, r.There, r.Back)
}

// Stop ends the flow, waits for what is still under way, and reports.
func (f *Flow) Stop(t testing.TB) FlowReport {
	t.Helper()
	r, err := f.stop()
	if err != nil {
		t.Fatalf("stopping the flow from %v to %v: %v", f.options.From, f.options.To, err)
	}
	return r
}

func (f *Flow) stop() (FlowReport, error) {
	var there, back flow.SentAnswer
	if err := f.from.ask(flow.CommandStop, &there); err != nil {
		return FlowReport{}, err
	}
	if !f.options.OneWay {
		if err := f.to.ask(flow.CommandStop, &back); err != nil {
			return FlowReport{}, err
		}
	}
	r, err := f.settle(there, back)
	if err != nil {
		return FlowReport{}, err
	}
	return r, errors.Join(f.from.hangUp(), f.to.hangUp())
}

// settle counts until everything has come or nothing comes any more.
func (f *Flow) settle(there, back flow.SentAnswer) (FlowReport, error) {
	start := time.Now()
	changed := start
	quiet := settleQuiet
	if f.options.Lossy {
		quiet = settleMoment
	}
	var last FlowReport
	for {
		r := FlowReport{From: f.options.From, To: f.options.To}
		var err error
		if r.There, err = count(f.to, there); err != nil {
			return r, err
		}
		if r.Back, err = count(f.from, back); err != nil {
			return r, err
		}
		now := time.Now()
		if r != last {
			last, changed = r, now
		}
		if r.Lost() == 0 || now.Sub(changed) > quiet || now.Sub(start) > settleDeadline {
			return r, nil
		}
		time.Sleep(pollInterval)
	}
}

func count(receiver *talker, sent flow.SentAnswer) (FlowCount, error) {
	var a flow.CountAnswer
	if err := receiver.ask(fmt.Sprintf("%s %d", flow.CommandCount, sent.Sent), &a); err != nil {
		return FlowCount{}, err
	}
	return FlowCount{
		Sent: sent.Sent, Refused: sent.Refused, Received: a.Received, Duplicated: a.Duplicated,
		Reordered: a.Reordered, LongestGap: a.LongestGap, SocketDrops: a.SocketDrops, Jumped: a.Jumped,
	}, nil
}
