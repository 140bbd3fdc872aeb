package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/flow"
)

// talker is a helper that answers lines with lines of JSON.
type talker struct {
	*Process
	in      io.WriteCloser
	answers *json.Decoder
	out     *os.File
}

// talk starts a helper with one argument, its configuration as JSON.
func (p *Place) talk(helper string, config any) (*talker, error) {
	arg, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration of %s: %w", helper, err)
	}
	c := Command{Helper: helper, Args: []string{string(arg)}, Carrier: true}
	cmd, err := c.cmd(context.Background()) // ends with the lab
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe to %s: %w", helper, err)
	}
	// Not StdoutPipe: Wait, which runs beside, would close it with answers in it.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a pipe from %s: %w", helper, err), in.Close())
	}
	cmd.Stdout = theirs
	process, err := p.background(c, cmd)
	err = errors.Join(err, theirs.Close())
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	return &talker{Process: process, in: in, answers: json.NewDecoder(out), out: out}, nil
}

// ask sends a command and reads the answer.
func (a *talker) ask(command string, answer any) error {
	if _, err := fmt.Fprintln(a.in, command); err != nil {
		return a.broken(err)
	}
	return a.read(answer)
}

func (a *talker) read(answer any) error {
	if err := a.answers.Decode(answer); err != nil {
		return a.broken(err)
	}
	return nil
}

func (a *talker) broken(err error) error {
	return fmt.Errorf("talking to %s: %w\n%s", a.Name, err, tail([]byte(a.Log()), logTail))
}

// hangUp ends the helper by the end of its input.
func (a *talker) hangUp() error {
	err := a.in.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // Wait has closed it: it ended by itself
	}
	return errors.Join(err, a.Wait(), a.out.Close())
}

func datagramsMain(args []string) int {
	var config flow.DatagramConfig
	return helped(args, &config, func(context.Context) error {
		return flow.Datagrams(config, os.Stdin, os.Stdout)
	})
}

func transferMain(args []string) int {
	var config flow.TransferConfig
	return helped(args, &config, func(ctx context.Context) error {
		return flow.Transfer(ctx, config, os.Stdout)
	})
}

// helped runs a helper whose configuration is its one argument.
func helped(args []string, config any, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	err := errors.New("a helper needs its configuration as its one argument")
	if len(args) == 1 {
		err = json.Unmarshal([]byte(args[0]), config)
	}
	if err == nil {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
