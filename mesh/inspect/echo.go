package inspect

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/weaveguard/weaveguard/mesh/doctor"
)

const (
	// echoPatience is how long a host may take to answer.
	echoPatience = time.Second
	// echoTries is how often it is asked in that time.
	echoTries = 3
	// The numbers of the protocols ICMP and ICMPv6, as icmp.ParseMessage wants them.
	protocolICMP, protocolICMPv6 = 1, 58
)

// Echoes asks hosts whether they are there, by ICMP echo requests (RFC 792, RFC 4443), all at once. It takes a second at most.
func Echoes(ctx context.Context, hosts map[string]netip.Addr) map[string]doctor.Answer {
	var wait sync.WaitGroup
	var mu sync.Mutex
	answers := make(map[string]doctor.Answer, len(hosts))
	for name, address := range hosts {
		wait.Go(func() {
			answer := echo(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = answer
		})
	}
	wait.Wait()
	return answers
}

func echo(ctx context.Context, to netip.Addr) doctor.Answer {
	network, local, protocol := "ip4:icmp", "0.0.0.0", protocolICMP
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, local, protocol = "ip6:ipv6-icmp", "::", protocolICMPv6
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, local)
	if err != nil {
		return doctor.Unknown // it takes CAP_NET_RAW
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	id := make([]byte, 2)
	_, _ = rand.Read(id)
	number := int(binary.BigEndian.Uint16(id))
	for sequence := range echoTries {
		message := icmp.Message{Type: request, Body: &icmp.Echo{ID: number, Seq: sequence}}
		raw, err := message.Marshal(nil)
		if err != nil {
			return doctor.Unknown
		}
		if _, err := conn.WriteTo(raw, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
			return doctor.No // there is no way to it
		}
		if answered(conn, protocol, reply, number, to) {
			return doctor.Yes
		}
	}
	return doctor.No
}

// answered waits for the answer to a request.
func answered(conn *icmp.PacketConn, protocol int, reply icmp.Type, id int, from netip.Addr) bool {
	if conn.SetReadDeadline(time.Now().Add(echoPatience/echoTries)) != nil {
		return false
	}
	buffer := make([]byte, 1500)
	for {
		n, sender, err := conn.ReadFrom(buffer)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				return false
			}
			continue
		}
		address, ok := sender.(*net.IPAddr)
		if !ok || !address.IP.Equal(from.AsSlice()) {
			continue
		}
		message, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil || message.Type != reply {
			continue
		}
		if body, ok := message.Body.(*icmp.Echo); ok && body.ID == id {
			return true
		}
	}
}
