package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// serviceAccountDir is where the kubelet puts a pod's token and the cluster's certificate authority.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// identity is the status of a SelfSubjectReview of authentication.k8s.io/v1.
type identity struct {
	UserInfo struct {
		Username string              `json:"username"`
		Groups   []string            `json:"groups"`
		Extra    map[string][]string `json:"extra"`
	} `json:"userInfo"`
}

func whoamiCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "whoami", Short: "Ask the API server, from within a pod, who the pod's service account is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return report(cmd.Context(), timeout, func(ctx context.Context) (any, error) { return whoami(ctx) })
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "give up after this time")
	return cmd
}

// whoami reaches the API server as in-cluster clients do: by the ClusterIP in the environment, with
// the mounted token, and trusting the mounted authority only.
func whoami(ctx context.Context) (identity, error) {
	var review struct {
		Status identity `json:"status"`
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return review.Status, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT aren't set: run this in a pod")
	}
	token, err := os.ReadFile(filepath.Join(serviceAccountDir, "token"))
	if err != nil {
		return review.Status, fmt.Errorf("read the service account's token: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(serviceAccountDir, "ca.crt"))
	if err != nil {
		return review.Status, fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return review.Status, errors.New("read the cluster's certificate authority: no certificate in ca.crt")
	}
	url := "https://" + net.JoinHostPort(host, port) + "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	body := []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return review.Status, fmt.Errorf("ask who I am: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+string(token))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	response, err := client.Do(request)
	if err != nil {
		return review.Status, err // says method and URL itself
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return review.Status, fmt.Errorf("ask who I am: %w", err)
	}
	if response.StatusCode != http.StatusCreated {
		return review.Status, fmt.Errorf("ask who I am: %s: %s", response.Status, answer)
	}
	if err := json.Unmarshal(answer, &review); err != nil {
		return review.Status, fmt.Errorf("ask who I am: %w", err)
	}
	return review.Status, nil
}
