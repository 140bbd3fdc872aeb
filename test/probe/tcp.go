package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// transfer is what a client asks for: one JSON line, then the bytes in the one direction or the
// other, then the summary of the server's side as a JSON line.
type transfer struct {
	Bytes int64 `json:"bytes"`
	Fetch bool  `json:"fetch"`
	Rate  int64 `json:"rate"` // bytes per second
}

// summary is one side of a transfer.
type summary struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Remote string `json:"remote"` // the client as the server sees it, IP:PORT
}

type tcpResult struct {
	summary
	Millis int64 `json:"millis"`
}

// blockSize: each block of the payload has its number in front and is full of the marker.
const blockSize = 1 << 14

// send writes the first n bytes of the payload.
func send(ctx context.Context, w io.Writer, n, rate int64) (summary, error) {
	block := []byte(strings.Repeat(marker+" ", blockSize/len(marker)+1))[:blockSize]
	sum := sha256.New()
	start := time.Now()
	var sent int64
	for number := uint64(0); sent < n; number++ {
		binary.BigEndian.PutUint64(block, number)
		part := block[:min(int64(len(block)), n-sent)]
		sum.Write(part)
		written, err := w.Write(part)
		sent += int64(written)
		if err != nil {
			return summary{Bytes: sent}, fmt.Errorf("send byte %d of %d: %w", sent, n, err)
		}
		if rate > 0 {
			due := start.Add(time.Duration(float64(sent) / float64(rate) * float64(time.Second)))
			select {
			case <-ctx.Done():
				return summary{Bytes: sent}, fmt.Errorf("send byte %d of %d: %w", sent, n, ctx.Err())
			case <-time.After(time.Until(due)):
			}
		}
	}
	return summary{Bytes: sent, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func receive(r io.Reader, n int64) (summary, error) {
	sum := sha256.New()
	got, err := io.CopyN(sum, r, n)
	if err != nil {
		return summary{Bytes: got}, fmt.Errorf("receive byte %d of %d: %w", got, n, err)
	}
	return summary{Bytes: got, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// serveTransfer answers one client.
func serveTransfer(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reader := bufio.NewReaderSize(conn, 1<<16)
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the request of %s: %w", conn.RemoteAddr(), err)
	}
	var t transfer
	if err := json.Unmarshal(line, &t); err != nil {
		return fmt.Errorf("read the request of %s: %w", conn.RemoteAddr(), err)
	}
	var mine summary
	if t.Fetch {
		mine, err = send(ctx, conn, t.Bytes, t.Rate)
	} else {
		mine, err = receive(reader, t.Bytes)
	}
	if err != nil {
		return fmt.Errorf("transfer with %s: %w", conn.RemoteAddr(), err)
	}
	mine.Remote = conn.RemoteAddr().String()
	return json.NewEncoder(conn).Encode(mine)
}

// run is the client.
func (t transfer) run(ctx context.Context, address string) (tcpResult, error) {
	var result tcpResult
	start := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return result, err // says what and where itself
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(t); err != nil {
		return result, fmt.Errorf("ask %s for a transfer: %w", address, err)
	}
	reader := bufio.NewReaderSize(conn, 1<<16)
	if t.Fetch {
		result.summary, err = receive(reader, t.Bytes)
	} else {
		result.summary, err = send(ctx, conn, t.Bytes, t.Rate)
	}
	if err != nil {
		return result, fmt.Errorf("transfer with %s: %w", address, err)
	}
	var theirs summary
	if err := json.NewDecoder(reader).Decode(&theirs); err != nil {
		return result, fmt.Errorf("read the summary of %s: %w", address, err)
	}
	result.Remote = theirs.Remote
	result.Millis = time.Since(start).Milliseconds()
	if theirs.SHA256 != result.SHA256 || theirs.Bytes != result.Bytes {
		return result, fmt.Errorf("transfer with %s: it has %d bytes with SHA-256 %s, we have %d with %s",
			address, theirs.Bytes, theirs.SHA256, result.Bytes, result.SHA256)
	}
	return result, nil
}
