// Command thief is a member of the gossip that says what it likes: it has stolen the gossip key. It runs until it is
// killed, and prints the members that it sees as a line of JSON, again and again.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/keys"
)

// mouthpiece announces what it is given, and hands on state.
type mouthpiece struct{ meta, state []byte }

func (m *mouthpiece) NodeMeta(int) []byte             { return m.meta }
func (m *mouthpiece) NotifyMsg([]byte)                {}
func (m *mouthpiece) GetBroadcasts(int, int) [][]byte { return nil }
func (m *mouthpiece) LocalState(bool) []byte          { return m.state }
func (m *mouthpiece) MergeRemoteState([]byte, bool)   {}

// handOn is a record as members hand it on when they exchange their state: the version, and the length of each.
func handOn(node string, record []byte) []byte {
	state := binary.AppendUvarint([]byte{1}, uint64(len(node)))
	state = binary.AppendUvarint(append(state, node...), uint64(len(record)))
	return append(state, record...)
}

func main() {
	node := flag.String("hand-on", "", "announce nothing, and hand on META as a record of this node")
	flag.Parse()
	args := flag.Args()
	if len(args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: thief [--hand-on NODE] FILE-WITH-GOSSIP-KEY OWN-ADDRESS:PORT CLAIMED-ADDRESS:PORT MEMBER-ADDRESS:PORT,... MEMBER-NAME META-IN-BASE64")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, run(*node, args[0], args[1], args[2], args[3], args[4], args[5]))
	os.Exit(1)
}

func run(handed, keyFile, own, claimed, member, name, meta string) error {
	ring, err := keys.LoadKeyring(keyFile)
	if err != nil {
		return err
	}
	address, err := netip.ParseAddrPort(own)
	if err != nil {
		return err
	}
	advertised, err := netip.ParseAddrPort(claimed)
	if err != nil {
		return err
	}
	announced, err := base64.StdEncoding.DecodeString(meta)
	if err != nil {
		return err
	}
	says := &mouthpiece{meta: announced}
	if handed != "" {
		says = &mouthpiece{state: handOn(handed, announced)}
	}
	c := memberlist.DefaultLANConfig()
	c.Name, c.SecretKey, c.Delegate = name, ring[0], says
	c.BindAddr, c.BindPort = address.Addr().String(), int(address.Port())
	c.AdvertiseAddr, c.AdvertisePort = advertised.Addr().String(), int(advertised.Port())
	// So all are told soon, and again whenever a node outbids what is said in its member's name; and the thief learns that it
	// is thought dead, also where it claims to be somewhere else.
	c.PushPullInterval = 200 * time.Millisecond
	c.EnableCompression = false // agents refuse that
	c.Logger = log.New(io.Discard, "", 0)
	list, err := memberlist.Create(c)
	if err != nil {
		return err
	}
	// Who is told by all that it joins is known to all at once, whatever gossip does.
	members := strings.Split(member, ",")
	if n, err := list.Join(members); n < len(members) {
		return fmt.Errorf("joined %d of %d: %w", n, len(members), err)
	}
	for {
		if err := json.NewEncoder(os.Stdout).Encode(list.Members()); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}
