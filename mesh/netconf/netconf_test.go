package netconf_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/netconf"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// folder is a directory of network configurations.
type folder struct {
	dir    string
	config netconf.Config
}

func newFolder(t *testing.T, ipv6 string) *folder {
	t.Helper()
	f := &folder{dir: filepath.Join(t.TempDir(), "networks")}
	sysctls := t.TempDir()
	if ipv6 != "" {
		path := filepath.Join(sysctls, "net/ipv6/conf/all")
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "disable_ipv6"), []byte(ipv6+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.config = netconf.Config{Dir: f.dir, Bridge: "weave", SysctlRoot: sysctls, Log: slog.New(slog.DiscardHandler)}
	return f
}

func (f *folder) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// network is a good configuration of a network in 10.NUMBER.0.0/16, with further keys.
func network(name string, number int, more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"weaveguard","bridge":"weave-%s","subnets":["10.%d.1.0/24"],"ranges":["10.%d.0.0/16"]%s}`,
		name, name, number, number, more)
}

// described is what is configured, in one line.
func described(n *netconf.Networks) string {
	networks, _ := n.Configured()
	var texts []string
	for _, network := range networks {
		texts = append(texts, network.String())
	}
	return strings.Join(texts, "; ")
}

func names(n *netconf.Networks) string {
	networks, _ := n.Configured()
	var all []string
	for _, network := range networks {
		all = append(all, network.Name)
	}
	return strings.Join(all, " ")
}

func TestGoodFiles(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "0")
	f.write(t, "red.conf", network("red", 60, ""))
	f.write(t, "10-blue.conf", `{"cniVersion": "1.1.0", "name": "blue", "type": "weaveguard", "bridge": "weave-blue", "mtu": 1300, "dns": {},
		"capabilities": {"ips": true}, "subnets": ["fd50:0:0:1::/64", "10.50.1.0/24"], "ranges": ["10.50.0.0/16", "fd50::/48"],
		"reaches": ["red", "default", "red"]}`)
	f.write(t, ".red.conf.swp", "of an editor")
	f.write(t, "red.conf~", "of another one")
	n := netconf.New(f.config)
	want := "blue bridge weave-blue ranges 10.50.0.0/16,fd50::/48 cidrs 10.50.1.0/24,fd50:0:0:1::/64 reaches default,red; " +
		"red bridge weave-red ranges 10.60.0.0/16 cidrs 10.60.1.0/24"
	if got := described(n); got != want {
		t.Errorf("configured is %q, want %q", got, want)
	}
	if _, problems := n.Configured(); len(problems) > 0 {
		t.Errorf("problems are %v", problems)
	}
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	n := netconf.New(newFolder(t, "0").config)
	if networks, problems := n.Configured(); len(networks)+len(problems) > 0 {
		t.Errorf("without a directory: %v, %v", networks, problems)
	}
}

// Each bad file is told of by name and key with what to do, and the good one beside it makes its network.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	blue := network("blue", 50, "")
	with := func(key, value string) string { // blue with another value of a key
		start := strings.Index(blue, `"`+key+`":`) + len(key) + 3
		end := start + strings.IndexAny(blue[start:]+",", ",}")
		if blue[start] == '[' {
			end = start + strings.Index(blue[start:], "]") + 1
		}
		return blue[:start] + value + blue[end:]
	}
	six := func(ranges, subnets string) string {
		return fmt.Sprintf(`{"name":"blue","type":"weaveguard","bridge":"weave-blue","subnets":[%q],"ranges":[%q]}`, subnets, ranges)
	}
	for name, tc := range map[string]struct{ text, message string }{
		"nothing":                      {"", "isn't a JSON object"},
		"no object":                    {"[]", "isn't a JSON object"},
		"half an object":               {blue[:40], "isn't a JSON object"},
		"two objects":                  {blue + blue, "behind the end"},
		"a conflist":                   {`{"name":"blue","plugins":[]}`, "key plugins"},
		"an unknown key":               {network("blue", 50, `,"subnet":"10.50.1.0/24"`), "key subnet"},
		"a number for a name":          {with("name", "5"), "key name: it is a JSON number"},
		"text for a list":              {with("subnets", `"10.50.1.0/24"`), "key subnets: it is a JSON string"},
		"another plugin":               {with("type", `"bridge"`), `key type: it is "bridge"`},
		"no name":                      {with("name", `""`), "key name"},
		"a bad name":                   {with("name", `"blue/red"`), "key name"},
		"the default network's name":   {with("name", `"default"`), "key name"},
		"the conflist's name":          {with("name", `"weaveguard"`), "key name"},
		"no bridge":                    {with("bridge", `""`), "key bridge: it is missing"},
		"a long bridge":                {with("bridge", `"weave-blue-12345"`), "key bridge"},
		"a bridge with a slash":        {with("bridge", `"weave/blue"`), "key bridge"},
		"the default bridge":           {with("bridge", `"weave"`), "key bridge: weave is the default network's"},
		"a tunnel device":              {with("bridge", `"weave-wg2"`), "key bridge: weave-wg2"},
		"like a tunnel device":         {with("bridge", `"weave-wgx"`), "key bridge: weave-wgx"},
		"all":                          {with("bridge", `"all"`), "key bridge: all"},
		"another network's bridge":     {with("bridge", `"weave-good"`), "key bridge: weave-good is that of network good"},
		"no subnets":                   {with("subnets", "[]"), "key subnets: it is missing"},
		"no ranges":                    {with("ranges", "[]"), "key ranges: it is missing"},
		"no subnet":                    {with("subnets", `["blue"]`), `key subnets: "blue"`},
		"an address":                   {with("subnets", `["10.50.1.0"]`), "key subnets"},
		"bits behind the length":       {with("subnets", `["10.50.1.7/24"]`), "key subnets: 10.50.1.7/24 has bits"},
		"two of a family":              {with("subnets", `["10.50.1.0/24","10.50.2.0/24"]`), "key subnets: 10.50.1.0/24 and 10.50.2.0/24"},
		"a subnet outside":             {with("subnets", `["10.51.1.0/24"]`), "key subnets has 10.51.1.0/24, which is in none of the ranges"},
		"a subnet wider":               {with("subnets", `["10.0.0.0/8"]`), "key subnets has 10.0.0.0/8"},
		"no room":                      {with("subnets", `["10.50.1.0/31"]`), "key subnets: 10.50.1.0/31 has no room"},
		"no subnet of a family":        {with("ranges", `["10.50.0.0/16","fd50::/48"]`), "key subnets"},
		"all addresses":                {with("ranges", `["0.0.0.0/0"]`), "key ranges is 0.0.0.0/0"},
		"unspecified":                  {with("ranges", `["0.0.0.0/8"]`), "key ranges is 0.0.0.0/8"},
		"loopback":                     {with("ranges", `["127.0.0.0/8"]`), "key ranges is 127.0.0.0/8"},
		"link-local":                   {with("ranges", `["169.254.0.0/16"]`), "key ranges is 169.254.0.0/16"},
		"multicast":                    {with("ranges", `["224.0.0.0/8"]`), "key ranges is 224.0.0.0/8"},
		"multicast in it":              {with("ranges", `["192.0.0.0/2"]`), "multicast addresses"},
		"link-local IPv6":              {six("fe80::/64", "fe80::/80"), "key ranges is fe80::/64: not a range"},
		"multicast IPv6":               {six("ff00::/8", "ff05::/64"), "key ranges is ff00::/8: not a range"},
		"link-local IPv6 in it":        {six("f000::/4", "fd50::/64"), "key ranges is f000::/4, which has link-local addresses"},
		"mapped":                       {with("ranges", `["::ffff:10.50.0.0/112"]`), "key ranges"},
		"another network's range":      {with("ranges", `["10.64.0.0/10"]`), "key ranges: 10.64.0.0/10 overlaps 10.99.0.0/16 of network good"},
		"its own name in reaches":      {network("blue", 50, `,"reaches":["blue"]`), "key reaches"},
		"no name in reaches":           {network("blue", 50, `,"reaches":["re d"]`), "key reaches"},
		"the good one's name":          {with("name", `"good"`), "key name: good is the network of"},
		"more than a file should have": {`{"name":"` + strings.Repeat("n", 70000), "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t, "0")
			text := tc.text
			if name == "another network's range" {
				text = strings.ReplaceAll(text, "10.50.1.0/24", "10.65.1.0/24")
			}
			f.write(t, "blue.conf", text)
			f.write(t, "a-good.conf", network("good", 99, ""))
			n := netconf.New(f.config)
			_, problems := n.Configured()
			if names(n) != "good" || len(problems) != 1 {
				t.Fatalf("%q are configured, problems %v", names(n), problems)
			}
			p := problems[0]
			if p.Subject != filepath.Join(f.dir, "blue.conf") || !strings.Contains(p.Message, tc.message) || p.Remedy == "" || p.Warning {
				t.Errorf("the problem is %+v, want %q", p, tc.message)
			}
		})
	}
	if f := newFolder(t, "0"); true {
		f.write(t, "blue.conf", with("bridge", `"weave-b"`))
		if n := netconf.New(f.config); names(n) != "blue" {
			t.Errorf("what the cases above spoil isn't good itself: %v", n)
		}
	}
}

