package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/ui"
)

// fakeKubectl is kubectl and an API server with one Secret, in secret.json. It patches that by resource version alone,
// and appends its command lines to kubectl.log. It fails with what is in $KUBECTL_FAILS, and with $KUBECTL_RACES
// somebody changes the Secret after each time that it is read. It lists the pods that are in pods.json, and runs
// commands in them: here, with the pod's name and .sock as the agent's socket, and .log as its log. It runs its plugins, too.
func fakeKubectl() {
	err := kubectlOn("secret.json", os.Args[1:], os.Stdin, os.Stdout)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if os.Args[1] != "weaveguard" {
			fmt.Fprintf(os.Stderr, "command terminated with exit code %d\n", exit.ExitCode())
		}
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// inPod runs a command in a pod that is in pods.json.
func inPod(pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	pods, err := os.ReadFile("pods.json")
	if err != nil {
		return err
	}
	if !bytes.Contains(pods, []byte(`"name": "`+pod+`"`)) {
		return fmt.Errorf("Error from server (NotFound): pods %q not found", pod)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), socketEnv+"="+pod+".sock", "COLUMNS=") // a container has an environment of its own
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	return cmd.Run()
}

func kubectlOn(path string, args []string, stdin io.Reader, stdout io.Writer) error {
	log, err := os.OpenFile("kubectl.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	line := strings.Join(args, " ")
	if _, err := fmt.Fprintln(log, line); err != nil {
		return err
	}
	if fails := os.Getenv("KUBECTL_FAILS"); fails != "" {
		return fmt.Errorf("%s", fails)
	}
	switch {
	case args[0] == "weaveguard":
		plugin := exec.Command(pluginName, args[1:]...)
		plugin.Stdin, plugin.Stdout, plugin.Stderr = stdin, stdout, os.Stderr
		return plugin.Run()
	case strings.Contains(line, " secret "):
		return secretOn(path, line, stdin, stdout)
	case slices.Contains(args, "exec"):
		return execOn(args[slices.Index(args, "exec")+1:], stdin, stdout)
	case slices.Contains(args, "port-forward"):
		return forwardOn(args[slices.Index(args, "port-forward")+1:], stdout)
	case slices.Contains(args, "logs"):
		return printFile(args[slices.Index(args, "logs")+1]+".log", stdout)
	case strings.HasSuffix(line, "get pods --selector app.kubernetes.io/name=weaveguard,app.kubernetes.io/component=agent --output json"):
		return printFile("pods.json", stdout)
	}
	return fmt.Errorf("error: unknown command %q", line)
}

func printFile(path string, out io.Writer) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// execOn runs what stands after kubectl exec.
func execOn(args []string, stdin io.Reader, stdout io.Writer) error {
	end := slices.Index(args, "--")
	switch flags := strings.Join(args[1:end], " "); flags {
	case "--container weave":
		stdin = strings.NewReader("")
	case "--container weave --stdin":
	default:
		return fmt.Errorf("error: unknown container in %q", flags)
	}
	return inPod(args[0], args[end+1:], stdin, stdout)
}

// forwardOn does what stands after kubectl port-forward, until it is ended: what is forwarded to serves the page of the agent
// whose socket is the pod's name and .sock. With $KUBECTL_CUTS nothing is there, and it ends as kubectl does.
func forwardOn(args []string, stdout io.Writer) error {
	if len(args) != 4 || args[0] != "--address" || !strings.HasSuffix(args[3], ":6786") {
		return fmt.Errorf("error: unknown flags %q", args)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(args[1], strings.TrimSuffix(args[3], ":6786")))
	if err != nil {
		return fmt.Errorf("Unable to listen on port %s: %w\nerror: unable to listen on any of the requested ports", args[3], err)
	}
	if _, err := fmt.Fprintf(stdout, "Forwarding from %s -> 6786\n", listener.Addr()); err != nil {
		return err
	}
	if os.Getenv("KUBECTL_CUTS") != "" {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		return errors.Join(conn.Close(), errors.New("error: lost connection to pod"))
	}
	client := api.Client{Socket: args[2] + ".sock"}
	return http.Serve(listener, ui.New(ui.Sources{Status: client.Status, Topology: client.Topology}, "127.0.0.1:6786"))
}

// secretOn reads or patches the Secret.
func secretOn(path, line string, stdin io.Reader, stdout io.Writer) error {
	has, err := os.ReadFile(path)
	switch {
	case strings.HasSuffix(line, "get secret weaveguard-gossip --ignore-not-found --output json"):
		if err != nil {
			return nil
		}
		if _, err := stdout.Write(has); err != nil {
			return err
		}
		if os.Getenv("KUBECTL_RACES") != "" {
			return writeSecret(path, has)
		}
		return nil
	case strings.HasSuffix(line, "patch secret weaveguard-gossip --type merge --patch-file /dev/stdin"):
		patch, err := io.ReadAll(stdin)
		if err != nil {
			return err
		}
		if versionOf(patch) != versionOf(has) {
			return fmt.Errorf("Error from server (Conflict): Operation cannot be fulfilled on secrets \"weaveguard-gossip\": the object " +
				"has been modified; please apply your changes to the latest version and try again")
		}
		merged, err := merge(has, patch)
		if err != nil {
			return err
		}
		return writeSecret(path, merged)
	}
	return fmt.Errorf("error: unknown command %q", line)
}

// merge sets the Secret's data that the patch has, and leaves the rest.
func merge(has, patch []byte) ([]byte, error) {
	var secret map[string]any
	var change struct{ Data map[string]string }
	if err := errors.Join(json.Unmarshal(has, &secret), json.Unmarshal(patch, &change)); err != nil {
		return nil, err
	}
	data, _ := secret["data"].(map[string]any)
	if data == nil {
		data = map[string]any{}
	}
	for name, value := range change.Data {
		data[name] = value
	}
	secret["data"] = data
	return json.Marshal(secret)
}

func versionOf(raw []byte) string {
	var secret struct {
		Metadata struct{ ResourceVersion string }
	}
	_ = json.Unmarshal(raw, &secret) // then there is none
	return secret.Metadata.ResourceVersion
}

// writeSecret writes the Secret with the next resource version.
func writeSecret(path string, raw []byte) error {
	var secret map[string]any
	if err := json.Unmarshal(raw, &secret); err != nil {
		return err
	}
	version, err := strconv.Atoi(versionOf(raw))
	if err != nil {
		return err
	}
	secret["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(version + 1)
	raw, err = json.MarshalIndent(secret, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o600)
}
