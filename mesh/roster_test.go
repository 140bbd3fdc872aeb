package mesh_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// attached is a pod's interface on a bridge of this node, as the plugin tells of it.
func attached(namespace, name, ifname, bridge, address string) view.Attachment {
	return view.Attachment{Bridge: bridge, Attachment: record.Attachment{
		Namespace: namespace, Name: name, Interface: ifname, Network: "as-configured", Addresses: []netip.Addr{netip.MustParseAddr(address)},
	}}
}

func (k *kernel) attach(all ...view.Attachment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attached = all
}

// document is the agent's own, as it gives it to c who asks.
func (w *world) document(t *testing.T, a *live, c *speaker) record.Document {
	t.Helper()
	own := w.air.lastRecord(t, w.self)
	if own.DocumentVersion == 0 {
		return record.Document{}
	}
	sequence, err := c.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	request := record.Request{From: c.name, Sequence: sequence, Node: "a", Hash: own.DocumentHash}
	raw, err := record.SignRequest(request, "a", w.self.store.Identity().Public(), c.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	w.air.tell(raw)
	a.pass()
	answers, _ := w.air.sentOf(record.DocumentKind)
	if len(answers) == 0 { // there is another one by now
		return record.Document{}
	}
	d, err := record.OpenDocument("a", answers[0][1:], w.self.store.Identity().Public())
	if err != nil || d.Version != own.DocumentVersion {
		t.Fatalf("the own document is %+v, %v; the record has the version %d", d, err, own.DocumentVersion)
	}
	return d
}

// What is attached on this node goes into its document: sorted, with the names of networks instead of bridges, and not more
// often than documents change.
func TestOwnRoster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := newSpeaker(t, 3, "c")
	config := &configuration{}
	config.set(subnet("blue", 50, 1))
	w.config.Networks = config
	w.cluster.set(w.self.node(), c.node())
	w.air.say(c.says(t, nil))
	w.kernel.attach(attached("shop", "web-0", "net1", "weave-blue", "10.50.1.9"), attached("shop", "web-0", "eth0", "weave", "10.244.1.7"),
		attached("", "3f1c", "eth0", "elsewhere", "192.0.2.9"), attached("", "odd\nname", "eth0", "weave", "10.244.1.8"))
	a := w.start(t)
	var d record.Document
	a.until("the roster is told", func(view.Status) bool {
		d = w.document(t, a, c)
		return len(d.Roster) > 0
	})
	var texts []string
	for _, at := range d.Roster {
		texts = append(texts, at.String()+" "+at.Network+" "+at.Addresses[0].String())
	}
	want := []string{"3f1c eth0 as-configured 192.0.2.9", "shop/web-0 eth0  10.244.1.7", "shop/web-0 net1 blue 10.50.1.9"}
	if !slices.Equal(texts, want) || d.Omitted != 0 || len(d.Networks) != 1 {
		t.Errorf("the document is %+v, want the roster %q", d, want)
	}
	begin := time.Now()
	w.kernel.attach(attached("shop", "web-1", "eth0", "weave", "10.244.1.9"))
	var next record.Document
	a.until("another pod is told", func(view.Status) bool {
		next = w.document(t, a, c)
		return len(next.Roster) == 1
	})
	if took := time.Since(begin); took > 5*time.Second || next.Version <= d.Version {
		t.Errorf("it took %s to tell of another pod, and the version %d became %d", took, d.Version, next.Version)
	}
	s := a.Topology(t.Context())
	if len(s.Nodes) != 2 || !s.Nodes[0].Self || s.Nodes[0].Networks[0].Attachments[0].Pod != "web-1" {
		t.Errorf("the topology is %+v", s)
	}
	config.set()
	w.kernel.attach()
	a.until("nothing is attached any more", func(view.Status) bool { return w.air.lastRecord(t, w.self).DocumentVersion == 0 })
}