func TestFamilyThatTheNodeHasNot(t *testing.T) {
	t.Parallel()
	text := `{"name":"blue","type":"weaveguard","bridge":"weave-blue","subnets":["fd50:0:0:1::/64"],"ranges":["fd50::/48"]}`
	for ipv6, has := range map[string]bool{"0": true, "1": false, "": false} {
		f := newFolder(t, ipv6)
		f.write(t, "blue.conf", text)
		n := netconf.New(f.config)
		_, problems := n.Configured()
		if got := names(n) == "blue"; got != has || !has && (len(problems) != 1 || !strings.Contains(problems[0].Message, "IPv6")) {
			t.Errorf("disable_ipv6 %q: configured %q, problems %v", ipv6, names(n), problems)
		}
	}
}

func TestBoundOfNetworks(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "0")
	for i := range view.MaxNetworks + 1 {
		f.write(t, fmt.Sprintf("n%02d.conf", i), network(fmt.Sprintf("n%02d", i), 50+i, ""))
	}
	n := netconf.New(f.config)
	networks, problems := n.Configured()
	if len(networks) != view.MaxNetworks || len(problems) != 1 || !strings.Contains(problems[0].Message, "16 networks at most") ||
		filepath.Base(problems[0].Subject) != "n16.conf" {
		t.Errorf("%d networks, problems %v", len(networks), problems)
	}
}

