package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// handVersion is the version of the CNI specification that is spoken with the plugin.
	handVersion = "1.1.0"
)

// handFlags are what attach and detach have in common.
type handFlags struct {
	id, ifName, binDir string
}

func (f *handFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.id, "id", "", "name of the attachment (default that of the namespace, or pid- and the process's number)")
	cmd.Flags().StringVar(&f.ifName, "ifname", "eth0", "name of the interface in the namespace")
	cmd.Flags().StringVar(&f.binDir, "cni-bin-dir", "/opt/cni/bin", "where the plugin is")
}

// name is what the attachment of a sandbox is called (CNI spec 1.1.0, section 2: the container ID and the interface).
func (f *handFlags) name(box sandbox) (store.ID, error) {
	id := store.ID{ContainerID: f.id, IfName: f.ifName}
	if id.ContainerID == "" {
		id.ContainerID = box.id
	}
	if err := utils.ValidateContainerID(id.ContainerID); err != nil {
		return id, &adviceError{fmt.Sprintf("%q can't be the name of an attachment", id.ContainerID),
			"give it one with --id: letters, digits, _ . and -, with a letter or digit first"}
	}
	if err := utils.ValidateInterfaceName(id.IfName); err != nil {
		return id, fmt.Errorf("--ifname %q can't be an interface's name: it takes 1 to 15 characters without / : and spaces", id.IfName)
	}
	return id, nil
}

// hand attaches and detaches as a container runtime does.
type hand struct {
	binDir    string
	storeDir  string
	readyFile string
	cacheDir  string // of libcni; like all that is attached, it is gone after a reboot
}

// handOf finds the agent's files beside its socket.
func handOf(o *options, binDir string) hand {
	run := filepath.Dir(o.socket)
	if absolute, err := filepath.Abs(run); err == nil {
		run = absolute // the plugin takes no other
	}
	return hand{
		binDir: binDir, storeDir: filepath.Join(run, "cni"), readyFile: filepath.Join(run, "cni.json"), cacheDir: filepath.Join(run, "libcni"),
	}
}

// network returns the name that the plugin knows a network by, if pods can be attached to it now.
func (h hand) network(name string) (string, error) {
	ready, err := store.ReadReady(h.readyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &adviceError{fmt.Sprintf("no agent is ready on this host: there is no %s", h.readyFile),
			"start the agent (`systemctl start weaveguard`); if it runs, `weaveguard status` says what it waits for"}
	case errors.Is(err, fs.ErrPermission):
		return "", &adviceError{fmt.Sprintf("%s can't be read: permission denied", h.readyFile), rootRemedy}
	case err != nil:
		return "", err
	}
	if name == view.DefaultNetwork || name == contract.DefaultCNINetwork {
		return contract.DefaultCNINetwork, nil
	}
	if _, ok := ready.Network(name); ok {
		return name, nil
	}
	return "", &adviceError{fmt.Sprintf("this host has no network %q that can be attached to; it has %s", name, strings.Join(networksOf(h), ", ")),
		"its file belongs into " + contract.NetworksDir + "; `weaveguard status` says what is wrong with one that is there"}
}

// networksOf are the names of the networks that can be attached to now.
func networksOf(h hand) []string {
	ready, err := store.ReadReady(h.readyFile)
	if err != nil {
		return nil
	}
	names := []string{view.DefaultNetwork}
	for _, n := range ready.Networks {
		names = append(names, n.Name)
	}
	return names
}

// find returns an attachment; nil: there is none, or it can't be read, which the plugin tells.
func (h hand) find(id store.ID) *store.Attachment {
	return h.first(func(a store.Attachment) bool { return a.ID == id })
}

// in returns the attachment of an interface in a network namespace, whatever its name is, or nil.
func (h hand) in(netns, ifName string) *store.Attachment {
	return h.first(func(a store.Attachment) bool { return a.Netns == netns && a.IfName == ifName })
}

func (h hand) first(is func(store.Attachment) bool) *store.Attachment {
	all, _ := store.ListIn(h.storeDir)
	if at := slices.IndexFunc(all, is); at >= 0 {
		return &all[at]
	}
	return nil
}

// legible returns an error if there are attachments that can't be read.
func (h hand) legible() error {
	_, err := store.ListIn(h.storeDir)
	return err
}

func (h hand) add(ctx context.Context, network string, id store.ID, netns string, ips []string) (types.Result, error) {
	runtime := &libcni.RuntimeConf{ContainerID: id.ContainerID, NetNS: netns, IfName: id.IfName}
	if len(ips) > 0 {
		runtime.CapabilityArgs = map[string]any{"ips": ips}
	}
	cni, list, err := h.runtime(network)
	if err != nil {
		return nil, err
	}
	result, err := cni.AddNetworkList(ctx, list, runtime)
	if err != nil {
		return nil, inFlags(err)
	}
	return result, nil
}

func (h hand) del(ctx context.Context, a store.Attachment) error {
	cni, list, err := h.runtime(a.Network)
	if err != nil {
		return err
	}
	runtime := &libcni.RuntimeConf{ContainerID: a.ContainerID, IfName: a.IfName}
	if _, err := os.Stat(a.Netns); err == nil {
		runtime.NetNS = a.Netns
	}
	if err := cni.DelNetworkList(ctx, list, runtime); err != nil {
		return inFlags(err)
	}
	return nil
}

// runtime is what runs the plugin, with the configuration of a network that a runtime has by the agent.
func (h hand) runtime(network string) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	path := filepath.Join(h.binDir, contract.PluginType)
	if _, err := os.Stat(path); err != nil {
		return nil, nil, &adviceError{fmt.Sprintf("the CNI plugin %s isn't there: %v", path, errors.Unwrap(err)),
			"start the agent with --plugin-dir and the directory that has it, or name another place with --cni-bin-dir"}
	}
	plugin := map[string]any{"type": contract.PluginType, "capabilities": map[string]bool{"ips": true}}
	if h.storeDir != store.DefaultDir {
		plugin["dataDir"] = h.storeDir
	}
	if h.readyFile != store.DefaultReadyFile {
		plugin["readyFile"] = h.readyFile
	}
	text, err := json.Marshal(map[string]any{"cniVersion": handVersion, "name": network, "plugins": []any{plugin}})
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the plugin's configuration: %w", err)
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the plugin's configuration: %w", err)
	}
	return libcni.NewCNIConfigWithCacheDir([]string{h.binDir}, h.cacheDir, nil), list, nil
}

// inFlags is the plugin's error for who gave flags, and not the environment of a plugin.
func inFlags(err error) error {
	var said *types.Error
	if !errors.As(err, &said) {
		return fmt.Errorf("running the CNI plugin: %w", err)
	}
	text := strings.NewReplacer(
		"network configuration, key runtimeConfig.ips", "--ip", "CNI_NETNS: ", "", "CNI_IFNAME: ", "--ifname: ", "CNI_CONTAINERID", "--id",
	).Replace(said.Msg)
	if said.Details != "" {
		text += "; " + said.Details
	}
	if os.Geteuid() != 0 && (strings.Contains(text, unix.EACCES.Error()) || strings.Contains(text, unix.EPERM.Error())) {
		return &adviceError{text, rootRemedy}
	}
	return errors.New(text)
}
