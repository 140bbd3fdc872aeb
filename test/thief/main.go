// Command thief is a member of the gossip that says what it likes: it has stolen the gossip key. It runs until it is
// killed, and prints the members that it sees as a line of JSON, again and again.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/keys"
)

// mouthpiece announces what it is given.
type mouthpiece struct{ meta []byte }

func (m *mouthpiece) NodeMeta(int) []byte             { return m.meta }
func (m *mouthpiece) NotifyMsg([]byte)                {}
func (m *mouthpiece) GetBroadcasts(int, int) [][]byte { return nil }
func (m *mouthpiece) LocalState(bool) []byte          { return nil }
func (m *mouthpiece) MergeRemoteState([]byte, bool)   {}

func main() {
	if len(os.Args) != 7 {
		fmt.Fprintln(os.Stderr, "usage: thief FILE-WITH-GOSSIP-KEY OWN-ADDRESS:PORT CLAIMED-ADDRESS:PORT MEMBER-ADDRESS:PORT MEMBER-NAME META-IN-BASE64")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]))
	os.Exit(1)
}

func run(keyFile, own, claimed, member, name, meta string) error {
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
	c := memberlist.DefaultLANConfig()
	c.Name, c.SecretKey, c.Delegate = name, ring[0], &mouthpiece{announced}
	c.BindAddr, c.BindPort = address.Addr().String(), int(address.Port())
	c.AdvertiseAddr, c.AdvertisePort = advertised.Addr().String(), int(advertised.Port())
	c.PushPullInterval = time.Second // so it learns that it is thought dead, also where it claims to be somewhere else
	c.EnableCompression = false      // agents refuse that
	c.Logger = log.New(io.Discard, "", 0)
	list, err := memberlist.Create(c)
	if err != nil {
		return err
	}
	if _, err := list.Join([]string{member}); err != nil {
		return err
	}
	for {
		if err := json.NewEncoder(os.Stdout).Encode(list.Members()); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}