// What is no file of one network is told of, and never waited for.
func TestWhatIsNoFile(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "0")
	f.write(t, "good.conf", network("good", 99, ""))
	f.write(t, "blue.conflist", "{}")
	if err := syscall.Mkfifo(filepath.Join(f.dir, "pipe.conf"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(f.dir, "dir.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(f.dir, "link.conf")); err != nil {
		t.Fatal(err)
	}
	n := netconf.New(f.config)
	_, problems := n.Configured()
	var subjects []string
	for _, p := range problems {
		subjects = append(subjects, filepath.Base(p.Subject))
	}
	slices.Sort(subjects)
	if got := strings.Join(subjects, " "); names(n) != "good" || got != "blue.conflist dir.conf link.conf pipe.conf" {
		t.Errorf("configured %q, problems of %q", names(n), got)
	}
}

// followed is what is configured while it is followed.
type followed struct {
	*folder
	*netconf.Networks
	t       *testing.T
	changed chan struct{}
}

func (f *folder) follow(t *testing.T) *followed {
	t.Helper()
	changed := make(chan struct{}, 100)
	f.config.Changed = func() { changed <- struct{}{} }
	n := netconf.New(f.config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	return &followed{folder: f, Networks: n, t: t, changed: changed}
}

// until waits for what is configured to be these networks, with so many problems, and for being told of it.
func (f *followed) until(want string, problems int) []view.Problem {
	f.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if _, p := f.Configured(); names(f.Networks) == want && len(p) == problems {
			return p
		}
		select {
		case <-f.changed:
		case <-deadline:
			_, p := f.Configured()
			f.t.Fatalf("not within 20 s: %q with %d problems; it is %q with %v", want, problems, names(f.Networks), p)
		}
	}
}

func (f *followed) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// Networks come and go as their files do, quickly, and what was good stays while its file is bad.
func TestFilesAreFollowed(t *testing.T) {
	t.Parallel()
	folder := newFolder(t, "0")
	folder.write(t, "blue.conf", network("blue", 50, ""))
	f := folder.follow(t)
	f.until("blue", 0)
	begin := time.Now()
	f.write(t, "red.conf", network("red", 60, ""))
	f.until("blue red", 0)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a new file is seen after %s, by its directory's events it would be at once", took)
	}
	f.write(t, "blue.conf", "{")
	if p := f.until("blue red", 1); !strings.Contains(p[0].Message, "network blue stays as it was") {
		t.Errorf("the problem is %+v", p)
	}
	f.write(t, "blue.conf", network("blue", 60, "")) // in red's range
	f.until("blue red", 1)
	if got := described(f.Networks); !strings.Contains(got, "blue bridge weave-blue ranges 10.50.0.0/16") {
		t.Errorf("configured is %q", got)
	}
	f.remove("red.conf")
	f.until("blue", 0) // and there is room for what blue is to be
	if got := described(f.Networks); !strings.Contains(got, "ranges 10.60.0.0/16") {
		t.Errorf("configured is %q", got)
	}
	if err := os.Rename(filepath.Join(f.dir, "blue.conf"), filepath.Join(f.dir, "10-blue.conf")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, problems := f.Configured(); names(f.Networks) != "blue" || len(problems) > 0 {
			t.Fatalf("while the file gets another name: configured %q, problems %v", names(f.Networks), problems)
		}
	}
	f.remove("10-blue.conf")
	f.until("", 0)
}

