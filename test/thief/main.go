// Command thief is a member of the gossip that says what it likes: it has stolen the gossip key. It runs until it is
// killed, and prints the members that it sees as a line of JSON, again and again.
package main

import (
	"encoding/base64"
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
	"github.com/weaveguard/weaveguard/test/internal/handed"
)

// mouthpiece announces what it is given, and hands on state.
type mouthpiece struct{ meta, state []byte }

func (m *mouthpiece) NodeMeta(int) []byte             { return m.meta }
func (m *mouthpiece) NotifyMsg([]byte)                {}
func (m *mouthpiece) GetBroadcasts(int, int) [][]byte { return nil }
func (m *mouthpiece) LocalState(bool) []byte          { return m.state }
func (m *mouthpiece) MergeRemoteState([]byte, bool)   {}

func main() {
	node := flag.String("hand-on", "", "announce nothing, and hand on META as a record of this node")
	file := flag.String("hand-on-file", "", "hand on what members have in this file, as they encode it")
	flag.Parse()
	args := flag.Args()
	if len(args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: thief [--hand-on NODE | --hand-on-file FILE] FILE-WITH-GOSSIP-KEY OWN-ADDRESS:PORT CLAIMED-ADDRESS:PORT MEMBER-ADDRESS:PORT,... MEMBER-NAME META-IN-BASE64")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, run(*node, *file, args[0], args[1], args[2], args[3], args[4], args[5]))
	os.Exit(1)
}

func run(node, file, keyFile, own, claimed, member, name, meta string) error {
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
	if node != "" {
		says = &mouthpiece{state: handed.Add(nil, node, announced)}
	}
	if file != "" {
		if says.state, err = os.ReadFile(file); err != nil {
			return err
		}
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
