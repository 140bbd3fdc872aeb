package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	sequenceName = "sequence"
	// sequenceBlock is how many numbers one write to disk reserves.
	sequenceBlock = 1 << 16
)

// sequence hands out growing numbers. It reserves a block on disk before it uses the first of it, so a crash
// skips numbers and never repeats one. While the disk can't be written it goes by the clock, since a node that can't say
// anything more costs its traffic, and reserves again when it can.
type sequence struct {
	path     string
	last     uint64 // handed out last
	reserved uint64 // up to here they are reserved
	kept     bool   // there is a file
}

// openSequence goes on after the block that was reserved last, or at the clock's milliseconds if that is more: above what an
// earlier life of the same identity can have used without a usable file, unless the clock went back.
func openSequence(path string) (sequence, error) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sequence{}, fmt.Errorf("reading the record sequence: %w", err)
	}
	// Without the newline the number may be cut short.
	digits, whole := strings.CutSuffix(string(raw), "\n")
	start, err := strconv.ParseUint(digits, 10, 64)
	if !whole || err != nil || start > math.MaxUint64-sequenceBlock {
		start = 0
	}
	start = max(start, clock())
	return sequence{path: path, last: start, reserved: start, kept: raw != nil}, nil
}

func clock() uint64 { return uint64(time.Now().UnixMilli()) }

func (s *sequence) next() (uint64, error) {
	if s.last >= s.reserved {
		err := s.reserve(s.last)
		switch {
		case errors.Is(err, errUsedUp):
			return 0, err
		case err != nil:
			s.last = max(s.last, clock()-1)
		}
	}
	s.last++
	return s.last, nil
}

func (s *sequence) raise(seen uint64) error {
	if seen <= s.last {
		return nil
	}
	if err := s.reserve(seen); errors.Is(err, errUsedUp) {
		return err
	}
	s.last = seen
	return nil
}

// errUsedUp says that there are no numbers left.
var errUsedUp = errors.New("the record sequence is used up")

func (s *sequence) reserve(from uint64) error {
	if from > math.MaxUint64-sequenceBlock {
		return fmt.Errorf("%w at %d", errUsedUp, from)
	}
	ceiling := from + sequenceBlock
	if err := writeDurably(s.path, []byte(strconv.FormatUint(ceiling, 10)+"\n")); err != nil {
		return fmt.Errorf("writing the record sequence: %w", err)
	}
	s.reserved, s.kept = ceiling, true
	return nil
}
