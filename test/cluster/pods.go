package cluster

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod says what RunPod creates, in the namespace default.
type Pod struct {
	Name string
	// Node that it runs on, whatever taints that has. Empty: the scheduler chooses.
	Node string
	// Image that the nodes have; the default is ProbeImage.
	Image string
	// Args of the image's entry point; those of ProbeImage are "serve" by default.
	Args        []string
	Labels      map[string]string
	HostNetwork bool
}

// RunPod creates a pod of one container and doesn't wait for it.
func (c *Cluster) RunPod(ctx context.Context, pod Pod) error {
	if pod.Image == "" {
		pod.Image = ProbeImage
	}
	grace := int64(0)
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Labels: pod.Labels},
		Spec: corev1.PodSpec{
			NodeName:                      pod.Node,
			HostNetwork:                   pod.HostNetwork,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: pod.Image, Args: pod.Args, ImagePullPolicy: corev1.PullNever,
			}},
		},
	}
	if pod.Node != "" {
		object.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	if _, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("run pod %s: %w", pod.Name, err)
	}
	return nil
}

// WaitPodReady waits until a pod of the namespace default is ready.
func (c *Cluster) WaitPodReady(ctx context.Context, name string) error {
	return Poll(ctx, podTimeout, "pod "+name+" is ready", func(ctx context.Context) error {
		pod, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is %s%s", pod.Status.Phase, c.lastEvent(ctx, pod))
	})
}

// lastEvent says why a pod isn't ready, if anybody said so.
func (c *Cluster) lastEvent(ctx context.Context, pod *corev1.Pod) string {
	events, err := c.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + string(pod.UID),
	})
	if err != nil || len(events.Items) == 0 {
		return ""
	}
	last := events.Items[0]
	for _, e := range events.Items[1:] {
		if e.LastTimestamp.After(last.LastTimestamp.Time) {
			last = e
		}
	}
	return fmt.Sprintf(": %s: %s", last.Reason, last.Message)
}

// DeletePod deletes a pod of the namespace default and waits until it is gone.
func (c *Cluster) DeletePod(ctx context.Context, name string) error {
	_, err := c.Kubectl(ctx, "delete", "pod", name, "--wait", "--timeout="+podTimeout.String())
	return err
}

// PodIP is the address of a pod of the namespace default: the first, if it has two.
func (c *Cluster) PodIP(ctx context.Context, name string) (netip.Addr, error) {
	all, err := c.PodIPs(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	return all[0], nil
}

// PodIPs are the addresses of a pod of the namespace default, of each family that pods have: at least one.
func (c *Cluster) PodIPs(ctx context.Context, name string) ([]netip.Addr, error) {
	pod, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find the addresses of pod %s: %w", name, err)
	}
	if len(pod.Status.PodIPs) == 0 {
		return nil, fmt.Errorf("find the addresses of pod %s: it has none yet", name)
	}
	var all []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		address, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, fmt.Errorf("find the addresses of pod %s: %w", name, err)
		}
		all = append(all, address)
	}
	return all, nil
}

// Exec runs a command in a pod of the namespace default and returns its standard output.
func (c *Cluster) Exec(ctx context.Context, pod string, command ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"exec", pod, "--"}, command...)...)
}

// Service says what Expose creates, in the namespace default. It has a ClusterIP of each family that the cluster has.
type Service struct {
	Name     string
	Selector map[string]string
	// Ports by protocol, e.g. corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8080)}. Empty
	// for the probe's three: http (TCP 8080), bulk (TCP 9000) and echo (UDP 9001).
	Ports []corev1.ServicePort
	// NodePort: reachable on every node as well.
	NodePort bool
}

// Expose creates a Service and returns it as the API server filled it in: ClusterIP, NodePorts.
func (c *Cluster) Expose(ctx context.Context, service Service) (*corev1.Service, error) {
	if len(service.Ports) == 0 {
		service.Ports = []corev1.ServicePort{
			{Name: "http", Port: 8080, TargetPort: intstr.FromInt32(8080)},
			{Name: "bulk", Port: 9000, TargetPort: intstr.FromInt32(9000)},
			{Name: "echo", Port: 9001, TargetPort: intstr.FromInt32(9001), Protocol: corev1.ProtocolUDP},
		}
	}
	families := corev1.IPFamilyPolicyPreferDualStack
	object := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service.Name},
		Spec:       corev1.ServiceSpec{Selector: service.Selector, Ports: service.Ports, IPFamilyPolicy: &families},
	}
	if service.NodePort {
		object.Spec.Type = corev1.ServiceTypeNodePort
	}
	created, err := c.client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("expose service %s: %w", service.Name, err)
	}
	return created, nil
}
