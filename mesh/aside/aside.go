// Package aside puts files of the agent's own that can't be used out of the way of the ones that are written in their place, so
// that nothing of them is lost: of a later version, or damaged. It never reads them, and never removes one that it put aside,
// but for the latest of too many.
package aside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// most is how many files are kept of each; one more takes the place of the latest.
const most = 3

// names are those that a file gets, the first first.
func names(path string) []string {
	all := []string{path + ".unusable"}
	for n := 2; n <= most; n++ {
		all = append(all, fmt.Sprintf("%s.unusable.%d", path, n))
	}
	return all
}

// Put renames a file that can't be used, and returns what it is called now.
func Put(path string) (as string, err error) {
	for _, as = range names(path) {
		if _, err := os.Lstat(as); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err := os.Rename(path, as); err != nil {
		return "", fmt.Errorf("putting %s aside: %w", path, err)
	}
	return as, nil
}

// Problems is a warning about each file that was put aside and is still there, by whatever agent; lost says what it may have
// had that is known nowhere else.
func Problems(path, lost string) []view.Problem {
	var problems []view.Problem
	for _, as := range names(path) {
		if _, err := os.Lstat(as); err != nil {
			continue
		}
		problems = append(problems, view.Problem{
			Subject: as, Warning: true,
			Message: "it was put aside, as an agent couldn't use it (of a later version, or damaged); what it may have that isn't known any more: " + lost,
			Remedy: fmt.Sprintf("to go on with it, stop the agent, move it back to %s, and start an agent that can read it, such as the version that wrote it; "+
				"else see that what this node knows now is right, and remove the file", path),
		})
	}
	return problems
}
