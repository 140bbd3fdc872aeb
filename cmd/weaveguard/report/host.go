package report

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/keys"
)

// Sysctls are the settings of the kernel under a directory such as /proc/sys that decide whether packets pass.
func Sysctls(root string) ([]byte, error) {
	interfaces := []string{"all", "default"}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing the links: %w", err)
	}
	for _, link := range links {
		if link.Type() != "veth" { // of pods
			interfaces = append(interfaces, link.Attrs().Name)
		}
	}
	settings := []string{"net/ipv4/ip_forward", "net/ipv4/ping_group_range", "net/ipv4/fib_multipath_hash_policy", "net/netfilter/nf_conntrack_max",
		"net/netfilter/nf_conntrack_count", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
		"net/bridge/bridge-nf-call-arptables", "net/core/bpf_jit_enable", "kernel/unprivileged_bpf_disabled"}
	for _, name := range interfaces {
		for _, key := range []string{"rp_filter", "forwarding", "accept_redirects", "send_redirects", "route_localnet", "src_valid_mark"} {
			settings = append(settings, "net/ipv4/conf/"+name+"/"+key)
		}
		for _, key := range []string{"disable_ipv6", "forwarding", "accept_ra", "accept_redirects", "accept_dad"} {
			settings = append(settings, "net/ipv6/conf/"+name+"/"+key)
		}
	}
	var text bytes.Buffer
	for _, key := range settings {
		value, err := os.ReadFile(filepath.Join(root, key))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fmt.Fprintf(&text, "%s: none\n", key)
		case err != nil:
			fmt.Fprintf(&text, "%s: %v\n", key, err)
		default:
			fmt.Fprintf(&text, "%s = %s\n", key, strings.TrimSpace(string(value)))
		}
	}
	return text.Bytes(), nil
}

// Machine is what runs here.
func Machine(version string) ([]byte, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("asking for the kernel's name: %w", err)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "weaveguard %s, built with %s for %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(&text, "kernel %s %s %s\n", unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Version[:]),
		unix.ByteSliceToString(name.Machine[:]))
	release, err := os.ReadFile("/etc/os-release")
	if err == nil {
		text.Write(release)
	}
	for _, module := range []string{"wireguard", "nf_tables", "br_netfilter", "nf_conntrack", "tun"} {
		_, err := os.Stat("/sys/module/" + module)
		fmt.Fprintf(&text, "module %s: %t\n", module, err == nil)
	}
	return text.Bytes(), nil
}

// Configuration are the files of a directory that end with a suffix, under a name in the archive, and a list of all that
// is in there: those of others may hold secrets.
func Configuration(directory, suffix, name string) ([]File, error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", directory, err)
	}
	var files []File
	var list bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&list, "%s %s\n", e.Type(), e.Name())
		if !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(directory, e.Name()))
		if err != nil {
			text = []byte(err.Error() + "\n")
		}
		files = append(files, File{name + "/" + e.Name(), text})
	}
	return append(files, File{name + "/list.txt", list.Bytes()}), nil
}

// ErrNoLog says that the kubelet has no files of the agent's log.
var ErrNoLog = errors.New("there is none in /var/log/pods")

// PodLog is the end of the agent's log as the kubelet keeps it on a node.
func PodLog() ([]byte, error) {
	paths, _ := filepath.Glob("/var/log/pods/*_weaveguard-*/weave/*.log") // the pattern is right
	if len(paths) == 0 {
		return nil, ErrNoLog
	}
	slices.Sort(paths)
	var all bytes.Buffer
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the agent's log: %w", err)
		}
		fmt.Fprintf(&all, "== %s\n", path)
		all.Write(text[max(0, len(text)-maxFile/4):])
	}
	return all.Bytes(), nil
}

// Learn makes a scrubber know the secrets in an agent's state directory: identity, WireGuard keys and gossip keys. What
// can't be read isn't known.
func (s *Scrubber) Learn(directory string) {
	keys.Secretly(func() {
		if text, err := os.ReadFile(filepath.Join(directory, "keys.json")); err == nil {
			var value any
			if json.Unmarshal(text, &value) == nil {
				s.learnStrings(value)
			}
		}
		if text, err := os.ReadFile(filepath.Join(directory, "keyring")); err == nil {
			for _, word := range strings.Fields(string(text)) {
				s.learnStrings(word)
			}
		}
	})
}

// learnStrings takes all strings of a JSON value that are base64 of secrets' length for secrets.
func (s *Scrubber) learnStrings(value any) {
	switch v := value.(type) {
	case string:
		if secret, err := base64.StdEncoding.DecodeString(v); err == nil {
			s.Secret(secret)
		}
	case []any:
		for _, e := range v {
			s.learnStrings(e)
		}
	case map[string]any:
		for _, e := range v {
			s.learnStrings(e)
		}
	}
}
