package agents

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/service"
)

// PlainHost is a host that an operator sets up by hand, with a shell in which systemctl(1) and scp(1) do what the test does in
// their place: hosts of a lab run no systemd, and no sshd.
type PlainHost struct {
	*Node
	services map[string]*lab.Process
	enabled  []string
	all      []*PlainHost // by number, from 1
}

// asked is where the shell's systemctl and scp leave what they were asked, until that is done.
const asked = "/run/asked"

// shell comes before an operator's commands. A refusal is a line in the file that ends the wait.
const shell = `ask() { echo "$*" > ` + asked + `.new && mv ` + asked + `.new ` + asked + ` && while [ -e ` + asked + ` ]; do sleep 0.05; done
	[ ! -e ` + asked + `.refused ]; }
systemctl() { ask systemctl "$@"; }
scp() { ask scp "$@"; }
mkdir -p /opt/operator && cd /opt/operator
`

// PlainHosts makes plain hosts of a mesh's nodes, without any program of Weaveguard's on them. They are called host-1, host-2, …
// and have the addresses 192.0.2.1, …
func PlainHosts(t testing.TB, m *Mesh) []*PlainHost {
	t.Helper()
	var all []*PlainHost
	for _, n := range m.Nodes {
		all = append(all, &PlainHost{Node: n, services: map[string]*lab.Process{}})
	}
	for i, h := range all {
		h.all = all
		h.furnish(t, i+1)
	}
	return all
}

// furnish does what has to be done after each boot.
func (h *PlainHost) furnish(t testing.TB, number int) {
	t.Helper()
	// What is installed stays on the host's own disk.
	h.MustRun(t, "sh", "-e", "-c", fmt.Sprintf(`mkdir -p /opt/local && mount --bind /opt/local /usr/local
		hostname host-%d && ip address add 192.0.2.%[1]d/24 dev %s`, number, lab.Port))
}

// Reboot switches the host on again, and starts what is enabled, as systemd does.
func (h *PlainHost) Reboot(t testing.TB) {
	t.Helper()
	if err := h.Boot(); err != nil {
		t.Fatal(err)
	}
	for i, other := range h.all {
		if other == h {
			h.furnish(t, i+1)
		}
	}
	clear(h.services)
	for _, name := range h.enabled {
		if err := h.startService(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// Off switches the host off.
func (h *PlainHost) Off() { h.PowerOff() }

// Operate runs an operator's commands, and returns what they print.
func (h *PlainHost) Operate(t testing.TB, commands string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.serve(ctx) }()
	out, err := h.Run(t.Context(), "sh", "-e", "-c", shell+commands)
	cancel()
	err = errors.Join(err, <-served)
	h.mesh.secrets.keep("an operator's commands on "+h.Name, fmt.Sprint(out, err))
	if err != nil {
		t.Fatalf("%v\nof the commands\n%s", err, commands)
	}
	return out
}

// path is a file of the host as this process sees it.
func (h *PlainHost) path(file string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.InitPID(), file)
}

// serve does what the shell asks for until the context ends.
func (h *PlainHost) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
		raw, err := os.ReadFile(h.path(asked))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = h.do(ctx, strings.Fields(string(raw)))
		}
		if err != nil {
			err = errors.Join(err, os.WriteFile(h.path(asked+".refused"), nil, 0o600))
		}
		if err := errors.Join(err, os.Remove(h.path(asked))); err != nil {
			return fmt.Errorf("doing %q on %s: %w", raw, h.Name, err)
		}
	}
}

func (h *PlainHost) do(ctx context.Context, words []string) error {
	switch {
	case len(words) == 4 && words[0] == "scp" && words[1] == "-p":
		return h.copy(words[2], words[3])
	case len(words) == 2 && words[1] == "daemon-reload":
		return nil
	case len(words) > 3 && words[0] == "systemctl" && words[1] == "enable" && words[2] == "--now":
		for _, name := range words[3:] {
			h.enabled = append(h.enabled, name)
			if err := h.startService(ctx, name); err != nil {
				return err
			}
		}
		return nil
	case len(words) > 3 && words[0] == "systemctl" && words[1] == "disable" && words[2] == "--now":
		h.enabled = nil
		for _, name := range words[3:] {
			if process := h.services[name]; process != nil {
				if err := process.Stop(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return errors.New("a test knows nothing of this command")
}

// copy copies a file to another host, with its mode.
func (h *PlainHost) copy(file, target string) error {
	address, to, _ := strings.Cut(strings.TrimPrefix(target, "root@"), ":")
	var number int
	if _, err := fmt.Sscanf(address, "192.0.2.%d", &number); err != nil || number < 1 || number > len(h.all) {
		return fmt.Errorf("there is no host %s", address)
	}
	info, err := os.Stat(h.path(file))
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(h.path(file))
	if err != nil {
		return err
	}
	return os.WriteFile(h.all[number-1].path(to), raw, info.Mode())
}

// startService does what systemd does with a unit that is installed on the host, as far as this kernel and a test can.
func (h *PlainHost) startService(ctx context.Context, name string) error {
	u, err := service.Read(h.path("/etc/systemd/system/" + name + ".service"))
	if err != nil {
		return err
	}
	env := map[string]string{}
	if file := u.Value("Service", "EnvironmentFile"); file != "" {
		raw, err := os.ReadFile(h.path(file))
		if err != nil {
			return err
		}
		env = service.Environment(string(raw))
	}
	var dirs []string
	for _, dir := range strings.Fields(u.Value("Service", "RuntimeDirectory")) {
		dirs = append(dirs, filepath.Join("/run", dir))
	}
	for _, dir := range strings.Fields(u.Value("Service", "StateDirectory")) {
		dirs = append(dirs, filepath.Join("/var/lib", dir))
	}
	if _, err := h.Run(ctx, "mkdir", append([]string{"-p"}, dirs...)...); err != nil {
		return err
	}
	if before := strings.Fields(strings.TrimPrefix(u.Value("Service", "ExecStartPre"), "+")); len(before) > 0 {
		if _, err := h.Run(ctx, before[0], before[1:]...); err != nil {
			return err
		}
	}
	command := u.Confined(u.Command(env))
	// It goes on when the commands that started it have ended.
	h.services[name], err = h.Host.Start(context.WithoutCancel(ctx), lab.Command{
		Name: name, Path: command[0], Args: command[1:], Env: u.Values("Service", "Environment"), Carrier: name == "weaveguard-userspace",
	})
	return err
}

// Service is a service that was started last.
func (h *PlainHost) Service(name string) *lab.Process { return h.services[name] }
