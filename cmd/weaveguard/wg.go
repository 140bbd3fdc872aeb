package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// wgDevice is a tunnel device in `weaveguard wg -o json`.
type wgDevice struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind"` // kernel or userspace
	Node       string         `json:"node,omitempty"`
	PublicKey  keys.PublicKey `json:"publicKey"`
	ListenPort int            `json:"listenPort"`
	Peers      []wgPeer       `json:"peers"`
}

// wgPeer is a peer of a tunnel device.
type wgPeer struct {
	Node          string         `json:"node,omitempty"` // "": the agent knows no node with this key
	PublicKey     keys.PublicKey `json:"publicKey"`
	Endpoint      string         `json:"endpoint,omitempty"`
	AllowedIPs    []string       `json:"allowedIPs"`
	LastHandshake time.Time      `json:"lastHandshake,omitzero"`
	ReceivedBytes int64          `json:"receivedBytes"`
	SentBytes     int64          `json:"sentBytes"`
	Keepalive     float64        `json:"keepaliveSeconds,omitempty"`
}

func newWGCommand(o *options) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:         "wg",
		Annotations: inPlace(placeAnyNode),
		Short:       "Show the WireGuard devices, with the names of nodes beside keys",
		Long: "wg shows what `wg show` does of the tunnel devices of this node, read from\n" +
			"WireGuard itself, with the names of nodes beside their keys, as the agent knows\n" +
			"them. Without an agent there are no names. Private keys are never shown.\n\n" +
			"Exit status: 0 when WireGuard could be read, 2 when not.",
		Example: "  weaveguard wg\n" +
			"  weaveguard wg -o json | jq '.[].peers[] | {node, endpoint, allowedIPs}'",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			devices, err := tunnel.Show()
			if err != nil {
				return aboutWireGuard(err)
			}
			names := map[keys.PublicKey]string{}
			status, err := o.client().Status(cmd.Context())
			if err != nil {
				message, _ := explain(err)
				say(cmd.ErrOrStderr(), "there are no names: "+message)
			} else {
				names = keyNames(status)
			}
			all := named(devices, names)
			return answer(cmd, output, all, func(p *page) { p.wg(all, len(names) > 0, time.Now()) })
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}

// aboutWireGuard says why WireGuard can't be read, and what to do about it.
func aboutWireGuard(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &adviceError{"only root may read WireGuard", "run it as root, for instance with sudo"}
	}
	return err
}

// keyNames are the names of the nodes by their WireGuard keys, this one's too.
func keyNames(s view.Status) map[keys.PublicKey]string {
	names := map[keys.PublicKey]string{}
	for _, g := range s.Generations {
		names[g.PublicKey] = s.Node
	}
	for _, peer := range s.Peers {
		for _, key := range peerKeys(peer) {
			names[key.PublicKey] = peer.Node
		}
		names[peer.PublicKey] = peer.Node // an older agent lists no links
	}
	delete(names, keys.PublicKey{}) // of peers whose key isn't known
	return names
}

// named are devices with names for their keys, the peers sorted by them.
func named(devices []*wgtypes.Device, names map[keys.PublicKey]string) []wgDevice {
	all := []wgDevice{}
	for _, d := range devices {
		device := wgDevice{Name: d.Name, Kind: tunnel.KindOf(d), PublicKey: keys.PublicKey(d.PublicKey), ListenPort: d.ListenPort,
			Peers: []wgPeer{}}
		device.Node = names[device.PublicKey]
		for _, p := range d.Peers {
			peer := wgPeer{Node: names[keys.PublicKey(p.PublicKey)], PublicKey: keys.PublicKey(p.PublicKey), AllowedIPs: []string{},
				LastHandshake: p.LastHandshakeTime, ReceivedBytes: p.ReceiveBytes, SentBytes: p.TransmitBytes,
				Keepalive: p.PersistentKeepaliveInterval.Seconds()}
			if p.Endpoint != nil {
				peer.Endpoint = p.Endpoint.String()
			}
			for _, ip := range p.AllowedIPs {
				peer.AllowedIPs = append(peer.AllowedIPs, ip.String())
			}
			slices.Sort(peer.AllowedIPs)
			device.Peers = append(device.Peers, peer)
		}
		slices.SortFunc(device.Peers, func(a, b wgPeer) int {
			return cmp.Or(cmp.Compare(a.Node, b.Node), bytes.Compare(a.PublicKey[:], b.PublicKey[:]))
		})
		all = append(all, device)
	}
	return all
}

// wg shows devices as wg(8) does; knows: there are names.
func (p *page) wg(devices []wgDevice, knows bool, now time.Time) {
	if len(devices) == 0 {
		p.text("", "this node has no tunnel device")
		p.remedy("", "see `weaveguard status`")
	}
	for _, d := range devices {
		p.space()
		p.flow("", indentStep, append([]string{p.paint(green, "interface:"), d.Name}, words(beside(d.Node))...))
		p.details([][2]string{
			{"public key", d.PublicKey.String()},
			{"private key", "(hidden)"},
			{"listening port", fmt.Sprint(d.ListenPort)},
			{"kind", d.Kind},
		})
		for _, peer := range d.Peers {
			p.space()
			node := peer.Node
			if node == "" && knows {
				node = "no node that is known"
			}
			p.flow("", indentStep, append([]string{p.paint(yellow, "peer:"), peer.PublicKey.String()}, words(beside(node))...))
			p.details(peerDetails(peer, now))
		}
	}
}

func peerDetails(peer wgPeer, now time.Time) [][2]string {
	details := [][2]string{{"endpoint", peer.Endpoint}, {"allowed ips", orNone(strings.Join(peer.AllowedIPs, ", "))}}
	if !peer.LastHandshake.IsZero() {
		details = append(details, [2]string{"latest handshake", age(now.Sub(peer.LastHandshake)) + " ago"})
	}
	details = append(details, [2]string{"transfer", fmt.Sprintf("%s received, %s sent", size(peer.ReceivedBytes), size(peer.SentBytes))})
	if peer.Keepalive > 0 {
		details = append(details, [2]string{"persistent keepalive", fmt.Sprintf("every %vs", peer.Keepalive)})
	}
	return details
}

// details adds lines of a name and a value, those that have one.
func (p *page) details(details [][2]string) {
	for _, d := range details {
		if d[1] != "" {
			p.flow(indentStep, indentStep+indentStep, words(d[0]+": "+d[1]))
		}
	}
}

// beside is a name beside a key; none without one.
func beside(name string) string {
	if name == "" {
		return ""
	}
	return "(" + name + ")"
}
