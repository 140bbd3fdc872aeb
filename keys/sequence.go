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
// skips numbers and never repeats one.
type sequence struct {
	path     string
	last     uint64 // handed out last
	reserved uint64 // none above this may be handed out before it is written
}

// openSequence goes on after the block that was reserved last. Without a usable file it starts at the clock's
// milliseconds: above what an earlier life of the same identity can have used, unless the clock went back.
func openSequence(path string) (sequence, error) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sequence{}, fmt.Errorf("reading the record sequence: %w", err)
	}
	// Without the newline the number may be cut short.
	digits, whole := strings.CutSuffix(string(raw), "\n")
	start, err := strconv.ParseUint(digits, 10, 64)
	if !whole || err != nil || start > math.MaxUint64-sequenceBlock {
		start = uint64(time.Now().UnixMilli())
	}
	return sequence{path: path, last: start, reserved: start}, nil
}

func (s *sequence) next() (uint64, error) {
	if s.last == s.reserved {
		if err := s.reserve(s.last); err != nil {
			return 0, err
		}
	}
	s.last++
	return s.last, nil
}

func (s *sequence) raise(seen uint64) error {
	if seen <= s.last {
		return nil
	}
	if err := s.reserve(seen); err != nil {
		return err
	}
	s.last = seen
	return nil
}

func (s *sequence) reserve(from uint64) error {
	if from > math.MaxUint64-sequenceBlock {
		return fmt.Errorf("the record sequence is used up at %d", from)
	}
	ceiling := from + sequenceBlock
	if err := writeDurably(s.path, []byte(strconv.FormatUint(ceiling, 10)+"\n")); err != nil {
		return fmt.Errorf("writing the record sequence: %w", err)
	}
	s.reserved = ceiling
	return nil
}
