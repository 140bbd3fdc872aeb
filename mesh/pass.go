package mesh

import (
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// pass is what one run of the loop saw, decided and achieved.
type pass struct {
	began    time.Time
	view     view.View
	desired  view.Desired
	cluster  *ClusterState
	devices  []view.DeviceState // as they were when it began
	problems []view.Problem
	open     bool          // pods can be attached
	sound    bool          // what carries their packets is as desired
	ready    bool          // see judgeReadiness
	carries  bool          // as Kubernetes is told
	closed   *view.Problem // why no pod is attached though all stands; nil: pods are
	changed  change
	settling bool     // the tunnels are left as they are
	blind    bool     // the tunnels can't be read
	standing bool     // rules, settings, tunnels and routes are as desired
	stood    []string // parts that are as desired, whatever is wrong with the others
	homeless bool     // the host has lost the address of gossip
	routed   bool     // the routes are as desired
	pruned   bool     // no tunnels but the desired ones are left
	rotation view.RotationStatus
	tracks   map[linkID]linkTrack
	// documents says of nodes whose latest document isn't here why.
	documents map[string]string
	rosters   map[string]attachments // by node
	writes    int
	failed    bool
	errors    map[string]uint64 // failures by kind
	untold    bool              // the log doesn't tell of a problem yet
	repairs   []string
	made      []string // what else was changed, as it was wanted
	forgets   []*forgetRequest
	repaired  map[string]uint64 // repairs by kind
	fought    bool              // somebody undoes what is repaired, again and again
}
