package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const defaultWait = 5 * time.Minute

// rotateFlags are the flags of `weaveguard rotate`.
type rotateFlags struct {
	force, wait bool
	timeout     time.Duration
	output      format
}

func newRotateCommand(o *options) *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Change the WireGuard key of this node",
		Long: "rotate asks the agent of this node for a new WireGuard key, and returns when the\n" +
			"agent has noted that. The agent then moves its peers to the new key while the\n" +
			"old one still works, so that no packet is lost, and erases the old one when no\n" +
			"peer needs it any more. A request during a rotation is done after it.\n\n" +
			"With --wait each step of the rotation is a line on the standard error.\n\n" +
			"Exit status: 0 when the agent took the request, with --wait when the node has\n" +
			"the new key alone; with --wait 1 when the time is up before that, and the\n" +
			"rotation goes on; 2 when the agent refuses the request or couldn't be asked.",
		Example: "  weaveguard rotate\n" +
			"  weaveguard rotate --wait --timeout 10m || weaveguard status",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := noArguments(cmd, args); err != nil {
				return err
			}
			return f.check(cmd.Flags().Changed("timeout"))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.rotate(cmd, o) },
	}
	addFormatFlag(cmd, &f.output)
	cmd.Flags().BoolVar(&f.force, "force", false, "end the rotation under way without waiting for peers that still use "+
		"the old key: their packets are lost until they follow")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until the node has the new key alone")
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultWait, "how long to --wait at most")
	return cmd
}

// check refuses what can't have been meant.
func (f *rotateFlags) check(timeoutGiven bool) error {
	switch {
	case timeoutGiven && !f.wait:
		return errors.New("--timeout is for --wait")
	case f.timeout <= 0:
		return errors.New("--timeout takes a time span above 0, such as 90s or 5m")
	}
	return nil
}

func (f *rotateFlags) rotate(cmd *cobra.Command, o *options) error {
	noted, err := o.client().Rotate(cmd.Context(), f.force)
	if err != nil {
		return err
	}
	err = answer(cmd, f.output, noted, func(p *page) { p.text("", inWords(noted)) })
	if err != nil || !f.wait {
		return err
	}
	w := waiter{ask: o.client().Status, wanted: noted.Generation, timeout: f.timeout, stderr: cmd.ErrOrStderr()}
	return w.run(cmd.Context())
}

// inWords says what became of a request.
func inWords(answer view.RotateAnswer) string {
	switch answer.State {
	case view.RotateStarted:
		return fmt.Sprintf("a new key (generation %d) is on its way: see `weaveguard status`", answer.Generation)
	case view.RotateQueued:
		return fmt.Sprintf("a rotation is under way; another one (generation %d) follows it", answer.Generation)
	case view.RotateAlreadyQueued:
		return fmt.Sprintf("a rotation is under way, and another one (generation %d) is queued already", answer.Generation)
	case view.RotateForced:
		return "the rotation under way ends now, without the peers that haven't followed"
	}
	return fmt.Sprintf("the agent took the request (%s, generation %d): see `weaveguard status`", answer.State, answer.Generation)
}
