package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// fileInterval is how often the keyring's file is looked at.
	fileInterval = time.Second
	// fileHold and holdPeriods are what keys.Followed waits for, until all others have seen a change: with a file, which
	// each host has its own of, the time in which something may write all of them; with a Secret, this many readings.
	fileHold    = 10 * time.Second
	holdPeriods = 3
)

// errUnknown says that what the keyring is now can't be told; that is no fault of the keyring.
var errUnknown = errors.New("not known now")

// keyringSource is where an operator changes the keyring.
type keyringSource interface {
	// read returns what the keyring is, or errUnknown, or what is wrong with it.
	read(ctx context.Context) (keys.Keyring, error)
	// foreign is what is wrong with a keyring that has none of the keys in use.
	foreign() error
	// pace is how often to read, and how long a change takes to be everywhere.
	pace() (interval, hold time.Duration)
}

// keyringFollower makes gossip use the keyring as its source has it. A source that is at fault changes nothing: the
// agent keeps the keyring that it has, and says so.
type keyringFollower struct {
	source  keyringSource
	use     func(keys.Keyring) error // by gossip
	keep    func(keys.Keyring) error // for the next start, if it isn't kept so; nil: there is no need to
	changed func()                   // the problem is another one
	unread  bool                     // the keyring isn't from the source, which may have gone far from it since

	followed *keys.Followed

	mu      sync.Mutex
	problem *view.Problem
}

// newKeyringFollower returns a follower for gossip that runs with the keyring of followed.
func newKeyringFollower(source keyringSource, followed *keys.Followed, use func(keys.Keyring) error) *keyringFollower {
	return &keyringFollower{source: source, use: use, changed: func() {}, followed: followed}
}

// run follows until the context ends.
func (f *keyringFollower) run(ctx context.Context) error {
	for {
		interval, _ := f.source.pace()
		// Agents that were started at once don't ask at once for ever.
		timer := time.NewTimer(interval + rand.N(interval/5+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			f.follow(ctx)
		}
	}
}

// follow looks once.
func (f *keyringFollower) follow(ctx context.Context) {
	ring, err := f.source.read(ctx)
	if ctx.Err() != nil || errors.Is(err, errUnknown) {
		return
	}
	if err == nil {
		err = f.take(ring)
	}
	if err == nil {
		f.say(nil)
		return
	}
	f.say(f.explain(err))
}

// explain says what is wrong with the keyring, and what the agent does about it.
func (f *keyringFollower) explain(err error) *view.Problem {
	p := &view.Problem{Subject: "gossip keyring"}
	var unkept *unkeptError
	if errors.As(err, &unkept) {
		p.Message = "it is used as it should be, but its copy for the agent's next start is an older one, or there is none: " + unkept.err.Error()
		p.Remedy = "see to what the message says, such as a full disk; it is tried again all the time"
		return p
	}
	p.Message, p.Remedy = explainKeyring(err)
	p.Message += fmt.Sprintf("; the agent keeps the keyring that it has (%s)", strings.Join(f.followed.Ring().Fingerprints(), ", "))
	return p
}

// take makes gossip follow a good keyring.
func (f *keyringFollower) take(wanted keys.Keyring) error {
	_, hold := f.source.pace()
	if f.unread && !wanted.Shares(f.followed.Ring()) {
		f.followed = keys.NewFollowed(wanted) // as if it had been read at the start
	}
	f.unread = false
	ring, err := f.followed.Step(time.Now(), wanted, hold)
	if errors.Is(err, keys.ErrForeignKeyring) {
		return f.source.foreign()
	}
	if err == nil {
		err = f.use(ring)
	}
	if err != nil {
		return err
	}
	if f.keep == nil {
		return nil
	}
	if err := f.keep(ring); err != nil { // as it is used: a start goes on from there
		return &unkeptError{err}
	}
	return nil
}

// keepKeyring writes a keyring to a file, unless it is what is in it.
func keepKeyring(ring keys.Keyring, path string) error {
	if kept, err := keys.LoadKeyring(path); err == nil && kept.Equal(ring) {
		return nil
	}
	return ring.Save(path)
}

// say makes a problem known, or that there is none.
func (f *keyringFollower) say(p *view.Problem) {
	f.mu.Lock()
	same := p == nil && f.problem == nil || p != nil && f.problem != nil && *p == *f.problem
	f.problem = p
	f.mu.Unlock()
	if !same {
		f.changed()
	}
}

// problems is what an operator should know about now.
func (f *keyringFollower) problems() []view.Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem == nil {
		return nil
	}
	return []view.Problem{*f.problem}
}

func explainKeyring(err error) (message, remedy string) {
	var explained *kube.KeyringError
	if errors.As(err, &explained) {
		return explained.Message, explained.Remedy
	}
	var file *keyringFileError
	if errors.As(err, &file) {
		return file.err.Error(), file.remedy
	}
	return err.Error(), "see to what the message says; it is tried again all the time"
}

// unkeptError is why the keyring in use couldn't be written down.
type unkeptError struct{ err error }

func (e *unkeptError) Error() string { return e.err.Error() }

// keyringSecret is the Secret of a cluster.
type keyringSecret struct{ *kube.Kube }

func (s keyringSecret) read(ctx context.Context) (keys.Keyring, error) {
	ring, err := s.ReadKeyring(ctx)
	if errors.Is(err, kube.ErrNotRead) {
		return nil, errUnknown // the Snapshot says so
	}
	return ring, err
}

func (s keyringSecret) foreign() error { return s.ForeignKeyring() }

func (s keyringSecret) pace() (interval, hold time.Duration) {
	interval = s.KeyringInterval()
	return interval, holdPeriods * interval
}

// keyringFile is the file of a host without Kubernetes.
type keyringFile struct {
	path string
	last []byte // what was read last; it is secret
	err  string // or why it couldn't be
}

// keyringFileError is what is wrong with the file.
type keyringFileError struct {
	err    error
	remedy string
}

func (e *keyringFileError) Error() string { return e.err.Error() }

// read believes what it reads twice in a row: the file may be written in pieces.
func (f *keyringFile) read(context.Context) (keys.Keyring, error) {
	text, err := os.ReadFile(f.path)
	why := ""
	if err != nil {
		why = err.Error()
	}
	again := bytes.Equal(text, f.last) && why == f.err
	f.last, f.err = text, why
	switch {
	case !again:
		return nil, errUnknown
	case errors.Is(err, fs.ErrNotExist):
		return nil, f.wrong(fmt.Errorf("the gossip keyring %s doesn't exist", f.path))
	case err != nil:
		return nil, f.wrong(fmt.Errorf("reading the gossip keyring: %w", err))
	}
	ring, err := keys.ParseKeyring(text)
	if err != nil {
		return nil, f.wrong(fmt.Errorf("the gossip keyring %s can't be used: %w", f.path, err))
	}
	return ring, nil
}

func (f *keyringFile) wrong(err error) error {
	return &keyringFileError{err, "put the keys in use back into it, as on the other hosts: one a line, each 32 bytes in base64, the " +
		"one to encrypt with first; without it this agent can't start again"}
}

func (f *keyringFile) foreign() error {
	return &keyringFileError{
		fmt.Errorf("the gossip keyring %s was replaced: none of its keys is one that is in use", f.path),
		"put a key in use back into it, as on the other hosts; or, if the new keys are meant, restart the agents of all hosts, " +
			"which don't hear each other until all have",
	}
}

func (f *keyringFile) pace() (interval, hold time.Duration) { return fileInterval, fileHold }
