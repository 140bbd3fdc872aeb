package userspace

import (
	"slices"
	"testing"

	"golang.zx2c4.com/wireguard/tun"
)

// A link that goes down or up is no event for WireGuard; a new MTU is.
func TestAlwaysUp(t *testing.T) {
	native := &scripted{events: make(chan tun.Event)}
	device := alwaysUp(native)
	go func() {
		defer close(native.events)
		for _, event := range []tun.Event{tun.EventUp, tun.EventDown, tun.EventMTUUpdate, tun.EventUp | tun.EventMTUUpdate} {
			native.events <- event
		}
	}()
	var got []tun.Event
	for event := range device.Events() {
		got = append(got, event)
	}
	if want := []tun.Event{tun.EventMTUUpdate, tun.EventMTUUpdate}; !slices.Equal(got, want) {
		t.Errorf("the events are %v, want %v", got, want)
	}
}

// scripted is a TUN device that has nothing but events.
type scripted struct {
	tun.Device
	events chan tun.Event
}

func (s *scripted) Events() <-chan tun.Event { return s.events }
