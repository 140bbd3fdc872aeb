// Package deploy_test checks the manifest against what the project promises, and against what the agent does.
package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

const image = "ghcr.io/weaveguard/weaveguard:v0.1.0"

// readManifest decodes the manifest as an API server that refuses unknown and duplicate fields does. The keys are
// "Kind namespace/name".
func readManifest(t *testing.T) map[string]runtime.Object {
	t.Helper()
	raw, err := os.ReadFile("weaveguard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	objects := map[string]runtime.Object{}
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(document), "kind:") {
			continue // the comment at the top
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		accessor, err := meta.Accessor(object)
		if err != nil {
			t.Fatal(err)
		}
		key := kind.Kind + " " + accessor.GetNamespace() + "/" + accessor.GetName()
		if objects[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		objects[key] = object
		if accessor.GetLabels()["app.kubernetes.io/name"] != "weaveguard" {
			t.Errorf("%s lacks the label app.kubernetes.io/name", key)
		}
	}
}

func get[T runtime.Object](t *testing.T, objects map[string]runtime.Object, key string) T {
	t.Helper()
	object, ok := objects[key].(T)
	if !ok {
		t.Fatalf("the manifest has no %s", key)
	}
	return object
}

func TestManifestHasJustTheseObjects(t *testing.T) {
	var got []string
	for key := range readManifest(t) {
		got = append(got, key)
	}
	slices.Sort(got)
	want := []string{
		"ClusterRole /weaveguard",
		"ClusterRoleBinding /weaveguard",
		"DaemonSet kube-system/weaveguard",
		"DaemonSet kube-system/weaveguard-userspace",
		"Namespace /weaveguard",
		"Role default/weaveguard-events",
		"Role kube-system/weaveguard",
		"Role weaveguard/weaveguard-claims",
		"RoleBinding default/weaveguard-events",
		"RoleBinding kube-system/weaveguard",
		"RoleBinding weaveguard/weaveguard-claims",
		"Secret kube-system/weaveguard-gossip",
		"ServiceAccount kube-system/weaveguard",
		"ValidatingAdmissionPolicy /weaveguard-claims",
		"ValidatingAdmissionPolicy /weaveguard-leases",
		"ValidatingAdmissionPolicy /weaveguard-nodes",
		"ValidatingAdmissionPolicyBinding /weaveguard-claims",
		"ValidatingAdmissionPolicyBinding /weaveguard-leases",
		"ValidatingAdmissionPolicyBinding /weaveguard-nodes",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// With data, even an empty value, each `kubectl apply` would reset the key that the agents put.
func TestSecretHasNoData(t *testing.T) {
	secret := get[*corev1.Secret](t, readManifest(t), "Secret kube-system/"+kube.SecretName)
	if secret.Data != nil || secret.StringData != nil {
		t.Error("the Secret has data")
	}
}

func TestDaemonSets(t *testing.T) {
	objects := readManifest(t)
	for name, want := range map[string]struct {
		update       appsv1.DaemonSetUpdateStrategyType
		args         []string
		capabilities []corev1.Capability
		hostPaths    []string
		account      string
	}{
		"weaveguard": {
			update:       appsv1.RollingUpdateDaemonSetStrategyType,
			args:         []string{"--kubernetes", "--sysctl-root=/host/proc/sys"},
			capabilities: []corev1.Capability{"NET_ADMIN", "DAC_OVERRIDE"},
			hostPaths: []string{contract.RunDir, contract.StateDir, contract.NetworksDir, "/etc/cni/net.d", "/opt/cni/bin", "/var/run/wireguard",
				"/proc/sys/net"},
			account: "weaveguard",
		},
		"weaveguard-userspace": {
			update:       appsv1.OnDeleteDaemonSetStrategyType,
			args:         []string{"userspace"},
			capabilities: []corev1.Capability{"NET_ADMIN"},
			hostPaths:    []string{contract.RunDir, "/var/run/wireguard", "/dev/net"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := get[*appsv1.DaemonSet](t, objects, "DaemonSet kube-system/"+name)
			pod := set.Spec.Template.Spec
			if set.Spec.UpdateStrategy.Type != want.update {
				t.Errorf("updateStrategy %s, want %s", set.Spec.UpdateStrategy.Type, want.update)
			}
			for key, value := range set.Spec.Selector.MatchLabels {
				if set.Spec.Template.Labels[key] != value {
					t.Errorf("the selector %s=%s doesn't match the template", key, value)
				}
			}
			if !pod.HostNetwork || pod.PriorityClassName != "system-node-critical" || pod.HostPID || pod.HostIPC {
				t.Errorf("hostNetwork %t, priorityClassName %q", pod.HostNetwork, pod.PriorityClassName)
			}
			if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations); diff != "" {
				t.Errorf("tolerations (-want +got):\n%s", diff)
			}
			if pod.ServiceAccountName != want.account {
				t.Errorf("service account %q, want %q", pod.ServiceAccountName, want.account)
			}
			if want.account == "" && (pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken) {
				t.Error("it gets a token that it doesn't need")
			}
			if p := pod.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("seccomp profile %v", p)
			}
			if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
				t.Fatal("not just one container")
			}
			checkContainer(t, pod.Containers[0], want.args, want.capabilities)
			checkVolumes(t, pod, want.hostPaths)
		})
	}
}

