package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Deadlines of the waiting methods. They are long because a busy machine is slow; nothing is
// concluded from how long something took.
const (
	apiTimeout      = 2 * time.Minute
	registerTimeout = 2 * time.Minute
	nodeTimeout     = 3 * time.Minute
	podTimeout      = 3 * time.Minute
)

// Names of the hosts that aren't nodes, for Run, Command and Address.
const (
	Fabric       = api.Fabric
	ControlPlane = api.ControlPlane
	Outside      = api.Outside
)

// AddNode boots a new node and returns its name once it is registered.
func (c *Cluster) AddNode(ctx context.Context) (string, error) {
	node, err := c.request(ctx, http.MethodPost, "/nodes")
	if err != nil {
		return "", fmt.Errorf("add a node: %w", err)
	}
	c.say("%s is started", node.Name)
	return node.Name, c.waitRegistered(ctx, node.Name)
}

// StopNode cuts a node's power: its processes, namespaces and /run are gone at once, and what it has
// in /etc, /opt, /var/lib and /var/log stays. So does its Node object.
func (c *Cluster) StopNode(ctx context.Context, node string) error {
	if _, err := c.request(ctx, http.MethodPost, "/nodes/"+node+"/stop"); err != nil {
		return fmt.Errorf("stop node %s: %w", node, err)
	}
	return nil
}

// StartNode boots a stopped node with the address that it had.
func (c *Cluster) StartNode(ctx context.Context, node string) error {
	if _, err := c.request(ctx, http.MethodPost, "/nodes/"+node+"/start"); err != nil {
		return fmt.Errorf("start node %s: %w", node, err)
	}
	return nil
}

// RemoveNode cuts a node's power, wipes its disk, and deletes its Node object.
func (c *Cluster) RemoveNode(ctx context.Context, node string) error {
	if _, err := c.request(ctx, http.MethodDelete, "/nodes/"+node); err != nil {
		return fmt.Errorf("remove node %s: %w", node, err)
	}
	err := c.client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove node %s: %w", node, err)
	}
	return nil
}

// Nodes are the names of all nodes, also of those that are stopped.
func (c *Cluster) Nodes(ctx context.Context) ([]string, error) {
	state, err := c.state(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range state.Hosts {
		if h.Node {
			names = append(names, h.Name)
		}
	}
	return names, nil
}

// Address is that of a host's eth0 on the underlay; of Outside, that in its own network. With two families it is that of
// the first.
func (c *Cluster) Address(ctx context.Context, host string) (netip.Addr, error) {
	all, err := c.Addresses(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	return all[0], nil
}

// Addresses are a host's of each family that the cluster has, as Address is.
func (c *Cluster) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	h, err := c.host(ctx, host)
	return h.Addresses, err
}

func (c *Cluster) host(ctx context.Context, name string) (api.Host, error) {
	state, err := c.state(ctx)
	if err != nil {
		return api.Host{}, err
	}
	h, ok := state.Host(name)
	if !ok {
		return h, fmt.Errorf("cluster %s has no host %q", c.Name(), name)
	}
	return h, nil
}

// WaitNodesReady waits until the nodes (with none named, all that are registered) are Ready, and
// that the taint not-ready is gone, so that pods can be scheduled.
func (c *Cluster) WaitNodesReady(ctx context.Context, names ...string) error {
	return Poll(ctx, nodeTimeout, "nodes are ready", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		nodes := map[string]corev1.Node{}
		for _, n := range list.Items {
			nodes[n.Name] = n
		}
		wanted := names
		if len(wanted) == 0 {
			for name := range nodes {
				wanted = append(wanted, name)
			}
		}
		for _, name := range wanted {
			if err := isReady(nodes[name]); err != nil {
				return fmt.Errorf("node %s: %w", name, err)
			}
		}
		return nil
	})
}

func isReady(node corev1.Node) error {
	if node.Name == "" {
		return errors.New("isn't registered")
	}
	ready := Condition(node, corev1.NodeReady)
	if ready.Status != corev1.ConditionTrue {
		return fmt.Errorf("isn't ready: %s: %s", ready.Reason, ready.Message)
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return fmt.Errorf("is tainted %s", taint.Key)
		}
	}
	return nil
}

// Condition of a node; the zero condition if it has none of that type.
func Condition(node corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, condition := range node.Status.Conditions {
		if condition.Type == kind {
			return condition
		}
	}
	return corev1.NodeCondition{}
}

// waitAPI waits until the API server is ready and pods can be created.
func (c *Cluster) waitAPI(ctx context.Context) error {
	start := time.Now()
	err := Poll(ctx, apiTimeout, "the API server is ready", func(ctx context.Context) error {
		return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return err
	}
	c.say("API server is ready, %.1f s", time.Since(start).Seconds())
	return Poll(ctx, apiTimeout, "the default service account exists", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func (c *Cluster) waitRegistered(ctx context.Context, node string) error {
	start := time.Now()
	err := Poll(ctx, registerTimeout, node+" is registered", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		return err
	})
	if err == nil {
		c.say("%s is registered, %.1f s", node, time.Since(start).Seconds())
	}
	return err
}
