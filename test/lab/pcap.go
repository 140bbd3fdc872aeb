package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// pcapLimit is what of a capture is written to its file, in bytes.
const pcapLimit = 64 << 20

// pcapWriter writes the start of a capture to a file, in libpcap's format.
type pcapWriter struct {
	file    *os.File
	written int
}

func newPcap(dir string) (*pcapWriter, error) {
	file, err := os.CreateTemp(dir, "underlay.*.pcap")
	if err != nil {
		return nil, fmt.Errorf("making the capture's file: %w", err)
	}
	if _, err := file.Write(pcapHeader()); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the capture's file: %w", err), file.Close())
	}
	return &pcapWriter{file: file}, nil
}

func pcapHeader() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...) // time zone, accuracy
	b = binary.LittleEndian.AppendUint32(b, maxPacket)
	return binary.LittleEndian.AppendUint32(b, 1) // Ethernet
}

func (w *pcapWriter) write(frame []byte, at time.Time) error {
	if w.written += 16 + len(frame); w.written > pcapLimit {
		return nil
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(at.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()/1000))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	if _, err := w.file.Write(append(b, frame...)); err != nil {
		return fmt.Errorf("writing the capture's file: %w", err)
	}
	return nil
}

func (w *pcapWriter) close() error { return w.file.Close() }
