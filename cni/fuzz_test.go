package cni

import (
	"path/filepath"
	"testing"
)

// FuzzParse gives any bytes as the network configuration on stdin: never a panic, and what is accepted can be used.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","name":"weaveguard","type":"weaveguard"}`,
		`{"cniVersion":"1.1.0","name":"n","type":"weaveguard","bridge":"weave","subnets":["10.32.5.0/24","fd00:5::/64"],"mtu":1420,"dataDir":"/run/weaveguard/cni"}`,
		`{"subnets":["10.32.5.1"]}`, `{"subnets":["::ffff:10.0.0.0/120","0.0.0.0/0"]}`, `{"subnets":[]}`, `{"subnets":["10.32.5.0/31","fe80::%eth0/64"]}`,
		`{"mtu":-1,"subnets":["10.32.5.0/24"]}`, `{"mtu":1e99}`, `{"bridge":"../../x","subnets":["10.32.5.0/24"]}`, `{"dataDir":"relative"}`,
		`{"ipam":{"type":"host-local"}}`, `{"prevResult":{"ips":[{"address":"x"}]}}`, `{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`,
		`[]`, `null`, ``, `{`, "\x00\xff",
	} {
		f.Add([]byte(text))
	}
	missing := filepath.Join(f.TempDir(), "cni.json")
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := parse(stdin)
		if err != nil {
			return
		}
		if !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.ReadyFile) {
			t.Errorf("the paths are %q and %q", c.DataDir, c.ReadyFile)
		}
		c.ReadyFile = missing // none of this machine's
		n, err := c.resolve()
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		if n.bridge == "" || len(n.bridge) > 15 || n.mtu < minMTU || n.mtu > maxMTU || len(n.pools) == 0 || len(n.pools) > 2 {
			t.Errorf("accepted: %+v", n)
		}
		for _, p := range n.pools {
			if !p.Subnet.Contains(p.Gateway) {
				t.Errorf("the gateway %s isn't in %s", p.Gateway, p.Subnet)
			}
		}
		n.spec()
	})
}