// An editor that takes the file away, and puts another one in its place, takes no network away.
func TestFileThatIsReplaced(t *testing.T) {
	t.Parallel()
	folder := newFolder(t, "0")
	folder.write(t, "blue.conf", network("blue", 50, ""))
	f := folder.follow(t)
	path := filepath.Join(f.dir, "blue.conf")
	for i := range 20 {
		if err := os.Rename(path, path+"~"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // an editor's, not the test's
		f.write(t, "blue.conf", network("blue", 51+i, ""))
		if names(f.Networks) != "blue" {
			t.Fatal("the network is gone while its file is replaced")
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(described(f.Networks), "10.70.0.0/16") {
		if time.Now().After(deadline) {
			t.Fatalf("configured is %q", described(f.Networks))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The directory may come later than the agent.
func TestDirectoryThatComes(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "0").follow(t)
	f.write(t, "blue.conf", network("blue", 50, ""))
	f.until("blue", 0)
}

// A file that is bad keeps its network when the agent is started again, and one that is gone doesn't.
func TestNetworksAreKept(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "0")
	f.config.Kept = filepath.Join(t.TempDir(), "networks.json")
	for number, name := range []string{"blue", "red", "green"} {
		f.write(t, name+".conf", network(name, 50+number, `,"reaches":["default"]`))
	}
	before := described(netconf.New(f.config))
	if n := netconf.New(f.config); described(n) != before {
		t.Errorf("configured is %q, before %q", described(n), before)
	}
	f.write(t, "blue.conf", "{")
	f.write(t, "red.conf", network("red", 50, "")) // in blue's range
	if err := os.Remove(filepath.Join(f.dir, "green.conf")); err != nil {
		t.Fatal(err)
	}
	n := netconf.New(f.config)
	_, problems := n.Configured()
	if got := described(n); got != before[:strings.Index(before, "; green")]+before[strings.Index(before, "; red"):] || len(problems) != 2 {
		t.Errorf("configured is %q, before %q; problems %v", got, before, problems)
	}
	if _, problems := netconf.New(f.config).Configured(); len(problems) != 2 {
		t.Errorf("problems %v", problems)
	}
	for what, text := range map[string]string{
		"garbage": "{", "another version": `{"version":9}`,
		"what can't be one": `{"version":1,"files":{"` + filepath.Join(f.dir, "blue.conf") + `":{"name":"blue","bridge":"weave","ranges":["10.50.0.0/16"],"cidrs":["10.50.1.0/24"]}}}`,
	} {
		if err := os.WriteFile(f.config.Kept, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := netconf.New(f.config); names(n) != "red" {
			t.Errorf("with %s on disk %q are configured", what, names(n))
		}
		aside := f.config.Kept + ".unusable"
		raw, err := os.ReadFile(aside)
		if usable := what == "what can't be one"; usable == (err == nil) || !usable && string(raw) != text {
			t.Errorf("with %s on disk there is %q aside, %v", what, raw, err)
		}
		if err != nil {
			continue
		}
		_, problems := netconf.New(f.config).Configured()
		if !slices.ContainsFunc(problems, func(p view.Problem) bool { return p.Subject == aside }) {
			t.Errorf("with %s on disk the problems are %v", what, problems)
		}
		if err := os.Remove(aside); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzFile(f *testing.F) {
	dir := f.TempDir()
	config := netconf.Config{Dir: dir, Bridge: "weave", SysctlRoot: "/proc/sys", Log: slog.New(slog.DiscardHandler)}
	f.Add([]byte(network("blue", 50, `,"reaches":["red"]`)))
	f.Add([]byte(`{"name":"blue","type":"weaveguard","bridge":"b","subnets":["fd50:0:0:1::/64"],"ranges":["fd50::/48"]}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(filepath.Join(dir, "blue.conf"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		networks, problems := netconf.New(config).Configured()
		if len(networks)+len(problems) != 1 {
			t.Errorf("%d networks and %d problems of one file", len(networks), len(problems))
		}
		for _, p := range problems {
			if p.Remedy == "" {
				t.Errorf("nothing to do about %+v", p)
			}
		}
		for _, n := range networks {
			if len(n.Ranges) == 0 || len(n.Ranges) != len(n.CIDRs) || n.Bridge == "" || n.Bridge == "weave" {
				t.Errorf("%+v is configured", n)
			}
		}
	})
}
