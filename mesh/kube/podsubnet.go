package kube

import (
	"context"
	"fmt"
	"net/netip"
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
	var cluster struct {
		Networking struct {
			PodSubnet string `json:"podSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(object.Data[kubeadmKey]), &cluster); err != nil {
		return nil, fmt.Errorf("reading kubeadm's pod subnet: %s of the ConfigMap %s: %w", kubeadmKey, name, err)
	}
	var subnets []netip.Prefix
	for text := range strings.SplitSeq(cluster.Networking.PodSubnet, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("reading kubeadm's pod subnet: networking.podSubnet in the ConfigMap %s: %w", name, err)
		}
		subnets = append(subnets, subnet.Masked())
	}
	return subnets, nil
}
