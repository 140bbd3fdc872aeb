package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/report"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/doctor"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	standardStream = "-"
	cniDir         = "/etc/cni/net.d"
	sysctls        = "/proc/sys"
	// conflistSuffix is that of the agent's own configuration for the container runtime: others' may hold secrets.
	conflistSuffix = "weaveguard.conflist"
	maxLog         = 16 << 20 // bytes
)

// reportNote is the first file of an archive.
const reportNote = `This is what "weaveguard report" gathered on one node. Keys and everything that looks like one are left out: in
their place is "(hidden ...)", with the first 8 hex digits of their SHA-256. What stays are names and addresses of nodes,
networks and pods, and public keys. Look through it before you show it to others.
`

// reportFlags are the flags of `weaveguard report`.
type reportFlags struct {
	file, log, stateDir string
}

func newReportCommand(o *options) *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:         "report",
		Annotations: inPlace(placeHere),
		Short:       "Write what a bug report needs into one archive, without secrets",
		Long: "report gathers what somebody else needs to find out what is wrong on this node,\n" +
			"and writes it into one file: the agent's status, its topology and the end\n" +
			"of its log, what doctor finds, what WireGuard has, links, addresses, routes and\n" +
			"rules, the firewall's tables of the agent's, settings of the kernel,\n" +
			"configuration, and versions. It works without an agent, too.\n\n" +
			"Secrets are left out: keys that the agent keeps, and all that looks like a key\n" +
			"and isn't a public one of this mesh. Names and addresses are in it: look through\n" +
			"it before you show it to others.\n\n" +
			"Exit status: 0 when it is written, 2 when it couldn't be.",
		Example: "  weaveguard report\n" +
			"  weaveguard report --file /tmp/report.tar.gz && tar -tzf /tmp/report.tar.gz\n" +
			"  weaveguard report --file - | tar -xzO --wildcards '*/status.txt'",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.plugin != nil {
				return f.fromPod(cmd, o)
			}
			return f.report(cmd, o)
		},
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "file to write; - is the standard output; by default one in this directory "+
		"that is named after the node and the time")
	cmd.Flags().StringVar(&f.log, "log", "", "file with the agent's log; - is the standard input; by default systemd's journal, or the "+
		"kubelet's files")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", contract.StateDir, "where the agent keeps its keys, which are left out")
	return cmd
}

// report gathers what there is on this host, and writes it.
func (f *reportFlags) report(cmd *cobra.Command, o *options) error {
	now := time.Now().UTC()
	scrubber := &report.Scrubber{}
	scrubber.Learn(f.stateDir)
	status, err := o.client().Status(cmd.Context())
	files := []report.File{{Name: "README.txt", Text: []byte(reportNote)}}
	if err != nil {
		message, remedy := explain(err)
		files = append(files, report.File{Name: "status.txt", Text: []byte(message + "\n" + remedy + "\n")})
	} else {
		files = append(files, statusFiles(status)...)
		scrubber.Public(publicKeys(status)...)
	}
	files = append(files, o.topologyFiles(cmd.Context())...)
	files = append(files, o.doctorFile(cmd.Context()))
	files = append(files, hostFiles(status, scrubber)...)
	log, err := f.givenLog(cmd.InOrStdin())
	if f.log == "" {
		log, err = recentLog(cmd.Context())
	}
	files = append(files, fileOf("agent.log", log, err))
	name := reportName(status.Node, now)
	return f.write(cmd, name, func(w io.Writer) error { return report.Write(w, name, files, scrubber, now) })
}

// reportName is the name of an archive without its suffix.
func reportName(node string, now time.Time) string {
	if node == "" {
		node, _ = os.Hostname()
	}
	node = regexp.MustCompile(`[^A-Za-z0-9._-]+`).ReplaceAllString(node, "_")
	return "weaveguard-report-" + node + "-" + now.Format("20060102T150405Z")
}

// statusFiles is a status for programs, and for people.
func statusFiles(s view.Status) []report.File {
	var raw bytes.Buffer
	_ = printJSON(&raw, s) // a bytes.Buffer takes everything
	p := &page{width: 100}
	p.status(s)
	p.space()
	p.allPeers(s)
	return []report.File{{Name: "status.txt", Text: p.buf.Bytes()}, {Name: "status.json", Text: raw.Bytes()}}
}

// topologyFiles are all nodes, networks and pods that the agent knows, for programs and for people.
func (o *options) topologyFiles(ctx context.Context) []report.File {
	t, err := o.client().Topology(ctx)
	if err != nil {
		return []report.File{fileOf("topology.txt", nil, err)}
	}
	var raw bytes.Buffer
	_ = printJSON(&raw, t) // a bytes.Buffer takes everything
	p := &page{width: 100}
	p.topology(t)
	return []report.File{{Name: "topology.txt", Text: p.buf.Bytes()}, {Name: "topology.json", Text: raw.Bytes()}}
}

// doctorFile is what doctor finds.
func (o *options) doctorFile(ctx context.Context) report.File {
	facts, err := o.facts(ctx)
	p := &page{width: 100}
	if err == nil {
		p.report(doctor.Examine(facts))
	}
	return fileOf("doctor.txt", p.buf.Bytes(), err)
}

// publicKeys are all keys in a status: none of those there is secret.
func publicKeys(s view.Status) []string {
	all := []string{s.Identity.String()}
	for key := range keyNames(s) {
		all = append(all, key.String())
	}
	for _, d := range s.Devices {
		all = append(all, d.PublicKey.String())
	}
	return all
}

