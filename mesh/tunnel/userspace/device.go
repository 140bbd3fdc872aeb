package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/weaveguard/weaveguard/keys"
)

// wireguard is one tunnel device: WireGuard over TUN, and the socket by which it is configured.
type wireguard struct {
	name   string
	device *device.Device
	socket *configSocket
	log    *slog.Logger
}

// start makes a tunnel device. From then on it binds a random UDP port until it is told another, and sends and
// accepts nothing while it has no key.
func start(ctx context.Context, name string, mtu int, dir string, log *slog.Logger) (*wireguard, error) {
	socketPath := filepath.Join(dir, name+".sock")
	if err := removeStale(socketPath); err != nil {
		return nil, err // before there is an interface that somebody else may have, too
	}
	tun, err := createTUN(name, mtu)
	if err != nil {
		return nil, err
	}
	log = log.With("device", name)
	w := &wireguard{name: name, log: log, device: device.NewDevice(tun, wideBind{conn.NewDefaultBind()}, deviceLogger(log))}
	if err := w.device.Up(); err != nil {
		w.device.Close()
		return nil, fmt.Errorf("opening a UDP port for %s: %w", name, err)
	}
	if w.socket, err = listenConfig(ctx, socketPath, w.device); err != nil {
		w.device.Close()
		return nil, err
	}
	return w, nil
}

// repair listens again if the device's socket was removed. The device goes on in any case.
func (w *wireguard) repair(ctx context.Context) error {
	if w.socket.intact() {
		return nil
	}
	socket, err := listenConfig(ctx, w.socket.path, w.device)
	if err != nil {
		return err
	}
	w.socket.close()
	w.socket = socket
	w.log.Warn("the device's socket was gone and was made again", "socket", socket.path)
	return nil
}

func (w *wireguard) close() {
	w.socket.close()
	w.device.Close()
}

// deviceLogger passes on WireGuard's messages. They come for each packet when a path is broken, so that some are
// enough. They name peers by the ends of their public keys, and hold no secrets.
func deviceLogger(log *slog.Logger) *device.Logger {
	const burst, every = 5, 10 * time.Second
	limiter := rate.NewLimiter(rate.Every(every), burst)
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			if limiter.Allow() {
				log.Warn(fmt.Sprintf(format, args...))
			}
		},
	}
}

// configSocket serves the configuration protocol of one device (https://www.wireguard.com/xplatform/).
type configSocket struct {
	path     string
	info     os.FileInfo // of the file at path, when it was made
	listener *net.UnixListener

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // nil when closed
	serves sync.WaitGroup
}

func listenConfig(ctx context.Context, path string, d *device.Device) (*configSocket, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the devices' sockets: %w", err)
	}
	listener, err := listen(ctx, path)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("looking at the device's socket: %w", err), listener.Close())
	}
	s := &configSocket{path: path, info: info, listener: listener, conns: map[net.Conn]struct{}{}}
	s.serves.Add(1)
	go func() { // ends with the listener
		defer s.serves.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.serve(conn, d)
		}
	}()
	return s, nil
}

// serve answers a connection in the background, until one of the ends closes it.
func (s *configSocket) serve(conn net.Conn, d *device.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		conn.Close() // too late for it
		return
	}
	s.conns[conn] = struct{}{}
	s.serves.Add(1)
	go func() {
		defer s.serves.Done()
		keys.Secretly(func() { d.IpcHandle(conn) }) // closes it
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}()
}

// intact reports whether the file is still the one that was made.
func (s *configSocket) intact() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.info)
}

// close removes the socket, unless it is another one by now, and waits for who used it.
func (s *configSocket) close() {
	s.listener.SetUnlinkOnClose(s.intact())
	s.listener.Close() // nothing to be done about an error
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close() // nothing to be done about an error
	}
	s.conns = nil
	s.mu.Unlock()
	s.serves.Wait()
}
