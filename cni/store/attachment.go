package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ID names an attachment: what the CNI spec (section 2) identifies an attachment of a network by.
type ID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"` // the interface's name in the sandbox
}

// String is the ID as messages show it.
func (id ID) String() string {
	return fmt.Sprintf("container %s interface %s", id.ContainerID, id.IfName)
}

// PortPrefix begins the name of each interface that an attachment has on the host.
const PortPrefix = "wv"

// HostInterface returns the name of the attachment's interface on the host: wv and 12 hexadecimal digits, the same
// that the name of its file ends with.
func (id ID) HostInterface() string { return PortPrefix + id.digest() }

func (id ID) digest() string {
	sum := sha256.Sum256([]byte(id.ContainerID + "\x00" + id.IfName))
	return hex.EncodeToString(sum[:6])
}

// fileName keeps the container ID readable, and stays unique, and below 128 bytes as a link's target, whatever the
// runtime chose.
func (id ID) fileName() string {
	return clip(id.ContainerID, 64) + "." + clip(id.IfName, 15) + "." + id.digest() + fileSuffix
}

// clip makes s fit for a file name of at most n bytes.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), n)]
}

// Attachment is one interface of one sandbox on one network.
type Attachment struct {
	ID
	Network      string       `json:"network"`    // the name of the CNI network configuration
	Bridge       string       `json:"bridge"`     // the bridge that it is a port of
	Netns        string       `json:"netns"`      // path of the network namespace, as the runtime sees it
	NetnsInode   uint64       `json:"netnsInode"` // of the namespace: a path may come to mean another one
	PodNamespace string       `json:"podNamespace,omitempty"`
	PodName      string       `json:"podName,omitempty"`
	PodUID       string       `json:"podUID,omitempty"`
	Addresses    []netip.Addr `json:"addresses"` // at most one of each family, IPv4 first
	// Ranges are what the interface leads to, of the families of Addresses; none: everything, as the default network's does.
	Ranges []netip.Prefix `json:"ranges,omitempty"`
	// HostIfName and MAC are of the interface at the host's end and in the sandbox respectively.
	HostIfName string    `json:"hostIfName"`
	MAC        string    `json:"mac"`
	MTU        int       `json:"mtu"` // bytes
	Created    time.Time `json:"created"`
}

// formatVersion is raised when an older program can't understand a newer file.
const formatVersion = 1

type attachmentFile struct {
	Version int `json:"version"`
	Attachment
}

func encode(a Attachment) ([]byte, error) {
	b, err := json.Marshal(attachmentFile{Version: formatVersion, Attachment: a})
	if err != nil {
		return nil, fmt.Errorf("encoding the attachment of %s: %w", a.ID, err)
	}
	return b, nil
}

func decode(b []byte) (Attachment, error) {
	var f attachmentFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Attachment{}, err
	}
	if f.Version != formatVersion {
		return Attachment{}, fmt.Errorf("it has format version %d, and this program knows %d", f.Version, formatVersion)
	}
	if f.ContainerID == "" || f.IfName == "" {
		return Attachment{}, errors.New("it lacks containerID or ifname")
	}
	if slices.ContainsFunc(f.Addresses, func(a netip.Addr) bool { return !a.IsValid() }) {
		return Attachment{}, errors.New("it has an address that is empty")
	}
	return f.Attachment, nil
}