// hostFiles is what the host itself has.
func hostFiles(status view.Status, scrubber *report.Scrubber) []report.File {
	var files []report.File
	add := func(name string, text []byte, err error) { files = append(files, fileOf(name, text, err)) }
	text, err := report.Machine(contract.Version())
	add("versions.txt", text, err)
	devices, err := tunnel.Show()
	all := named(devices, keyNames(status))
	p := &page{width: 100}
	p.wg(all, status.Node != "", time.Now())
	add("wg.txt", p.buf.Bytes(), err)
	for _, d := range all {
		scrubber.Public(d.PublicKey.String())
		for _, peer := range d.Peers {
			scrubber.Public(peer.PublicKey.String())
		}
	}
	for _, dump := range []struct {
		name string
		list func() ([]byte, error)
	}{
		{"links.txt", report.Links}, {"addresses.txt", report.Addresses}, {"routes.txt", report.Routes}, {"rules.txt", report.Rules},
		{"nftables.txt", report.Firewall}, {"sysctls.txt", func() ([]byte, error) { return report.Sysctls(sysctls) }},
	} {
		text, err := dump.list()
		add(dump.name, text, err)
	}
	for _, from := range []struct{ name, directory, suffix string }{
		{"cni", cniDir, conflistSuffix}, {"networks", contract.NetworksDir, ".conf"}, {"run", contract.RunDir, ".json"},
	} {
		configuration, err := report.Configuration(from.directory, from.suffix, from.name)
		files = append(files, configuration...)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			add(from.name+"/error.txt", nil, err)
		}
	}
	return files
}

// fileOf is a file with what could be read, and why not all could be.
func fileOf(name string, text []byte, err error) report.File {
	if err != nil {
		text = append(text, (err.Error() + "\n")...)
	}
	return report.File{Name: name, Text: text}
}

// write writes an archive to where it shall be, and says so.
func (f *reportFlags) write(cmd *cobra.Command, name string, to func(io.Writer) error) error {
	if f.file == standardStream {
		return f.writeOut(cmd.OutOrStdout(), to)
	}
	path := f.file
	if path == "" {
		path = name + ".tar.gz"
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &adviceError{path + " exists", "remove it, or name another file with --file"}
	}
	if err != nil {
		return &adviceError{fmt.Sprintf("making the file: %v", err), "name another file with --file"}
	}
	if err := errors.Join(to(file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // half of one is of no use
	}
	p := newPage(cmd.OutOrStdout())
	p.text("", path+" is written: look through it before you show it to others, for names and addresses are in it")
	return p.printTo(cmd.OutOrStdout())
}

// writeOut writes an archive to the standard output, but not to a terminal.
func (f *reportFlags) writeOut(out io.Writer, to func(io.Writer) error) error {
	if s, ok := out.(*screen); ok {
		out = s.Writer
	}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return &adviceError{"an archive isn't written to a terminal", "name a file with --file, or put the output into one"}
	}
	return to(out)
}

// fromPod takes the report of a pod. The log, which kubectl has, goes there first: the secrets that it mustn't have are
// known there.
func (f *reportFlags) fromPod(cmd *cobra.Command, o *options) error {
	pod, err := o.plugin.pod(cmd.Context())
	if err != nil {
		return err
	}
	log, err := f.givenLog(cmd.InOrStdin())
	if f.log == "" {
		log, err = o.plugin.log(cmd.Context(), pod)
	}
	if err != nil {
		log = append(log, (err.Error() + "\n")...)
	}
	var archive bytes.Buffer
	err = o.plugin.execIn(cmd.Context(), pod, bytes.NewReader(log), &archive, cmd.ErrOrStderr(), "report", "--file="+standardStream,
		"--log="+standardStream, "--state-dir="+f.stateDir)
	if err != nil {
		return err
	}
	if _, _, err := report.Read(bytes.NewReader(archive.Bytes())); err != nil {
		return fmt.Errorf("what came from the pod isn't whole: %w", err)
	}
	return f.write(cmd, reportName(pod.Spec.NodeName, time.Now().UTC()), func(w io.Writer) error {
		_, err := w.Write(archive.Bytes())
		return err
	})
}

// logLines is how much of the agent's log is asked for.
const logLines = "2000"

// recentLog is the end of the agent's log: of systemd's journal, or of the kubelet's files.
func recentLog(ctx context.Context) ([]byte, error) {
	journal := exec.CommandContext(ctx, "journalctl", "--unit=weaveguard", "--unit=weaveguard-userspace", "--lines="+logLines, "--no-pager", "--quiet", "--output=short-iso")
	if text, err := journal.Output(); err == nil && len(bytes.TrimSpace(text)) > 0 {
		return text, nil
	}
	text, err := report.PodLog()
	if errors.Is(err, report.ErrNoLog) {
		err = fmt.Errorf("systemd's journal has no log of the unit weaveguard; %w", err)
	}
	return text, err
}

// givenLog is the log that --log names.
func (f *reportFlags) givenLog(stdin io.Reader) ([]byte, error) {
	switch f.log {
	case "":
		return nil, nil
	case standardStream:
		return io.ReadAll(io.LimitReader(stdin, maxLog))
	}
	return os.ReadFile(f.log)
}
