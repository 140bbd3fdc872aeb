package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
)

var (
	errStreamVersion = errors.New("encryption version not supported")
	errStreamEmpty   = errors.New("encrypted stream is too short")
	errMessages      = errors.New("rate of messages exceeds limit")
)

// inspected hands a stream on once all of it has come and was looked at. What isn't encrypted is handed on as it is, for
// memberlist to refuse. One goroutine reads it.
type inspected struct {
	inspector inspector
	take      func(n int) error // of what came
	messages  func(n int) bool  // whether so many messages for the agent are taken

	judged bool
	failed error // why it isn't handed on
	held   bytes.Reader
}

// read reads from conn. Nothing comes behind what a stream says that it brings.
func (i *inspected) read(conn io.Reader, p []byte) (int, error) {
	if !i.judged {
		i.judged = true
		i.failed = i.judge(conn)
	}
	if i.failed != nil {
		return 0, i.failed
	}
	if i.held.Len() > 0 {
		n, err := i.held.Read(p)
		if i.held.Len() == 0 {
			i.held.Reset(nil)
		}
		return n, err
	}
	return taking{conn, i.take}.Read(p)
}

func (i *inspected) judge(conn io.Reader) error {
	var header [streamHeader]byte
	if _, err := io.ReadFull(conn, header[:1]); err != nil {
		return err
	}
	if header[0] != encryptedStream {
		i.held.Reset(header[:1])
		return nil
	}
	// The length first: who claims too much isn't waited for.
	if _, err := io.ReadFull(conn, header[1:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header[1:])
	switch {
	case size > maxStreamSize:
		return errStreamSize
	case size <= encryptionCost: // memberlist panics when nothing is in it
		return errStreamEmpty
	}
	stream := bytes.NewBuffer(header[:])
	if _, err := io.CopyN(stream, taking{conn, i.take}, int64(size)); err != nil {
		return err
	}
	sealed := stream.Bytes()[streamHeader:]
	if sealed[0] != encryptionVersion {
		return errStreamVersion
	}
	switch plain, err := i.inspector.open(header[:], sealed); {
	case errors.Is(err, errUndecryptable):
		i.held.Reset(undecryptable())
		return nil
	case err != nil:
		return err
	default:
		messages, err := judgeStream(plain)
		if err != nil {
			return err
		}
		if messages > 0 && !i.messages(messages) {
			return errMessages
		}
		i.inspector.worn.inStream(plain)
	}
	i.held.Reset(stream.Bytes())
	return nil
}

// undecryptable stands for a stream that no key opens: memberlist finds the same, and tells the other end. It isn't
// given the stream itself, which it would copy, and which a key that has just come might open.
func undecryptable() []byte {
	const size = encryptionCost + 1
	stream := make([]byte, streamHeader+size)
	stream[0], stream[streamHeader-1], stream[streamHeader] = encryptedStream, size, encryptionVersion
	return stream
}

// taking counts what is read.
type taking struct {
	io.Reader
	take func(n int) error
}

func (t taking) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		if full := t.take(n); full != nil {
			return 0, full
		}
	}
	return n, err
}

// cappedStream is an accepted stream. One goroutine reads it.
type cappedStream struct {
	net.Conn
	inspected
	caps *caps
	pool *pool
	from netip.Addr

	// Under caps.mu.
	size    int
	closed  bool
	dropped bool
}

// Read hands nothing on before it was looked at.
func (s *cappedStream) Read(p []byte) (int, error) {
	n, err := s.read(s.Conn, p)
	if err != nil && s.wasDropped() {
		return 0, errStreamDropped
	}
	return n, err
}

func (s *cappedStream) wasDropped() bool {
	s.caps.mu.Lock()
	defer s.caps.mu.Unlock()
	return s.dropped
}

// Close gives back what the stream held.
func (s *cappedStream) Close() error {
	s.caps.mu.Lock()
	s.caps.release(s)
	s.caps.mu.Unlock()
	return s.Conn.Close()
}

// stream is a connection that was dialled, and that the end of a context closes. What it is answered is looked at too.
type stream struct {
	net.Conn
	inspected
	stop func() bool
}

func newStream(conn net.Conn, in inspector, stop func() bool) *stream {
	size := 0
	take := func(n int) error {
		if size += n; size > maxStreamSize+streamHeader {
			return errStreamSize
		}
		return nil
	}
	return &stream{Conn: conn, stop: stop, inspected: inspected{
		inspector: in, take: take, messages: func(int) bool { return true },
	}}
}

func (s *stream) Read(p []byte) (int, error) { return s.read(s.Conn, p) }

func (s *stream) Close() error {
	s.stop()
	return s.Conn.Close()
}
