package lab_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/lab"
)

func TestPublish(t *testing.T) {
	name := fmt.Sprintf("test-%08x", rand.Uint32())
	if _, err := lab.Published(name); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("a lab that isn't: %v", err)
	}
	l := lab.New(t, lab.Options{Hosts: 2})
	withdraw, err := l.Publish(name)
	must(t, err)
	if _, err := l.Publish(name); err == nil {
		t.Error("two labs of one name")
	}
	s, err := lab.Published(name)
	must(t, err)
	h, err := s.Find("h2")
	must(t, err)
	if h.Addr4 != l.Hosts[1].Addr4 {
		t.Errorf("h2 is published with the address %v", h.Addr4)
	}
	var out strings.Builder
	cmd := exec.Command("hostname")
	cmd.Stdout = &out
	must(t, lab.StartIn(h.InitPID, cmd))
	must(t, cmd.Wait())
	if strings.TrimSpace(out.String()) != "h2" {
		t.Errorf("hostname of h2 is %q", out.String())
	}
	if _, err := s.Find("h3"); err == nil {
		t.Error("a host that isn't is found")
	}
	must(t, withdraw())
	if _, err := lab.Published(name); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("a lab that was withdrawn: %v", err)
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if _, err := lab.Published(bad); err == nil || errors.Is(err, lab.ErrNoLab) {
			t.Errorf("lab name %q: %v", bad, err)
		}
	}
}
