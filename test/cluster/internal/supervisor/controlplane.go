package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/pki"
)

// issueCertificates makes what the control plane needs; each node gets its own when it is added.
func (s *Supervisor) issueCertificates() (*pki.Authority, error) {
	ca, err := pki.New(filepath.Join(s.dir, api.PKIDir))
	if err != nil {
		return nil, err
	}
	names := []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
	}
	at := append(addresses(s.spec.Underlay, controlPlanePlace), netip.AddrFrom4([4]byte{127, 0, 0, 1}), address(s.spec.ServiceCIDRs[0], 1))
	if err := ca.Server("apiserver", names, at); err != nil {
		return nil, err
	}
	if err := ca.KeyPair("service-accounts"); err != nil {
		return nil, err
	}
	clients := []struct{ name, user, group string }{
		{"admin", "admin", "system:masters"},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	}
	for _, c := range clients {
		var groups []string
		if c.group != "" {
			groups = append(groups, c.group)
		}
		if err := ca.Client(c.name, c.user, groups...); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// startControlPlane boots the host that runs etcd, the API server, the controller manager and the
// scheduler. It is no node.
func (s *Supervisor) startControlPlane(ctx context.Context) error {
	info := api.Host{Name: api.ControlPlane, Addresses: addresses(s.spec.Underlay, controlPlanePlace)}
	kubeconfigs := map[string]string{}
	for _, name := range []string{"controller-manager", "scheduler"} {
		kubeconfigs[name] = s.ca.Path(name + ".kubeconfig")
		if err := s.ca.Kubeconfig(kubeconfigs[name], s.apiServerURL(), name); err != nil {
			return err
		}
	}
	etcd := filepath.Join(s.dir, api.DiskDir, info.Name, "etcd")
	if err := os.MkdirAll(etcd, 0o700); err != nil {
		return fmt.Errorf("make the control plane's disk: %w", err)
	}
	services := []api.Service{
		{Name: "etcd", Args: []string{
			s.program("etcd"), "--data-dir=" + etcd, "--unsafe-no-fsync",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn",
		}},
		{Name: "kube-apiserver", Args: s.apiServer(info.Addresses[0])},
		{Name: "kube-controller-manager", Args: s.controllerManager(kubeconfigs["controller-manager"])},
		{Name: "kube-scheduler", Args: []string{
			s.program("kube-scheduler"), "--kubeconfig=" + kubeconfigs["scheduler"],
			"--leader-elect=false", "--bind-address=127.0.0.1",
		}},
	}
	for i := range services {
		services[i].Log = api.HostLog(s.dir, info.Name, services[i].Name)
	}
	return s.boot(ctx, info, api.HostSpec{Name: info.Name, Services: services}, s.onUnderlay(info))
}

func (s *Supervisor) apiServer(own netip.Addr) []string {
	return []string{
		s.program("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + own.String(),
		"--bind-address=::", // both families
		"--secure-port=" + apiServerPort,
		"--tls-cert-file=" + s.ca.Path("apiserver.crt"),
		"--tls-private-key-file=" + s.ca.Path("apiserver.key"),
		"--client-ca-file=" + s.ca.Path("ca.crt"),
		"--kubelet-client-certificate=" + s.ca.Path("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + s.ca.Path("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range=" + list(s.spec.ServiceCIDRs),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + s.ca.Path("service-accounts.pub"),
		"--service-account-signing-key-file=" + s.ca.Path("service-accounts.key"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", // as kubeadm does, beside the default ones
		"--allow-privileged=true",
	}
}

func (s *Supervisor) controllerManager(kubeconfig string) []string {
	args := []string{
		s.program("kube-controller-manager"),
		"--kubeconfig=" + kubeconfig,
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + s.ca.Path("ca.crt"),
		"--service-account-private-key-file=" + s.ca.Path("service-accounts.key"),
		"--cluster-signing-cert-file=" + s.ca.Path("ca.crt"),
		"--cluster-signing-key-file=" + s.ca.Path("ca.key"),
		"--service-cluster-ip-range=" + list(s.spec.ServiceCIDRs),
		// The default is made in the machine's /usr.
		"--flex-volume-plugin-dir=" + filepath.Join(s.dir, api.DiskDir, api.ControlPlane, "volume-plugins"),
		// With the default 20 a second it needs 5 seconds to get going.
		"--kube-api-qps=200", "--kube-api-burst=400",
	}
	if len(s.spec.PodCIDRs) > 0 {
		args = append(args, "--allocate-node-cidrs=true", "--cluster-cidr="+list(s.spec.PodCIDRs))
	}
	return args
}

func (s *Supervisor) apiServerURL() string {
	at := netip.AddrPortFrom(address(s.spec.Underlay[0], controlPlanePlace), 6443)
	return "https://" + at.String()
}

func (s *Supervisor) program(name string) string { return filepath.Join(s.spec.Programs, name) }
