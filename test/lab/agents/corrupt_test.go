package agents_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// garbled are the files that an agent reads when it starts, with what its log, or its status, says of one that holds garbage; "": it
// writes it again. What becomes of a key store, see cutKeys.
func garbled(attachment string) map[string]string {
	return map[string]string{
		contract.StateDir + "/" + contract.CacheFile:    contract.CacheFile,
		contract.StateDir + "/" + contract.HostsFile:    contract.StateDir + "/" + contract.HostsFile,
		contract.StateDir + "/" + contract.NetworksFile: "",
		contract.RunDir + "/cni.json":                   "",
		attachment:                                      attachment[strings.LastIndex(attachment, "/")+1:],
	}
}

// garble fills files with garbage while an agent is away. It starts all the same, names each that it can't do without, and goes
// on, also when they are as they were.
func (o *outages) garble(t *testing.T, n *agents.Node) time.Duration {
	t.Helper()
	before := n.MustRun(t, "ls", attached)
	guest := n.AddPod(t, "garbled")
	attachment := ""
	for _, name := range strings.Fields(n.MustRun(t, "ls", attached)) {
		if !strings.Contains(before, name) {
			attachment = attached + "/" + name
		}
	}
	o.kill(t, n)
	n.MustRun(t, "cp", attachment, "/run/whole")
	files := garbled(attachment)
	for file := range files {
		n.MustRun(t, "sh", "-c", `head -c 1000 /dev/urandom > "$1"`, "sh", file)
	}
	took := o.start(t, n)
	lab.Eventually(t, 20*time.Second, "the agent names the files", func() error {
		said := n.Agent.Log()
		if s, err := n.Status(t.Context()); err == nil {
			said += fmt.Sprint(s.Problems)
		}
		for file, words := range files {
			if !strings.Contains(said, words) {
				return fmt.Errorf("of %s it doesn't say %q", file, words)
			}
		}
		return nil
	})
	n.MustRun(t, "cp", "/run/whole", attachment)
	guest.Remove(t)
	lab.Eventually(t, 20*time.Second, "pods are attached as before", func() error {
		if !strings.HasPrefix(n.MustRun(t, "head", "-c", "1", contract.RunDir+"/cni.json"), "{") {
			return errors.New("the ready file isn't written again")
		}
		return nil
	})
	next := n.AddPod(t, "after")
	next.MustRun(t, "ping", "-c", "1", "-W", "5", o.pods[1].Addr.String())
	next.Remove(t)
	if log := n.Agent.Log(); strings.Contains(log, "panic") || strings.Contains(log, "goroutine ") {
		t.Errorf("the agent's log:\n%s", log)
	}
	return took
}
