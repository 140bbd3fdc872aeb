package record

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
)

// MaxRosterName is the longest name in a roster in bytes, of a pod, its namespace or a sandbox: those of Kubernetes are no
// longer (RFC 1123's subdomains).
const MaxRosterName = 253

// maxInterfaceName is the longest name of an interface in bytes (IFNAMSIZ in linux/if.h, with its NUL, is one more).
const maxInterfaceName = 15

// Attachment is one interface of one sandbox on one network, as its node's roster has it.
type Attachment struct {
	Namespace string // of the pod; "" where the runtime told of none
	// Name is the pod's; where the runtime told of none, the ID of the sandbox (containerID of the CNI specification).
	Name      string
	Interface string // in the sandbox
	Network   string // "": the default one
	// Addresses are at most one of each family, IPv4 first.
	Addresses []netip.Addr
}

// String names the attachment as operators know it.
func (a Attachment) String() string {
	name := a.Name
	if a.Namespace != "" {
		name = a.Namespace + "/" + name
	}
	return name + " " + a.Interface
}

// Compare orders attachments by pod, and those of a pod by interface.
func (a Attachment) Compare(b Attachment) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Interface, b.Interface),
		strings.Compare(a.Network, b.Network))
}

// FitRoster is d with as many of its roster's attachments, the first ones, as there is room for in MaxDocumentSize.
func FitRoster(d Document) (Document, error) {
	var failed error
	fit := func(n int) Document {
		fitted := d
		fitted.Roster, fitted.Omitted = d.Roster[:n], d.Omitted+uint32(len(d.Roster)-n)
		return fitted
	}
	tooMany := sort.Search(len(d.Roster)+1, func(n int) bool {
		payload, err := encodeDocument(fit(n))
		failed = errors.Join(failed, err)
		return headerSize+len(payload) > MaxDocumentSize
	})
	if failed != nil {
		return Document{}, fmt.Errorf("encoding the document: %w", failed)
	}
	return fit(max(tooMany-1, 0)), nil
}

// Validate returns an error that names the first field that isn't valid.
func (a Attachment) Validate() error {
	if a.Namespace != "" {
		if err := validateRosterName("namespace", a.Namespace, MaxRosterName); err != nil {
			return err
		}
	}
	if err := validateRosterName("name", a.Name, MaxRosterName); err != nil {
		return err
	}
	if err := validateRosterName("interface", a.Interface, maxInterfaceName); err != nil {
		return err
	}
	if a.Network != "" {
		if err := ValidateNetworkName(a.Network); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return validateRosterAddresses(a.Addresses)
}

func validateRosterAddresses(addresses []netip.Addr) error {
	switch {
	case len(addresses) == 0:
		return errors.New("addresses are missing")
	case len(addresses) > 2, len(addresses) == 2 && !(addresses[0].Is4() && is6(addresses[1])):
		return fmt.Errorf("addresses are %v, want at most one of each family, IPv4 first", addresses)
	}
	for _, address := range addresses {
		if !address.IsValid() || address.Is4In6() || address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() {
			return fmt.Errorf("addresses have %s, which no pod can have", address)
		}
	}
	return nil
}

// validateRosterName wants what goes to terminals and into files as it is.
func validateRosterName(field, name string, most int) error {
	if name == "" || len(name) > most {
		return fmt.Errorf("%s has %d bytes, want 1 to %d", field, len(name), most)
	}
	if i := strings.IndexFunc(name, func(c rune) bool { return !rosterRune(c) }); i >= 0 {
		return fmt.Errorf("%s is %q, want letters, digits and _ : . -", field, name)
	}
	return nil
}

// rosterRune reports whether a name in a roster may have c: those of Kubernetes and of CNI, and of interfaces but for odd
// ones.
func rosterRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_.-:", c)
}

// RosterName is a name as a roster may have it: shortened, and with _ for what it can't have. That of "" is "_".
func RosterName(name string) string {
	name = strings.Map(func(c rune) rune {
		if rosterRune(c) {
			return c
		}
		return '_'
	}, name)
	if name == "" {
		return "_"
	}
	return name[:min(len(name), MaxRosterName)]
}

// wireAttachment is encoded and extended by the same rules as wire.
type wireAttachment struct {
	Namespace string `cbor:"1,keyasint,omitempty"`
	Name      string `cbor:"2,keyasint"`
	Interface string `cbor:"3,keyasint,omitempty"` // eth0 if it is absent
	Network   string `cbor:"4,keyasint,omitempty"`
	Addr4     []byte `cbor:"5,keyasint,omitempty"`
	Addr6     []byte `cbor:"6,keyasint,omitempty"`
}

// usualInterface is what runtimes call the first interface of a sandbox.
const usualInterface = "eth0"

func encodeRoster(roster []Attachment) []wireAttachment {
	var all []wireAttachment
	for _, a := range roster {
		w := wireAttachment{Namespace: a.Namespace, Name: a.Name, Interface: a.Interface, Network: a.Network}
		if w.Interface == usualInterface {
			w.Interface = ""
		}
		for _, address := range a.Addresses {
			if address.Is4() {
				w.Addr4 = address.AsSlice()
			} else {
				w.Addr6 = address.AsSlice()
			}
		}
		all = append(all, w)
	}
	return all
}

func decodeRoster(wire []wireAttachment) ([]Attachment, error) {
	var all []Attachment
	for _, w := range wire {
		a := Attachment{Namespace: w.Namespace, Name: w.Name, Interface: w.Interface, Network: w.Network}
		if a.Interface == "" {
			a.Interface = usualInterface
		}
		for _, field := range []struct {
			name string
			raw  []byte
			size int
		}{{"addr4", w.Addr4, 4}, {"addr6", w.Addr6, 16}} {
			if len(field.raw) == 0 {
				continue
			}
			address, ok := netip.AddrFromSlice(field.raw)
			if !ok || len(field.raw) != field.size {
				return nil, fmt.Errorf("attachment %s: %s has %d bytes, want %d", a, field.name, len(field.raw), field.size)
			}
			a.Addresses = append(a.Addresses, address)
		}
		all = append(all, a)
	}
	return all, nil
}
