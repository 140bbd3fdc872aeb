package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/test/lab"
)

// DelegateHelper is the name by which tests give Delegate to lab.Main.
const DelegateHelper = "delegate"

const (
	cniConfDir = "/etc/cni/net.d"
	cniBinDir  = "/opt/cni/bin"
	cniCache   = "/run/libcni"
)

// Delegate is a helper that calls plugins as a meta plugin such as Multus does, by libcni: ADD, CHECK or DEL of one interface
// of a sandbox, by the configuration on stdin, or without one by the node's first conflist. It prints the result of ADD.
func Delegate(args []string) int {
	config, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = delegate(args[0], &libcni.RuntimeConf{ContainerID: args[1], NetNS: args[2], IfName: args[3]}, config)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func delegate(verb string, rc *libcni.RuntimeConf, config []byte) error {
	ctx := context.Background()
	cni := libcni.NewCNIConfigWithCacheDir([]string{cniBinDir}, cniCache, nil)
	var result types.Result
	var err error
	if len(config) == 0 {
		result, err = withList(ctx, cni, verb, rc)
	} else {
		result, err = withConfig(ctx, cni, verb, rc, config)
	}
	if err != nil || result == nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func withList(ctx context.Context, cni *libcni.CNIConfig, verb string, rc *libcni.RuntimeConf) (types.Result, error) {
	files, err := libcni.ConfFiles(cniConfDir, []string{".conflist"})
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no conflist in %s: %w", cniConfDir, err)
	}
	list, err := libcni.ConfListFromFile(files[0])
	if err != nil {
		return nil, err
	}
	switch verb {
	case "ADD":
		return cni.AddNetworkList(ctx, list, rc)
	case "CHECK":
		return nil, cni.CheckNetworkList(ctx, list, rc)
	}
	return nil, cni.DelNetworkList(ctx, list, rc)
}

func withConfig(ctx context.Context, cni *libcni.CNIConfig, verb string, rc *libcni.RuntimeConf, config []byte) (types.Result, error) {
	conf, err := libcni.NetworkPluginConfFromBytes(config)
	if err != nil {
		return nil, err
	}
	switch verb {
	case "ADD":
		return cni.AddNetwork(ctx, conf, rc)
	case "CHECK":
		return nil, cni.CheckNetwork(ctx, conf, rc)
	}
	return nil, cni.DelNetwork(ctx, conf, rc)
}

// Delegate calls the plugins for an interface of the pod as a meta plugin does, by the configuration of a network, or with ""
// by the node's conflist. It returns the addresses of the interface that ADD made.
func (p *Pod) Delegate(ctx context.Context, verb, ifName, config string) ([]netip.Addr, error) {
	out, err := p.node.RunCommand(ctx, lab.Command{
		Helper: DelegateHelper, Args: []string{verb, p.ID, p.Path, ifName}, Stdin: strings.NewReader(config),
	})
	p.node.mesh.secrets.keep("the plugin on "+p.node.Name, fmt.Sprint(out, err))
	var addresses []netip.Addr
	if err == nil && verb == "ADD" {
		addresses, err = addressesIn(out)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s of pod %s on %s: %w\n%s", verb, ifName, p.Name, p.node.Name, err, out)
	}
	return addresses, nil
}
