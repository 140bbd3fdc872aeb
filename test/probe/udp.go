package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// echoes are datagrams that a client sends one by one.
type echoes struct {
	count, size int
	wait        time.Duration
}

type udpResult struct {
	Sent     int `json:"sent"`
	Received int `json:"received"`
	Size     int `json:"size"` // bytes of payload
}

// sequenceBytes of a datagram are its number.
const sequenceBytes = 8

func serveEcho(conn net.PacketConn) error {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive datagrams: %w", err)
		}
		// An echo that can't be sent is a lost one, and the client says so.
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}

// run is the client.
func (e echoes) run(ctx context.Context, address string) (udpResult, error) {
	result := udpResult{Size: e.size}
	if e.size < sequenceBytes {
		return result, fmt.Errorf("size %d is too small: a datagram needs %d bytes for its number", e.size, sequenceBytes)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return result, err // says what and where itself
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	payload := []byte(strings.Repeat(marker+" ", e.size/len(marker)+1))[:e.size]
	for i := range e.count {
		binary.BigEndian.PutUint64(payload, uint64(i))
		result.Sent++
		if _, err := conn.Write(payload); err != nil {
			return result, fmt.Errorf("send datagram %d: %w", i, err)
		}
		ok, err := awaitEcho(conn, payload, e.wait)
		if err != nil {
			return result, fmt.Errorf("await the echo of datagram %d: %w", i, err)
		}
		if ok {
			result.Received++
		}
	}
	if result.Received != result.Sent {
		return result, fmt.Errorf("%d of %d datagrams came back", result.Received, result.Sent)
	}
	return result, nil
}

// awaitEcho passes over echoes of earlier datagrams.
func awaitEcho(conn net.Conn, payload []byte, wait time.Duration) (bool, error) {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false, err
	}
	buffer := make([]byte, len(payload)+1)
	for {
		n, err := conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if bytes.Equal(buffer[:n], payload) {
			return true, nil
		}
	}
}