func checkContainer(t *testing.T, c corev1.Container, args []string, capabilities []corev1.Capability) {
	t.Helper()
	if c.Name != "weave" || c.Image != image || c.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("container %s, image %s, %s", c.Name, c.Image, c.ImagePullPolicy)
	}
	if diff := cmp.Diff([]string{"/weaveguard-agent"}, c.Command); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(args, c.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	if !slices.Contains(c.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: "192MiB"}) {
		t.Errorf("its memory isn't bounded: %v", c.Env)
	}
	if len(c.Resources.Requests) != 2 || len(c.Resources.Limits) != 0 {
		t.Errorf("resources: %v", c.Resources)
	}
	s := c.SecurityContext
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem {
		t.Errorf("privileged %t, may escalate %t, read-only root %t", *s.Privileged, *s.AllowPrivilegeEscalation,
			*s.ReadOnlyRootFilesystem)
	}
	if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities}, s.Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
}

// checkVolumes wants just these directories of the host, all mounted, at the same path or under /host.
func checkVolumes(t *testing.T, pod corev1.PodSpec, hostPaths []string) {
	t.Helper()
	at := map[string]string{}
	for _, mount := range pod.Containers[0].VolumeMounts {
		at[mount.Name] = mount.MountPath
	}
	var got []string
	for _, volume := range pod.Volumes {
		if volume.HostPath == nil {
			t.Fatalf("the volume %s isn't a hostPath", volume.Name)
		}
		path := volume.HostPath.Path
		got = append(got, path)
		if to := at[volume.Name]; to != path && to != "/host"+path {
			t.Errorf("%s is mounted at %q", path, to)
		}
		delete(at, volume.Name)
	}
	if diff := cmp.Diff(hostPaths, got); diff != "" {
		t.Errorf("hostPaths (-want +got):\n%s", diff)
	}
	if len(at) != 0 {
		t.Errorf("mounted, but not there: %v", at)
	}
}

func TestAgentsPortsProbesAndName(t *testing.T) {
	set := get[*appsv1.DaemonSet](t, readManifest(t), "DaemonSet kube-system/weaveguard")
	c := set.Spec.Template.Spec.Containers[0]
	var ports []int32
	for _, port := range c.Ports {
		ports = append(ports, port.ContainerPort)
	}
	if diff := cmp.Diff([]int32{contract.GossipPort, contract.GossipPort, contract.MetricsPort}, ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	for path, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if get := probe.HTTPGet; get.Path != path || get.Host != "127.0.0.1" || get.Port.IntValue() != contract.HealthPort {
			t.Errorf("probe of %s: %+v", path, get)
		}
	}
	if len(c.Env) != 2 || c.Env[0].Name != "NODE_NAME" || c.Env[0].ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
		t.Errorf("env: %v", c.Env)
	}
}

// The options in comments must be right when somebody takes the # away.
func TestManifestOptions(t *testing.T) {
	raw, err := os.ReadFile("weaveguard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, option := range []string{"- --pod-range=10.32.0.0/12", "- --mtu=1380", "- name: KUBERNETES_SERVICE_HOST",
		"  value: 192.0.2.10", "- name: KUBERNETES_SERVICE_PORT", `  value: "6443"`} {
		if !strings.Contains(text, "        # "+option+"\n") {
			t.Errorf("no option %q", option)
		}
		text = strings.Replace(text, "        # "+option+"\n", "        "+option+"\n", 1)
	}
	start := strings.Index(text, "apiVersion: apps/v1")
	document := text[start : start+strings.Index(text[start:], "\n---")]
	object, _, err := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer().
		Decode([]byte(document), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := object.(*appsv1.DaemonSet).Spec.Template.Spec.Containers[0]
	if len(c.Args) != 4 || len(c.Env) != 4 || c.Env[2].Value != "192.0.2.10" || c.Env[3].Value != "6443" {
		t.Errorf("args %q, env %v", c.Args, c.Env)
	}
}
