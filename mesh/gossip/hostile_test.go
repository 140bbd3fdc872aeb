package gossip_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/gossip"
)

// Anybody can send to the gossip port. It is counted, reported with the address, and harms nobody.
func TestBytesFromStrangers(t *testing.T) {
	random := make([]byte, 300)
	_, _ = rand.Read(random)
	wrongKey := append([]byte{1}, random...)
	tests := []struct {
		name, network string
		data          []byte
		reason        string
		problem       string
	}{
		{"short packet", "udp", []byte("x"), "gossip-malformed", "isn't gossip of this mesh"},
		{"plain text packet", "udp", []byte("GET / HTTP/1.1"), "gossip-malformed", "isn't gossip of this mesh"},
		{"packet of another mesh", "udp", wrongKey, "gossip-undecryptable", "another gossip key"},
		{"empty label", "udp", []byte{244, 0}, "gossip-malformed", ""},
		{"plain text stream", "tcp", []byte("GET / HTTP/1.1\r\n\r\n"), "gossip-unencrypted", "isn't gossip of this mesh"},
		{"Weave Net", "tcp", []byte("weave\x02"), "gossip-unencrypted", "isn't gossip of this mesh"},
		{"stream of another mesh", "tcp", slices.Concat([]byte{10, 0, 0, 1, 45}, wrongKey), "gossip-undecryptable",
			"another gossip key"},
		{"stream that says it is huge", "tcp", []byte{10, 255, 255, 255, 255}, "gossip-overload", ""},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, "n1", 1)
			from := fmt.Sprintf("127.0.1.%d", i+1)
			send(t, tt.network, from, n, tt.data)
			eventually(t, tt.reason+" is counted", func() bool { return n.Counters()[tt.reason] == 1 })
			if len(n.Counters()) != 1 {
				t.Errorf("counted %v", n.Counters())
			}
			if len(n.Heard()) > 0 || len(n.Members()) != 1 {
				t.Errorf("heard %v of %v", n.Heard(), n.Members())
			}
			problems := n.Problems()
			if tt.problem == "" {
				if len(problems) > 0 {
					t.Errorf("problems %v", problems)
				}
				return
			}
			if len(problems) != 1 || problems[0].Subject != "gossip from "+from || !strings.Contains(problems[0].Message, tt.problem) {
				t.Errorf("problems %v, want one from %s with %q", problems, from, tt.problem)
			}
		})
	}
}

func send(t *testing.T, network, from string, to *node, data []byte) {
	t.Helper()
	dialer := net.Dialer{Timeout: time.Second}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	} else {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := dialer.Dial(network, to.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	if stream, ok := conn.(*net.TCPConn); ok {
		_ = stream.CloseWrite()
		_ = stream.SetReadDeadline(time.Now().Add(3 * time.Second))
		_, _ = io.Copy(io.Discard, stream)
	}
}

// rogue is a member that has the gossip key and says what it likes.
type rogue struct {
	*memberlist.Memberlist
	meta, state []byte
}

func (r *rogue) NodeMeta(int) []byte             { return r.meta }
func (r *rogue) NotifyMsg([]byte)                {}
func (r *rogue) GetBroadcasts(int, int) [][]byte { return nil }
func (r *rogue) LocalState(bool) []byte          { return r.state }
func (r *rogue) MergeRemoteState([]byte, bool)   {}

func startRogue(t *testing.T, name string, host int, meta, state []byte, change ...func(*memberlist.Config)) *rogue {
	t.Helper()
	r := &rogue{meta: meta, state: state}
	c := memberlist.DefaultLANConfig()
	c.Name = name
	c.BindAddr, c.BindPort = fmt.Sprintf("127.0.0.%d", host), contract.GossipPort
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.SecretKey = meshKey
	c.EnableCompression = false // no member of ours does
	c.Delegate = r
	c.Logger = log.New(io.Discard, "", 0)
	for _, ch := range change {
		ch(c)
	}
	list, err := memberlist.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	r.Memberlist = list
	t.Cleanup(func() { _ = list.Shutdown() })
	return r
}

// asMember is n for memberlist's Send methods.
func (n *node) asMember() *memberlist.Node {
	return &memberlist.Node{Addr: n.addr.Addr().AsSlice(), Port: n.addr.Port()}
}

func TestRogueMembers(t *testing.T) {
	junk := make([]byte, 512)
	_, _ = rand.Read(junk)
	tests := []struct {
		name, member string
		state        []byte
		reason       string
	}{
		{"a name without a start", "n2", nil, "gossip-member-name"},
		{"a name with too many parts", "n2/0011223344556677/8899", nil, "gossip-member-name"},
		{"a name that breaks lines", "n\n2/0011223344556677", nil, "gossip-member-name"},
		{"a long name", strings.Repeat("n", 300) + "/0011223344556677", nil, "gossip-member-name"},
		{"a state of another version", "n2/0011223344556677", []byte{99, 1, 2, 3}, "gossip-state"},
		{"a random state", "n2/0011223344556677", append([]byte{1}, junk...), "gossip-state"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, "n1", 1)
			r := startRogue(t, tt.member, 2, junk, tt.state)
			if _, err := r.Join([]string{n.addr.String()}); err != nil {
				t.Fatal(err)
			}
			eventually(t, tt.reason+" is counted", func() bool { return n.Counters()[tt.reason] > 0 })
			// Whatever it says, others are heard.
			honest := start(t, "n3", 3)
			honest.announce(t, []byte("honest"))
			honest.Seek([]gossip.Target{n.target()})
			eventually(t, "an honest node is heard", func() bool { return n.has("n3", []byte("honest")) })
		})
	}
}

// Two nodes of one name: both stay members, and each hears the other's record.
func TestTwoNodesOfOneName(t *testing.T) {
	first, second := start(t, "same", 1), start(t, "same", 2)
	first.announce(t, []byte("first"))
	second.announce(t, []byte("second"))
	second.Seek([]gossip.Target{{Addr: first.addr}})
	eventually(t, "each hears the other", func() bool {
		return first.has("same", []byte("second")) && second.has("same", []byte("first"))
	})
	if got := first.Members(); len(got) != 1 || !got[0].Self || got[0].Addr != first.addr {
		t.Errorf("members %v, want this node itself", got)
	}
}
