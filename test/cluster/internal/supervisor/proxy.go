package supervisor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

const (
	apiServerPort = "6443"
	dialTimeout   = 5 * time.Second
)

// serveAPIServer makes the API server reachable at a port of the machine's loopback, by a proxy
// that connects in the control plane's network namespace, and writes the kubeconfig for it. It
// ends with the supervisor.
func (s *Supervisor) serveAPIServer() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for clients of the API server: %w", err)
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				s.log.Error("can't accept clients of the API server any more", "err", err)
				return
			}
			go s.proxy(client)
		}
	}()
	at := listener.Addr().String()
	s.mu.Lock()
	s.state.APIServer = at
	err = s.writeState()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.ca.Kubeconfig(filepath.Join(s.dir, api.KubeconfigFile), "https://"+at, "admin")
}

func (s *Supervisor) proxy(client net.Conn) {
	defer client.Close()
	info, ok := s.host(api.ControlPlane)
	if !ok || info.PID == 0 {
		return
	}
	server, err := dialIn(info.PID, net.JoinHostPort("127.0.0.1", apiServerPort))
	if err != nil {
		return // as the refused connection that the client sees
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

// dialIn connects to address, an IP and a port, in the network namespace of a process.
func dialIn(pid int, address string) (net.Conn, error) {
	target, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	defer target.Close()
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open this network namespace: %w", err)
	}
	defer here.Close()
	if err := netns.Set(target); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).Dial("tcp", address)
	if back := netns.Set(here); back != nil {
		// The thread stays locked, so it ends with this goroutine and carries the wrong
		// namespace nowhere.
		return nil, errors.Join(err, fmt.Errorf("return to the machine's network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return conn, err
}
