package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/keys"
)

// maxStdin is more than a key and some comments need, in bytes.
const maxStdin = 64 << 10

// adviceError is an error with what to do about it.
type adviceError struct{ message, remedy string }

func (e *adviceError) Error() string { return e.message }

// ringStore is where a gossip keyring is kept.
type ringStore interface {
	// load returns the keyring; none if there is a place for one, and it is empty.
	load(ctx context.Context) (keys.Keyring, error)
	// save replaces the keyring that load returned. It fails when somebody else has changed it since.
	save(ctx context.Context, ring keys.Keyring) error
}

// keyringFlags are the flags of `weaveguard keyring` and the commands below it.
type keyringFlags struct {
	file    string
	kubectl kubectl
}

func (f *keyringFlags) store() ringStore {
	if f.file != "" {
		return &ringFile{path: f.file}
	}
	return &ringSecret{kubectl: f.kubectl}
}

func newKeyringCommand() *cobra.Command {
	var f keyringFlags
	cmd := &cobra.Command{
		Use:         "keyring",
		Annotations: inPlace(placeHere),
		Short:       "See and change the keys that gossip is encrypted with",
		Long: "keyring sees and changes the gossip keyring: the first key encrypts, all of them\n" +
			"decrypt. With Kubernetes it is in the Secret weaveguard-gossip, and this command\n" +
			"runs kubectl, with your own rights, to read and patch it. Without Kubernetes,\n" +
			"name the file with --file. Running agents follow within seconds.\n\n" +
			"To change the key of a running mesh, let each step reach all agents before the\n" +
			"next (see the line `gossip keys` of `weaveguard status`): add, use, remove.\n" +
			"Keys are named by fingerprints, and never printed.\n\n" +
			"Exit status: 0 when it is done, 2 when it couldn't be, or was refused.",
		Example: "  weaveguard keyring list\n" +
			"  weaveguard keyring add\n" +
			"  weaveguard keyring use 1f2e3d4c\n" +
			"  weaveguard keyring remove 99aabbcc",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.file, "file", "", "file with the keyring, without Kubernetes")
	f.kubectl.addFlags(flags)
	cmd.AddCommand(newKeyringListCommand(&f), newKeyringAddCommand(&f), newKeyringUseCommand(&f), newKeyringRemoveCommand(&f))
	return cmd
}

// ringKey is one key in `weaveguard keyring list -o json`.
type ringKey struct {
	Fingerprint string `json:"fingerprint"`
	Encrypts    bool   `json:"encrypts"`
}

func newKeyringListCommand(f *keyringFlags) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the gossip keys by their fingerprints",
		Long: "list shows which gossip keys the Secret, or the file, has. A fingerprint is the\n" +
			"first 8 hex digits of the SHA-256 of a key.",
		Example: "  weaveguard keyring list\n" +
			"  weaveguard keyring list --file /etc/weaveguard/gossip.key -o json",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := f.store().load(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := os.Stat(f.file); f.file != "" && errors.Is(err, fs.ErrNotExist) {
				return &adviceError{"there is no file " + f.file, "name the file that the agents have; the first key of a new mesh is made by `weaveguard keyring add --first`"}
			}
			all := []ringKey{}
			for i, fingerprint := range ring.Fingerprints() {
				all = append(all, ringKey{fingerprint, i == 0})
			}
			return answer(cmd, output, all, func(p *page) { p.keyring(ring) })
		},
	}
	addFormatFlag(cmd, &output)
	return cmd
}

func (p *page) keyring(ring keys.Keyring) {
	if len(ring) == 0 {
		p.text("", "there is no gossip key: an agent that starts puts one")
		return
	}
	var rows [][]string
	for i, fingerprint := range ring.Fingerprints() {
		use := "decrypts"
		if i == 0 {
			use = "encrypts and decrypts"
		}
		rows = append(rows, []string{fingerprint, use})
	}
	p.table([]string{"KEY", "USE"}, rows)
}

