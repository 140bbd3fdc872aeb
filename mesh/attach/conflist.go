package attach

import (
	"encoding/json"
	"fmt"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

const (
	// ConflistName is the file of our network configuration. Runtimes take the first of the directory.
	ConflistName = contract.ConflistName
	// NetworkName is the name of the default network for the container runtime.
	NetworkName = contract.DefaultCNINetwork

	plugin        = "weaveguard"
	portmapPlugin = "weaveguard-portmap"
)

// conflist is a network configuration list (CNI spec 1.1.0, section 1). A libcni before 1.3 knows no cniVersions and
// takes cniVersion, which is why that one is the newest that containerd 1.6 knows.
type conflist struct {
	CNIVersion  string   `json:"cniVersion"`
	CNIVersions []string `json:"cniVersions"`
	Name        string   `json:"name"`
	Plugins     []any    `json:"plugins"`
}

// mainPlugin names the paths of the plugin where they aren't what it takes by itself. By its capabilities a runtime knows
// that it may ask for addresses and a MAC.
type mainPlugin struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	DataDir      string          `json:"dataDir,omitempty"`
	ReadyFile    string          `json:"readyFile,omitempty"`
}

// portmap is the configuration of containernetworking's portmap plugin. SNAT lets a pod reach its own host port.
type portmap struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	SNAT         bool            `json:"snat"`
}

func (a *Attach) conflist() ([]byte, error) {
	main := mainPlugin{Type: plugin, Capabilities: map[string]bool{"ips": true, "mac": true}}
	if a.cfg.StoreDir != store.DefaultDir {
		main.DataDir = a.cfg.StoreDir
	}
	if a.cfg.ReadyFile != store.DefaultReadyFile {
		main.ReadyFile = a.cfg.ReadyFile
	}
	b, err := json.MarshalIndent(conflist{
		CNIVersion:  "1.0.0",
		CNIVersions: []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"},
		Name:        NetworkName,
		Plugins: []any{
			main,
			portmap{Type: portmapPlugin, Capabilities: map[string]bool{"portMappings": true}, SNAT: true},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the network configuration: %w", err)
	}
	return append(b, '\n'), nil
}
