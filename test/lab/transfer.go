package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/flow"
)

// TransferOptions says what goes where over one TCP connection.
type TransferOptions struct {
	From, To Location
	Addr     netip.AddrPort // of To's end, as From's reaches it
	Listen   netip.AddrPort // what To's end binds, where that isn't Addr
	Source   netip.Addr     // From's address; the zero value leaves it to routing
	Bytes    int64
	Rate     int64  // bytes a second; 0 means as fast as it goes
	Marker   []byte // appears in the data at least once in every 4 KiB
}

// TransferReport says that a transfer arrived whole.
type TransferReport struct {
	Bytes    int64
	SHA256   string        // of what was sent and of what came, hexadecimal
	Duration time.Duration // from connected to closed
}

// Transfer is a running transfer.
type Transfer struct {
	options  TransferOptions
	from, to *talker
}

// StartTransfer starts to send bytes over TCP.
func StartTransfer(t testing.TB, o TransferOptions) *Transfer {
	t.Helper()
	x, err := startTransfer(o)
	if err != nil {
		t.Fatalf("starting a transfer from %v to %v: %v", o.From, o.To, err)
	}
	return x
}

func startTransfer(o TransferOptions) (*Transfer, error) {
	if !o.Listen.IsValid() {
		o.Listen = o.Addr
	}
	x := &Transfer{options: o}
	var err error
	if x.to, err = o.To.location().talk("transfer", flow.TransferConfig{Local: o.Listen}); err != nil {
		return nil, err
	}
	if err := x.to.read(&struct{}{}); err != nil {
		return nil, err
	}
	config := flow.TransferConfig{Peer: o.Addr, Bytes: o.Bytes, Rate: o.Rate, Filler: o.Marker}
	if o.Source.IsValid() {
		config.Local = netip.AddrPortFrom(o.Source, 0)
	}
	if x.from, err = o.From.location().talk("transfer", config); err != nil {
		return nil, errors.Join(err, x.to.Kill())
	}
	return x, nil
}

// Done is closed when the sending end has ended.
func (x *Transfer) Done() <-chan struct{} { return x.from.Done() }

// Wait waits for the end, and fails the test when it doesn't come within the
// deadline or when not all bytes arrived as they were sent.
func (x *Transfer) Wait(t testing.TB, deadline time.Duration) TransferReport {
	t.Helper()
	late := time.After(deadline)
	for _, end := range []*talker{x.from, x.to} {
		select {
		case <-end.Done():
		case <-late:
			err := fmt.Errorf("transfer from %v to %v: not done after %v", x.options.From, x.options.To, deadline)
			t.Fatal(errors.Join(err, x.from.Kill(), x.to.Kill()))
		}
		if err := end.Wait(); err != nil {
			t.Fatal(errors.Join(end.broken(err), x.from.Kill(), x.to.Kill()))
		}
	}
	r, err := x.compare()
	if err != nil {
		t.Fatalf("transfer from %v to %v: %v", x.options.From, x.options.To, err)
	}
	return r
}

func (x *Transfer) compare() (TransferReport, error) {
	var sent, came flow.TransferAnswer
	if err := errors.Join(x.from.read(&sent), x.to.read(&came)); err != nil {
		return TransferReport{}, err
	}
	if sent.Bytes != came.Bytes || sent.SHA256 != came.SHA256 {
		return TransferReport{}, fmt.Errorf("%d bytes of SHA-256 %s were sent, %d of %s came", sent.Bytes, sent.SHA256, came.Bytes, came.SHA256)
	}
	r := TransferReport{Bytes: sent.Bytes, SHA256: sent.SHA256, Duration: time.Duration(sent.Seconds * float64(time.Second))}
	return r, errors.Join(x.from.hangUp(), x.to.hangUp())
}
