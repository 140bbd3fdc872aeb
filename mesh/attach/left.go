package attach

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// maxNamed is how many pods are named that hold a network that this node doesn't have any more; of more, their number is.
const maxNamed = 5

// bridgesOf are the bridges that pods can be attached to.
func bridgesOf(ready view.Ready) []string {
	bridges := []string{ready.Bridge}
	for _, n := range ready.Networks {
		bridges = append(bridges, n.Bridge)
	}
	return bridges
}

// left returns a problem for each network that pods are attached to and that this node doesn't have, such as one whose file
// was removed: its bridge stays for as long as they do. It knows none before the first Apply with something ready.
func (a *Attach) left() []view.Problem {
	bridges := a.bridges.Load()
	if bridges == nil {
		return nil
	}
	attached, _ := a.Attachments(context.Background()) // what can't be read is told of elsewhere
	holders := map[string][]string{}
	bridgeOf := map[string]string{}
	for _, at := range attached {
		if len(at.Ranges) > 0 && !slices.Contains(*bridges, at.Bridge) { // without ranges it is of no network of the agent
			holders[at.Network] = append(holders[at.Network], holder(at))
			bridgeOf[at.Network] = at.Bridge
		}
	}
	var problems []view.Problem
	for network, pods := range holders {
		slices.Sort(pods)
		named := strings.Join(pods[:min(len(pods), maxNamed)], ", ")
		if more := len(pods) - maxNamed; more > 0 {
			named += fmt.Sprintf(" and %d more", more)
		}
		problems = append(problems, view.Problem{
			Subject: "network " + network,
			Message: fmt.Sprintf("this node doesn't have it, and pods are attached to it: %s; its bridge %s stays for them, and they reach "+
				"nobody on other nodes by it", named, bridgeOf[network]),
			Remedy:  "delete those pods, or configure the network again",
			Warning: true,
		})
	}
	slices.SortFunc(problems, func(a, b view.Problem) int { return strings.Compare(a.Subject, b.Subject) })
	return problems
}

// holder names what an attachment belongs to.
func holder(at store.Attachment) string {
	if at.PodName == "" {
		return fmt.Sprintf("container %s (%s)", at.ContainerID, at.IfName)
	}
	return fmt.Sprintf("%s/%s (%s)", at.PodNamespace, at.PodName, at.IfName)
}
