package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Where kubeadm keeps what the cluster was made with.
const (
	kubeadmNamespace = "kube-system"
	kubeadmConfigMap = "kubeadm-config"
	kubeadmKey       = "ClusterConfiguration"
)

// PodSubnet returns kubeadm's podSubnet (ClusterConfiguration, networking.podSubnet): what all pods have addresses
// from, masked, in kubeadm's order. In a cluster that kubeadm didn't make, or made without one, there is none, and no
// error; nor when the agent isn't allowed to look.
func (k *Kube) PodSubnet(ctx context.Context) ([]netip.Prefix, error) {
	name := kubeadmNamespace + "/" + kubeadmConfigMap
	object, err := k.config.Client.CoreV1().ConfigMaps(kubeadmNamespace).Get(ctx, kubeadmConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading kubeadm's pod subnet from the ConfigMap %s: %w", name, err)
	}
	subnets, err := readPodSubnet(object.Data[kubeadmKey])
	if err != nil {
		return nil, fmt.Errorf("reading kubeadm's pod subnet: %s in the ConfigMap %s: %w", kubeadmKey, name, err)
	}
	return subnets, nil
}

// readPodSubnet returns the podSubnet of a ClusterConfiguration: at most one range of each family, as kubeadm has it.
func readPodSubnet(clusterConfiguration string) ([]netip.Prefix, error) {
	var cluster struct {
		Networking struct {
			PodSubnet string `json:"podSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(clusterConfiguration), &cluster); err != nil {
		// A key that is made of aliases is printed in full, which is thousands of times what is in the file.
		return nil, fmt.Errorf("it can't be read: %.200s", err.Error())
	}
	unusable := func(subnet, why string) error {
		return fmt.Errorf("networking.podSubnet: %.60q isn't used: %s", subnet, why)
	}
	var subnets []netip.Prefix
	for text := range strings.SplitSeq(cluster.Networking.PodSubnet, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		subnet, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return nil, unusable(text, "it must be an address and a length, as in 10.32.0.0/12")
		case subnet.Addr().Is4In6():
			return nil, unusable(text, "write it as IPv4")
		case subnet.Bits() == 0:
			return nil, unusable(text, "it is all addresses that there are")
		case slices.ContainsFunc(subnets, func(o netip.Prefix) bool { return sameFamily(o.Addr(), subnet.Addr()) }):
			return nil, unusable(text, "it is the second of its family")
		}
		subnets = append(subnets, subnet.Masked())
	}
	return subnets, nil
}
