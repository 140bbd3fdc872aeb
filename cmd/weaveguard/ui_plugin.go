package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

const (
	// pagePatience is how long the page may take to come by way of kubectl.
	pagePatience = 10 * time.Second
	// endPatience is how long kubectl may take to end.
	endPatience = 2 * time.Second
)

// addUI makes ui forward a port of this machine to the agent's page.
func (pl *plugin) addUI(root *cobra.Command) {
	cmd, _, err := root.Find([]string{"ui"})
	if err != nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return pl.forward(cmd, cmd.Flag(listenFlag).Value.String())
	}
}

// forwarding is how kubectl says that it listens.
var forwarding = regexp.MustCompile(`^Forwarding from (\S+) -> `)

// forward has kubectl forward a port to the agent's page, until the command is interrupted.
func (pl *plugin) forward(cmd *cobra.Command, listen string) error {
	host, port, err := splitListen(listen)
	if err != nil {
		return err
	}
	if host == "" {
		host = netip.IPv4Unspecified().String()
	}
	pod, err := pl.pod(cmd.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	kubectl := pl.kubectl.command(ctx, "port-forward", "--address", host, pod.Metadata.Name, fmt.Sprintf("%s:%d", port, contract.UIPort))
	kubectl.Cancel = func() error { return kubectl.Process.Signal(syscall.SIGTERM) }
	kubectl.WaitDelay = endPatience
	var said strings.Builder
	kubectl.Stderr = &said
	out, err := kubectl.StdoutPipe()
	if err != nil {
		return fmt.Errorf("running kubectl: %w", err)
	}
	if err := kubectl.Start(); err != nil {
		return explainKubectl(err)
	}
	serves := pl.tellForwarded(cmd, out, pod)
	if serves != nil {
		cancel()
	}
	_, _ = io.Copy(io.Discard, out) // a line for each connection
	err = kubectl.Wait()
	var failed *exec.ExitError
	switch {
	case cmd.Context().Err() != nil:
		return nil
	case errors.As(err, &failed) && said.Len() > 0 && (serves == nil || errors.Is(serves, errNotForwarded)):
		return &kubectlError{hideKeys(strings.TrimSpace(said.String()))}
	case serves != nil:
		return serves
	case err != nil:
		return explainKubectl(err)
	}
	return &adviceError{"kubectl stopped forwarding", "run it again"}
}

var errNotForwarded = errors.New("kubectl didn't forward the port")

// tellForwarded waits until kubectl forwards, and says where the page is, if it is there.
func (pl *plugin) tellForwarded(cmd *cobra.Command, out io.Reader, pod agentPod) error {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return errNotForwarded
		}
		match := forwarding.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		at, err := netip.ParseAddrPort(match[1])
		if err != nil {
			return fmt.Errorf("reading where kubectl listens: %w", err)
		}
		if err := pl.serves(cmd.Context(), at, pod); err != nil {
			return err
		}
		if !at.Addr().IsLoopback() {
			say(cmd.ErrOrStderr(), "whoever reaches this address can read the page: names and addresses of all nodes and pods")
		}
		return tellURL(cmd, at)
	}
}

// serves asks for the page, as an agent may have none.
func (pl *plugin) serves(ctx context.Context, at netip.AddrPort, pod agentPod) error {
	ctx, cancel := context.WithTimeout(ctx, pagePatience)
	defer cancel()
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/", nil)
	if err != nil {
		return fmt.Errorf("asking for the page: %w", err)
	}
	request.Close = true
	response, err := (&http.Transport{}).RoundTrip(request) // by no proxy
	if err == nil {
		defer response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
		err = errors.New(response.Status)
	}
	return &adviceError{fmt.Sprintf("the agent on %s serves no page on 127.0.0.1:%d (%v)", pod.Spec.NodeName, contract.UIPort, err),
		"see its flag --ui-address, and its log; on the node itself `weaveguard ui` needs its socket alone"}
}
