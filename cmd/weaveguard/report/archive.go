// Package report gathers what somebody else needs to find out what is wrong on a node, and writes it into one archive.
// It owns what goes in there, and that no secret does. It reads, and changes nothing.
package report

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// File is a file of the archive.
type File struct {
	Name string // with slashes
	Text []byte
}

const fileMode = 0o600

// maxFile is how much of a file is written, in bytes: its end, which of a log is the latest.
const maxFile = 4 << 20

// Write writes an archive (tar, gzip) with a directory that has the files, without secrets: see Scrubber.
func Write(w io.Writer, directory string, files []File, s *Scrubber, now time.Time) error {
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		text := s.Scrub(f.Text)
		if len(text) > maxFile {
			text = text[len(text)-maxFile:]
		}
		header := &tar.Header{Name: path.Join(directory, s.scrubText(f.Name)), Mode: fileMode, Size: int64(len(text)), ModTime: now, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("writing %s into the archive: %w", f.Name, err)
		}
		if _, err := archive.Write(text); err != nil {
			return fmt.Errorf("writing %s into the archive: %w", f.Name, err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return fmt.Errorf("ending the archive: %w", err)
	}
	return nil
}

// Read returns the files of an archive that Write wrote, and the name of their directory.
func Read(r io.Reader) (directory string, files []File, err error) {
	compressed, err := gzip.NewReader(r)
	if err != nil {
		return "", nil, fmt.Errorf("reading the archive: %w", err)
	}
	archive := tar.NewReader(compressed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return directory, files, nil
		}
		if err != nil {
			return "", nil, fmt.Errorf("reading the archive: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(archive, maxFile))
		if err != nil {
			return "", nil, fmt.Errorf("reading %s of the archive: %w", header.Name, err)
		}
		first, name, _ := strings.Cut(header.Name, "/")
		directory, files = first, append(files, File{Name: name, Text: text})
	}
}
