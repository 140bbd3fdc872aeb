package kube

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

const (
	// An agent asks seldom. These bound what a fault in it can cost the API server.
	clientQPS   = 10
	clientBurst = 20

	protobuf = "application/vnd.kubernetes.protobuf"
)

// Clients makes the clients that Config wants. Without a kubeconfig file they use the pod's service account, and the
// API server at KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT. Version is in the user agent.
func Clients(kubeconfig, version string) (kubernetes.Interface, metadata.Interface, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "weaveguard-agent/" + version
	config.QPS, config.Burst = clientQPS, clientBurst
	config.WarningHandlerWithContext = rest.NoWarnings{}
	followToken(config)
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("making the Kubernetes metadata client: %w", err)
	}
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + ",application/json"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}
	return client, meta, nil
}

// followToken has the token's file read again as soon as the API server refuses the token, as well as each minute, which
// is all that client-go does by itself.
func followToken(config *rest.Config) {
	if config.BearerTokenFile == "" || !rest.IsConfigTransportTLS(*config) {
		return
	}
	config.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(config.BearerTokenFile)))
	config.BearerToken, config.BearerTokenFile = "", ""
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the Kubernetes API: %w: outside of a pod, name a kubeconfig file", err)
	}
	return config, nil
}
