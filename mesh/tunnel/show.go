package tunnel

import (
	"errors"
	"fmt"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Show reads the tunnel devices of this host, of the kernel's and of the userspace daemon's, sorted by name, as they
// are for who looks at them: without private and preshared keys. It changes nothing. Of a device that can't be read it
// says so in the error, and returns the others. An error that is unix.EPERM means that it takes CAP_NET_ADMIN.
func Show() ([]*wgtypes.Device, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("opening WireGuard: %w", err)
	}
	defer client.Close() // it only lets go of a socket
	var devices []*wgtypes.Device
	var errs []error
	for i := range contract.MaxDevices {
		name := contract.DeviceName(i)
		device, err := read(client, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("tunnel device %s: %w", name, err))
			continue
		}
		if device == nil {
			continue
		}
		for i := range device.Peers {
			clear(device.Peers[i].PresharedKey[:])
		}
		devices = append(devices, device)
	}
	return devices, errors.Join(errs...)
}
