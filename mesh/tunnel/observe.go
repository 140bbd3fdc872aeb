package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Observe returns what the tunnel devices hold, sorted by name, their peers by key. Of a device that can't be read
// it says so in the error, and returns the others.
func (a *Applier) Observe(ctx context.Context) ([]view.DeviceState, error) {
	return alone(ctx, a, a.observe)
}

func (a *Applier) observe(ctx context.Context) ([]view.DeviceState, error) {
	client, err := a.config.Open()
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard: %w", explain(err, 0))
	}
	defer client.Close() // it only lets go of a socket
	var states []view.DeviceState
	var errs []error
	for i := range contract.MaxDevices {
		if err := ctx.Err(); err != nil {
			return states, errors.Join(append(errs, err)...)
		}
		name := contract.DeviceName(i)
		device, err := read(client, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("tunnel device %s: %w", name, err))
			continue
		}
		if device != nil {
			states = append(states, toState(name, device))
		}
	}
	return states, errors.Join(errs...)
}

func toState(name string, device *wgtypes.Device) view.DeviceState {
	state := view.DeviceState{
		Name: name, Kind: KindOf(device), ListenPort: uint16(device.ListenPort), PublicKey: keys.PublicKey(device.PublicKey),
	}
	for _, peer := range device.Peers {
		state.Peers = append(state.Peers, view.PeerState{
			PublicKey:     keys.PublicKey(peer.PublicKey),
			Endpoint:      endpointOf(&peer),
			LastHandshake: peer.LastHandshakeTime,
			ReceivedBytes: peer.ReceiveBytes,
			SentBytes:     peer.TransmitBytes,
			AllowedIPs:    len(peer.AllowedIPs),
		})
	}
	slices.SortFunc(state.Peers, func(a, b view.PeerState) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return state
}
