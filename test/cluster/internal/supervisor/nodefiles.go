package supervisor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

// PauseImage is what every pod's sandbox runs.
const PauseImage = "weaveguard.test/pause:dev"

// dnsPlace in the range of ClusterIPs is where kubeadm puts the cluster's DNS. Nothing listens there.
const dnsPlace = 10

// writeNodeFiles writes the configuration of a node's services and issues its certificate.
func (s *Supervisor) writeNodeFiles(info api.Host) error {
	user := "system:node:" + info.Name
	if err := s.ca.Client(info.Name, user, "system:nodes"); err != nil {
		return err
	}
	dir := s.disk(info.Name, "kubernetes")
	if err := s.ca.Kubeconfig(filepath.Join(dir, "kubelet.kubeconfig"), s.apiServerURL(), info.Name); err != nil {
		return err
	}
	if err := s.ca.Kubeconfig(filepath.Join(dir, "kube-proxy.kubeconfig"), s.apiServerURL(), "kube-proxy"); err != nil {
		return err
	}
	files := map[string]string{
		"containerd.toml": s.containerdConfig(),
		"kubelet.yaml":    s.kubeletConfig(),
		"kube-proxy.yaml": s.kubeProxyConfig(dir),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("configure node %s: %w", info.Name, err)
		}
	}
	return nil
}

func (s *Supervisor) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # runc may not lower its score without CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, PauseImage, snapshotter(s.dir))
}

// kubeletConfig turns off what needs a node of its own: the kubelet shares disk and memory with
// other nodes, so it never evicts, and has no say about cgroups outside its pods.
func (s *Supervisor) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %s}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
resolvConf: ""
clusterDNS: [%s]
clusterDomain: cluster.local
address: %q
volumePluginDir: /var/lib/kubelet/volume-plugins
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%"}
`, s.ca.Path("ca.crt"), address(s.spec.ServiceCIDRs[0], dnsPlace), listenAt(s.spec.Underlay[0]))
}

// listenAt is where a kubelet listens, as kubeadm has it: at all addresses of its family, or with IPv6 of both.
func listenAt(primary netip.Prefix) string {
	if primary.Addr().Is6() {
		return "::"
	}
	return "0.0.0.0"
}

// kubeProxyConfig leaves the connection tracker's limits alone: they are the whole machine's.
func (s *Supervisor) kubeProxyConfig(dir string) string {
	local := ""
	if len(s.spec.PodCIDRs) > 0 {
		local = "clusterCIDR: " + list(s.spec.PodCIDRs) + "\n"
	}
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
mode: iptables
%sconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, filepath.Join(dir, "kube-proxy.kubeconfig"), local)
}
