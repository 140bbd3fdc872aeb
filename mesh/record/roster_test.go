package record_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// pod is an attachment of these addresses, as text with spaces between.
func pod(namespace, name, ifname, network, addresses string) record.Attachment {
	a := record.Attachment{Namespace: namespace, Name: name, Interface: ifname, Network: network}
	for _, text := range strings.Fields(addresses) {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(text))
	}
	return a
}

// crowd is a roster of so many pods with names of an ordinary length.
func crowd(n int) []record.Attachment {
	var all []record.Attachment
	for i := range n {
		all = append(all, pod("shop", fmt.Sprintf("frontend-7d9f8b6c54-%05d", i), "eth0", "", fmt.Sprintf("10.32.%d.%d fd00:32::%x", i/250, i%250+1, i+1)))
	}
	return all
}

// A roster that is too large is cut, and says by how much; what is left can be signed, and one more couldn't.
func TestRosterThatIsTooLarge(t *testing.T) {
	id := identity(t)
	for _, n := range []int{0, 1, 700, 5000} {
		whole := record.Document{Version: 1, Networks: documents()["document-largest"].Networks, Roster: crowd(n)}
		fitted, err := record.FitRoster(whole)
		if err != nil {
			t.Fatal(err)
		}
		if len(fitted.Roster)+int(fitted.Omitted) != n || !slices.EqualFunc(fitted.Roster, whole.Roster[:len(fitted.Roster)], equalAttachments) {
			t.Errorf("of %d attachments %d are left, and %d omitted", n, len(fitted.Roster), fitted.Omitted)
		}
		raw := signDocument(t, id, fitted)
		if got, err := record.OpenDocument(name, raw, id.Public()); err != nil || got.Omitted != fitted.Omitted || len(got.Roster) != len(fitted.Roster) {
			t.Errorf("%d attachments: opened %d and %d omitted, %v", n, len(got.Roster), got.Omitted, err)
		}
		if fits := fitted.Omitted == 0; fits != (n <= 700) {
			t.Errorf("of %d attachments %d are omitted", n, fitted.Omitted)
		}
		if fitted.Omitted > 0 {
			more := fitted
			more.Roster, more.Omitted = whole.Roster[:len(fitted.Roster)+1], fitted.Omitted-1
			if _, err := record.SignDocument(name, more, id); !errors.Is(err, record.ErrSize) {
				t.Errorf("one more attachment: %v, want ErrSize", err)
			}
		}
	}
}

func equalAttachments(a, b record.Attachment) bool { return reflect.DeepEqual(a, b) }

func TestRosterRefuses(t *testing.T) {
	id := identity(t)
	good := pod("shop", "web-0", "eth0", "", "10.32.1.5 fd00::5")
	for what, tt := range map[string]struct {
		change func(*record.Attachment)
		want   string
	}{
		"no name":                  {func(a *record.Attachment) { a.Name = "" }, "name"},
		"a name for a terminal":    {func(a *record.Attachment) { a.Name = "web\x1b[2J" }, "name"},
		"a name of two lines":      {func(a *record.Attachment) { a.Name = "web\nnode-2" }, "name"},
		"a name with a space":      {func(a *record.Attachment) { a.Name = "web 0" }, "name"},
		"a name not in UTF-8":      {func(a *record.Attachment) { a.Name = "web\xff" }, "name"},
		"a long name":              {func(a *record.Attachment) { a.Name = strings.Repeat("n", 254) }, "254 bytes"},
		"an odd namespace":         {func(a *record.Attachment) { a.Namespace = "a/b" }, "namespace"},
		"no interface":             {func(a *record.Attachment) { a.Interface = "" }, "interface"},
		"a long interface":         {func(a *record.Attachment) { a.Interface = strings.Repeat("e", 16) }, "interface"},
		"an odd network":           {func(a *record.Attachment) { a.Network = "-blue" }, "network"},
		"no address":               {func(a *record.Attachment) { a.Addresses = nil }, "addresses"},
		"an invalid address":       {func(a *record.Attachment) { a.Addresses = []netip.Addr{{}} }, "addresses"},
		"two of a family":          {func(a *record.Attachment) { a.Addresses = []netip.Addr{a.Addresses[0], a.Addresses[0]} }, "IPv4 first"},
		"IPv6 first":               {func(a *record.Attachment) { a.Addresses = []netip.Addr{a.Addresses[1], a.Addresses[0]} }, "IPv4 first"},
		"a mapped address":         {func(a *record.Attachment) { a.Addresses[0] = netip.MustParseAddr("::ffff:10.32.1.5") }, "addresses"},
		"an address with a zone":   {func(a *record.Attachment) { a.Addresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }, "no pod"},
		"a group's address":        {func(a *record.Attachment) { a.Addresses = []netip.Addr{netip.MustParseAddr("224.0.0.1")} }, "no pod"},
		"an unspecified address":   {func(a *record.Attachment) { a.Addresses = []netip.Addr{netip.MustParseAddr("::")} }, "no pod"},
		"good but for its place":   {func(a *record.Attachment) { a.Name = "web-9" }, "sorted"},
		"good but there are two":   {func(a *record.Attachment) { a.Name = "web-5" }, "sorted"},
		"good, in the right place": {func(*record.Attachment) {}, ""},
	} {
		a := good
		a.Addresses = slices.Clone(good.Addresses)
		tt.change(&a)
		d := record.Document{Version: 1, Roster: []record.Attachment{a, pod("shop", "web-5", "eth0", "", "10.32.1.9")}}
		raw, err := record.SignDocument(name, d, id)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || raw != nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want an error with %q", what, err, tt.want)
		}
	}
}

// What a node's own runtime says is made fit for a roster, whatever it is.
func TestRosterName(t *testing.T) {
	for name, want := range map[string]string{
		"web-0.shop_1:2": "web-0.shop_1:2", "": "_", "a b\n": "a_b_", "\x1b[31mé\xff": "__31m__", strings.Repeat("x", 300): strings.Repeat("x", 253),
	} {
		got := record.RosterName(name)
		if got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
		if err := pod("", got, "eth0", "", "10.0.0.1").Validate(); err != nil {
			t.Errorf("%q: %v", got, err)
		}
	}
}