func newKeyringAddCommand(f *keyringFlags) *cobra.Command {
	var stdin, first bool
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Add a gossip key, which decrypts only",
		Long: "add makes a new gossip key, or takes one from the standard input, and puts it\n" +
			"behind the others: all agents get to know it, and none encrypts with it yet.",
		Example: "  weaveguard keyring add\n" +
			"  weaveguard keyring add --stdin --file /etc/weaveguard/gossip.key < new.key",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := newKey(cmd.InOrStdin(), stdin)
			if err != nil {
				return err
			}
			return f.edit(cmd, func(ring keys.Keyring) (keys.Keyring, string, error) {
				if len(ring) == 0 && !first {
					return nil, "", &adviceError{"there is no gossip key to add one to", f.noKeyRemedy()}
				}
				name := keys.Fingerprint(key)
				added, err := ring.Add(key)
				if len(ring) == 0 {
					return added, fmt.Sprintf("added %s, the first key: it encrypts and decrypts", name), err
				}
				return added, fmt.Sprintf("added %s, which decrypts; when `weaveguard status` of all nodes has it among its gossip keys: "+
					"`weaveguard keyring use %s`", name, name), err
			})
		},
	}
	cmd.Flags().BoolVar(&stdin, "stdin", false, "read the key from the standard input: 32 bytes in base64")
	cmd.Flags().BoolVar(&first, "first", false, "also if it is the first key, which encrypts at once")
	return cmd
}

// noKeyRemedy is what to do about a keyring without keys.
func (f *keyringFlags) noKeyRemedy() string {
	if f.file != "" {
		return "if this mesh has a key, put it there as on its other hosts; if it is new, make the first key with --first"
	}
	return "start an agent of this cluster, which puts the key that it has, or a new one; if none has one, make the first key " +
		"with --first"
}

// newKey makes a key, or reads one.
func newKey(in io.Reader, read bool) ([]byte, error) {
	if !read {
		ring, err := keys.NewKeyring()
		if err != nil {
			return nil, err
		}
		return ring[0], nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxStdin))
	if err != nil {
		return nil, fmt.Errorf("reading a key from the standard input: %w", err)
	}
	ring, err := keys.ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("the standard input: %w", err)
	}
	if len(ring) != 1 {
		return nil, fmt.Errorf("the standard input has %d gossip keys, want one", len(ring))
	}
	return ring[0], nil
}

func newKeyringUseCommand(f *keyringFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "use FINGERPRINT",
		Short: "Encrypt gossip with a key that all agents know",
		Long: "use makes a key of the keyring the one that encrypts. See before that all agents\n" +
			"have it: `weaveguard status` of a node lists its gossip keys.",
		ValidArgsFunction: f.completeKey,
		Example:           "  weaveguard keyring use 1f2e3d4c",
		Args:              exactlyOne("a key by its fingerprint"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd, func(ring keys.Keyring) (keys.Keyring, string, error) {
				used, err := ring.Use(args[0])
				if err != nil {
					return nil, "", aboutKey(args[0], err)
				}
				return used, fmt.Sprintf("%s encrypts; when it is the first of the gossip keys in `weaveguard status` of all nodes, "+
					"remove the others", keys.Fingerprint(used[0])), nil
			})
		},
	}
}

func newKeyringRemoveCommand(f *keyringFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove FINGERPRINT",
		Short: "Remove a gossip key that nobody encrypts with",
		Long: "remove takes a key out of the keyring. It refuses the one that encrypts. See\n" +
			"before that no agent encrypts with it: it isn't the first of the gossip keys in\n" +
			"`weaveguard status` of any node. Whoever has this key alone is shut out.",
		ValidArgsFunction: f.completeKey,
		Example:           "  weaveguard keyring remove 99aabbcc",
		Args:              exactlyOne("a key by its fingerprint"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd, func(ring keys.Keyring) (keys.Keyring, string, error) {
				left, err := ring.Remove(args[0])
				if err != nil {
					return nil, "", aboutKey(args[0], err)
				}
				return left, strings.ToLower(args[0]) + " is removed", nil
			})
		},
	}
}

// completeKey completes the fingerprint of a key.
func (f *keyringFlags) completeKey(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ring, err := f.store().load(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return ring.Fingerprints(), cobra.ShellCompDirectiveNoFileComp
}

// aboutKey says which key can't be used or removed.
func aboutKey(fingerprint string, err error) error {
	return &adviceError{fmt.Sprintf("%s: %v", fingerprint, err), "see `weaveguard keyring list`"}
}

// edit changes the keyring and says so.
func (f *keyringFlags) edit(cmd *cobra.Command, change func(keys.Keyring) (keys.Keyring, string, error)) error {
	store := f.store()
	ring, err := store.load(cmd.Context())
	if err != nil {
		return err
	}
	changed, done, err := change(ring)
	if err != nil {
		return err
	}
	if !changed.Equal(ring) {
		if err := store.save(cmd.Context(), changed); err != nil {
			return err
		}
	}
	page := newPage(cmd.OutOrStdout())
	page.text("", done)
	return page.printTo(cmd.OutOrStdout())
}

// errChanged says that the keyring isn't the one any more that was to be changed.
var errChanged = errors.New("somebody else has changed the gossip keyring meanwhile, and it stays as they made it: look at it, and try again")