// What others say is attached on them is in the topology: by network, with what can't be reached there marked.
func TestTopology(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	blue := subnet("blue", 50, 2)
	d := record.Document{
		Networks: []record.Network{{Name: blue.Name, Ranges: blue.Ranges, CIDRs: blue.CIDRs}}, Omitted: 7,
		Roster: []record.Attachment{
			attached("shop", "db-0", "eth0", "", "10.244.9.9").Attachment, attached("shop", "web-0", "eth0", "", "10.244.2.7").Attachment,
			attached("shop", "web-0", "net1", "", "10.50.2.9").Attachment, attached("shop", "web-0", "net2", "", "10.60.2.9").Attachment,
		},
	}
	d.Roster[0].Network, d.Roster[1].Network, d.Roster[2].Network, d.Roster[3].Network = "", "", "blue", "red"
	document, said := b.signs(t, d)
	w.air.say(said, c.says(t, nil))
	session(w, b)
	a := w.start(t)
	w.air.tell(parcel(document))
	a.pass()
	got := a.Topology(t.Context())
	attachment := func(pod, ifname, address string, stray bool) []view.TopologyAttachment {
		return []view.TopologyAttachment{{Namespace: "shop", Pod: pod, Interface: ifname, Addresses: []netip.Addr{netip.MustParseAddr(address)}, Stray: stray}}
	}
	want := []view.TopologyNetwork{
		{Name: "default", CIDRs: []netip.Prefix{b.cidr()}, Attachments: slices.Concat(attachment("db-0", "eth0", "10.244.9.9", true),
			attachment("web-0", "eth0", "10.244.2.7", false))},
		{Name: "blue", CIDRs: blue.CIDRs, Attachments: attachment("web-0", "net1", "10.50.2.9", false)},
		{Name: "red", CIDRs: []netip.Prefix{}, Attachments: attachment("web-0", "net2", "10.60.2.9", true)},
	}
	if len(got.Nodes) != 3 || got.Node != "a" || !got.Nodes[0].Self || asJSON(t, got.Nodes[1].Networks) != asJSON(t, want) {
		t.Fatalf("the topology is %s, want b's networks %s", asJSON(t, got), asJSON(t, want))
	}
	if n := got.Nodes[1]; !n.Up || n.Omitted != 7 || n.Stale != "" || n.Endpoint != "192.0.2.2:51820" {
		t.Errorf("b is %+v", n)
	}
	if n := got.Nodes[2]; n.Up || n.Reason == "" || len(n.Networks) != 1 || len(n.Networks[0].Attachments) != 0 {
		t.Errorf("c is %+v", n)
	}
	_, said = b.signs(t, record.Document{Networks: d.Networks})
	w.air.say(said)
	a.pass()
	if n := a.Topology(t.Context()).Nodes[1]; !strings.Contains(n.Stale, "isn't here yet") || len(n.Networks[0].Attachments) != 2 {
		t.Errorf("with a document on its way b is %+v", n)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Pods that come and go all the time, somewhere, don't have the cache written all the time; what traffic depends on is on disk
// at once.
func TestRostersAreSavedSeldom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	a := w.start(t)
	a.pass()
	saved := func() time.Time {
		info, err := os.Stat(w.config.CachePath)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	before := saved()
	for i := range 5 {
		document, said := b.signs(t, record.Document{Roster: []record.Attachment{{
			Name: "pod", Interface: "eth0", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i + 1)})},
		}}})
		w.air.say(said)
		a.until("it is asked for", func(view.Status) bool {
			_, to := w.air.sentOf(record.RequestKind)
			return len(to) > 0
		})
		w.air.tell(parcel(document))
		a.pass()
	}
	if now := saved(); !now.Equal(before) {
		t.Errorf("for rosters the cache was written at %s, and before at %s", now, before)
	}
	if got := a.Topology(t.Context()).Nodes[1].Networks[0].Attachments; len(got) != 1 || got[0].Addresses[0].String() != "10.244.2.5" {
		t.Errorf("b has %+v", got)
	}
	w.air.say(b.says(t, func(r *record.Record) { r.MTU = 1400 }))
	if a.pass(); !saved().After(before) {
		t.Error("a record with another MTU isn't on disk")
	}
}
