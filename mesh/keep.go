package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// keepAfter is for how long files of the agent are gone before it writes them again: who takes a node's keys or memory away
// on purpose has this time to restart its agent.
const keepAfter = 30 * time.Second

// keepFiles notices files of the agent that somebody removed, tells of them, and writes them again from memory: else the next
// start would make another identity, or know nothing.
func (a *Agent) keepFiles(p *pass) {
	lost := a.Keys.Lost()
	cache := !a.unsaved && a.last.Load() != nil && isGone(a.CachePath)
	if cache {
		lost = append(lost, a.CachePath)
	}
	if len(lost) == 0 {
		a.lostSince = time.Time{}
		return
	}
	if a.lostSince.IsZero() {
		a.lostSince = p.began
	}
	if p.began.Sub(a.lostSince) < keepAfter {
		p.problems = append(p.problems, view.Problem{
			Subject: "state directory", Warning: true, Message: "somebody removed " + strings.Join(lost, " and "),
			Remedy: fmt.Sprintf("none is needed: the agent writes it again from memory %s after that; if it is to be without, restart the agent before", keepAfter),
		})
		return
	}
	a.lostSince = time.Time{}
	restored, err := a.Keys.Restore()
	if err != nil {
		p.fail("key store", err)
	}
	for _, path := range restored {
		p.repair("key store", "writing "+path)
	}
	if cache && a.remember(p) {
		p.repair("view cache", "writing "+a.CachePath)
	}
}

// repair notes something that was put right beside what is applied.
func (p *pass) repair(kind, what string) {
	p.repairs = append(p.repairs, what)
	p.repaired = added(p.repaired, map[string]uint64{kind: 1})
}

func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// keepDue is when files that are gone are to be written again; zero: none are.
func (a *Agent) keepDue() time.Time {
	if a.lostSince.IsZero() {
		return time.Time{}
	}
	return a.lostSince.Add(keepAfter)
}
