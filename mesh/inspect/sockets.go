package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/doctor"
)

// ownProgram begins the name of the agent's and of the userspace daemon's process: the kernel keeps 15 bytes of it.
const ownProgram = "weaveguard-agen"

// holder is a socket as the kernel shows it.
type holder struct {
	doctor.Socket
	inode uint64
}

// sockets are those that hold a port of Weaveguard's.
func sockets() ([]doctor.Socket, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, fmt.Errorf("which programs hold ports: %w", err)
	}
	held, err := holders(proc)
	if err != nil { // what was found counts all the same
		err = fmt.Errorf("which programs hold ports: %w", err)
	}
	if len(held) == 0 {
		return nil, err
	}
	devices := wireGuardPorts()
	programs := programsOf(proc, held)
	var all []doctor.Socket
	for _, h := range held {
		all = append(all, h.held(devices, programs))
	}
	return all, err
}

// held says who holds the socket: a program, or if none is seen to, the WireGuard device that listens on its port. The kernel's own
// sockets have an inode too, which no process has open.
func (h holder) held(devices map[uint16]string, programs map[uint64]doctor.Socket) doctor.Socket {
	s := h.Socket
	if p, known := programs[h.inode]; known && h.inode != 0 {
		s.Program, s.PID, s.Own = p.Program, p.PID, strings.HasPrefix(p.Program, ownProgram)
	} else if device, known := devices[s.Port]; known && s.Protocol == "udp" {
		s.Device, s.Own = device, contract.IsDeviceName(device)
	}
	return s
}

// holders are the sockets of both families that hold our ports, each port once for each program.
func holders(proc procfs.FS) ([]holder, error) {
	var held []holder
	seen := map[holder]bool{}
	note := func(protocol string, address net.IP, port, remote, inode uint64) {
		h := holder{doctor.Socket{Protocol: protocol, Port: uint16(port)}, inode}
		// One that is connected is somebody's for the moment: the kernel gives such ports to any program.
		if ours(protocol, port) && !address.IsLoopback() && remote == 0 && !seen[h] {
			seen[h] = true
			held = append(held, h)
		}
	}
	for _, read := range []func() (procfs.NetUDP, error){proc.NetUDP, proc.NetUDP6} {
		lines, err := read()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return held, err
		}
		for _, l := range lines {
			note("udp", l.LocalAddr, l.LocalPort, l.RemPort, l.Inode)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return held, fmt.Errorf("listing TCP sockets: %w", err)
		}
		for _, s := range sockets {
			if s.State == netlink.TCP_LISTEN {
				note("tcp", s.ID.Source, uint64(s.ID.SourcePort), 0, uint64(s.INode))
			}
		}
	}
	return held, nil
}

// ours reports whether a port is needed.
func ours(protocol string, port uint64) bool {
	return port == contract.GossipPort || protocol == "udp" && port >= contract.BasePort && port < contract.BasePort+contract.MaxDevices
}

// programsOf finds the processes that sockets belong to, by inode; those that can't be seen are missing.
func programsOf(proc procfs.FS, held []holder) map[uint64]doctor.Socket {
	wanted := map[string]uint64{}
	for _, h := range held {
		wanted[fmt.Sprintf("socket:[%d]", h.inode)] = h.inode
	}
	found := map[uint64]doctor.Socket{}
	processes, err := proc.AllProcs()
	if err != nil {
		return found
	}
	for _, p := range processes {
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		for _, target := range targets {
			inode, ok := wanted[target]
			if !ok {
				continue
			}
			if name, err := p.Comm(); err == nil {
				found[inode] = doctor.Socket{Program: name, PID: p.PID}
			}
		}
	}
	return found
}

// wireGuardPorts are the names of all WireGuard devices of the kernel by their ports.
func wireGuardPorts() map[uint16]string {
	ports := map[uint16]string{}
	client, err := wgctrl.New()
	if err != nil {
		return ports
	}
	defer func() { _ = client.Close() }()
	devices, err := client.Devices()
	if err != nil {
		return ports
	}
	for _, d := range devices {
		ports[uint16(d.ListenPort)] = d.Name
	}
	return ports
}
