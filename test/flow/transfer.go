package flow

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// TransferConfig is one end of a TCP transfer: with a Peer the one that sends,
// else the one that listens at Local for one connection.
type TransferConfig struct {
	Local  netip.AddrPort // to bind; when sending, the zero value means any
	Peer   netip.AddrPort
	Bytes  int64
	Rate   int64  // bytes a second; 0 means as fast as it goes
	Filler []byte // appears in the data, at least once in every 4 KiB
}

// TransferAnswer is what an end has seen, as one line of JSON at the end. (A
// listener prints an empty object first, when it listens.)
type TransferAnswer struct {
	Bytes   int64
	SHA256  string // hexadecimal
	Seconds float64
}

// transferChunk is how much is written at a time.
const transferChunk = 64 << 10

// Transfer is one end of a transfer.
func Transfer(ctx context.Context, config TransferConfig, out io.Writer) error {
	var answer TransferAnswer
	var err error
	if config.Peer.IsValid() {
		answer, err = sendBytes(ctx, config)
	} else {
		answer, err = receiveBytes(ctx, config, out)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(answer)
}

func receiveBytes(ctx context.Context, config TransferConfig, out io.Writer) (TransferAnswer, error) {
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", config.Local.String())
	if err != nil {
		return TransferAnswer{}, fmt.Errorf("listening for the transfer: %w", err)
	}
	defer listener.Close()
	if err := json.NewEncoder(out).Encode(struct{}{}); err != nil {
		return TransferAnswer{}, fmt.Errorf("answering: %w", err)
	}
	conn, err := listener.Accept()
	if err != nil {
		return TransferAnswer{}, fmt.Errorf("accepting the transfer: %w", err)
	}
	defer conn.Close()
	start, sum := time.Now(), sha256.New()
	n, err := io.CopyBuffer(sum, conn, make([]byte, transferChunk))
	if err != nil {
		return TransferAnswer{}, fmt.Errorf("receiving after %d bytes: %w", n, err)
	}
	return TransferAnswer{Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil)), Seconds: time.Since(start).Seconds()}, nil
}

func sendBytes(ctx context.Context, config TransferConfig) (TransferAnswer, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if config.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(config.Local)
	}
	conn, err := dialer.DialContext(ctx, "tcp", config.Peer.String())
	if err != nil {
		return TransferAnswer{}, fmt.Errorf("connecting for the transfer: %w", err)
	}
	defer conn.Close()
	start, sum, chunk := time.Now(), sha256.New(), transferBlock(config.Filler)
	for sent := int64(0); sent < config.Bytes; {
		if config.Rate > 0 {
			due := start.Add(time.Duration(float64(sent) / float64(config.Rate) * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		// Each chunk differs, so that a lost or repeated one changes the sum.
		binary.BigEndian.PutUint64(chunk, uint64(sent))
		part := chunk[:min(int64(len(chunk)), config.Bytes-sent)]
		if _, err := conn.Write(part); err != nil {
			return TransferAnswer{}, fmt.Errorf("sending after %d bytes: %w", sent, err)
		}
		sum.Write(part)
		sent += int64(len(part))
	}
	if err := finish(conn); err != nil {
		return TransferAnswer{}, err
	}
	return TransferAnswer{Bytes: config.Bytes, SHA256: hex.EncodeToString(sum.Sum(nil)), Seconds: time.Since(start).Seconds()}, nil
}

// finish says that all is sent, and waits until the other end has closed.
func finish(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("ending the transfer: not a TCP connection")
	}
	if err := tcp.CloseWrite(); err != nil {
		return fmt.Errorf("ending the transfer: %w", err)
	}
	if _, err := io.Copy(io.Discard, tcp); err != nil {
		return fmt.Errorf("waiting for the transfer's end: %w", err)
	}
	return nil
}

// transferBlock is random data with the filler in every 4 KiB of it.
func transferBlock(filler []byte) []byte {
	b := make([]byte, transferChunk)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rand.Uint64())
	}
	for i := 8; i < len(b); i += 4 << 10 {
		copy(b[i:], filler)
	}
	return b
}
