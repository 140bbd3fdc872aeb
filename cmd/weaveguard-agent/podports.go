package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// checkPodPorts checks what pods may reach, and finds the ports that aren't for them.
func (o *options) checkPodPorts() error {
	for _, service := range o.AllowPodsTo {
		if !slices.Contains(contract.GuardedServices(), service) {
			return fmt.Errorf("--allow-pods-to: %q isn't one of %s", service, strings.Join(contract.GuardedServices(), ", "))
		}
	}
	for _, own := range []struct {
		flag, service, address string
		usual                  uint16
	}{
		{"--metrics-address", contract.ServiceMetrics, o.MetricsAddr, contract.MetricsPort},
		{"--health-address", contract.ServiceHealth, o.HealthAddr, contract.HealthPort},
		{"--ui-address", contract.ServiceUI, o.UIAddr, contract.UIPort},
	} {
		if own.address == "" {
			continue
		}
		_, text, err := net.SplitHostPort(own.address)
		if err != nil {
			return fmt.Errorf("%s is %q: it takes host:port", own.flag, own.address)
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return fmt.Errorf("%s is %q: the port must be a number up to 65535", own.flag, own.address)
		}
		if port != 0 && uint16(port) != own.usual { // 0, the kernel's choice, is for tests
			o.ownPorts = append(o.ownPorts, view.OwnPort{Service: own.service, Port: uint16(port)})
		}
	}
	return nil
}
