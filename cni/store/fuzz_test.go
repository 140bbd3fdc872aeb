package store

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// FuzzAttachment reads any bytes as the file of an attachment: never a panic, and what is accepted is written and read
// again as it is.
func FuzzAttachment(f *testing.F) {
	good, err := encode(Attachment{
		ID: ID{ContainerID: "c1", IfName: "eth0"}, Network: "weaveguard", Bridge: "weave", Netns: "/run/netns/x", NetnsInode: 7,
		Addresses: []netip.Addr{netip.MustParseAddr("10.32.5.2"), netip.MustParseAddr("fd00:5::2")}, HostIfName: "wv1", MTU: 1420,
		Created: time.Unix(1, 0).UTC(),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, text := range []string{
		`{"version":1,"containerID":"c","ifname":"e"}`, `{"version":2,"containerID":"c","ifname":"e"}`, `{"version":1}`,
		`{"version":1,"containerID":"c","ifname":"e","addresses":["fe80::1%eth0",""]}`, `{"version":1,"containerID":"c","ifname":"e","addresses":["10.0.0"]}`,
		`{"version":1,"containerID":"../../etc/passwd","ifname":"/"}`, `[]`, `null`, ``, `{`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := decode(raw)
		if err != nil {
			return
		}
		if name := a.fileName(); filepath.Base(name) != name || len(name) >= 128 {
			t.Errorf("the file is called %q", name)
		}
		if len(a.HostInterface()) > 15 {
			t.Errorf("the interface is called %q", a.HostInterface())
		}
		again, err := encode(a)
		if err != nil {
			return // a time that JSON can't have
		}
		back, err := decode(again)
		if err != nil || !back.Created.Equal(a.Created) {
			t.Fatalf("read again: %+v, %v; want %+v", back, err, a)
		}
		back.Created = a.Created
		if len(a.Addresses) == 0 {
			back.Addresses = a.Addresses
		}
		if !reflect.DeepEqual(back, a) {
			t.Errorf("read again: %+v; want %+v", back, a)
		}
	})
}

// FuzzReadReady reads any bytes as the ready file.
func FuzzReadReady(f *testing.F) {
	path := filepath.Join(f.TempDir(), "cni.json")
	good := Ready{Bridge: "weave", Subnets: []netip.Prefix{netip.MustParsePrefix("10.32.5.0/24")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.32.5.1")}, MTU: 1420}
	if err := WriteReady(path, good); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, text := range []string{
		`{"version":1,"bridge":"weave","subnets":[""],"gateways":[""],"mtu":1}`, `{"version":1,"bridge":"weave","subnets":[],"gateways":[]}`,
		`{"version":1,"bridge":"weave","subnets":["10.0.0.0/8"],"gateways":["11.0.0.1"],"mtu":1}`, `null`, ``, `{`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadReady(path)
		if err != nil {
			if !reflect.DeepEqual(r, Ready{}) {
				t.Errorf("refused, and %+v", r)
			}
			return
		}
		if err := WriteReady(path, r); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadReady(path); err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("read again: %+v, %v; want %+v", back, err, r)
		}
	})
}
