package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// registrar is what the server asks about members: it answers as it is told, and notes what it was asked.
type registrar struct {
	forgot view.ForgetAnswer
	joined view.JoinAnswer
	err    error

	mu    sync.Mutex
	asked []string
}

func (r *registrar) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, text)
}

func (r *registrar) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func (r *registrar) forget(_ context.Context, node string, force bool) (view.ForgetAnswer, error) {
	r.note(fmt.Sprint("forget ", node, " ", force))
	return r.forgot, r.err
}

func (r *registrar) join(_ context.Context, hosts []string) (view.JoinAnswer, error) {
	r.note(fmt.Sprint("join ", hosts))
	return r.joined, r.err
}

// served is a server that asks the registrar.
func (r *registrar) served(t *testing.T) api.Config {
	t.Helper()
	cfg := config(t, sample())
	cfg.Forget, cfg.Join = r.forget, r.join
	start(t, cfg)
	return cfg
}

func TestMembers(t *testing.T) {
	r := &registrar{
		forgot: view.ForgetAnswer{State: view.ForgotNode, Node: "b", PodCIDRs: sample().PodCIDRs},
		joined: view.JoinAnswer{Added: []string{"192.0.2.1"}, Hosts: []string{"192.0.2.1", "h2"}},
	}
	client := api.Client{Socket: r.served(t).Socket}
	for _, force := range []bool{false, true} {
		answer, err := client.Forget(t.Context(), "b", force)
		if err != nil || !reflect.DeepEqual(answer, r.forgot) {
			t.Errorf("Forget = %+v, %v; want %+v", answer, err, r.forgot)
		}
	}
	answer, err := client.Join(t.Context(), []string{"192.0.2.1", "h2"})
	if err != nil || !reflect.DeepEqual(answer, r.joined) {
		t.Errorf("Join = %+v, %v; want %+v", answer, err, r.joined)
	}
	if got, want := r.requests(), []string{"forget b false", "forget b true", "join [192.0.2.1 h2]"}; !slices.Equal(got, want) {
		t.Errorf("the agent was asked %q, want %q", got, want)
	}
}

// What the agent says is for the operator as it is.
func TestMembersRefused(t *testing.T) {
	const why = "with Kubernetes a node belongs to the mesh as long as its Node exists"
	client := api.Client{Socket: (&registrar{err: errors.New(why)}).served(t).Socket}
	_, errForget := client.Forget(t.Context(), "b", false)
	_, errJoin := client.Join(t.Context(), []string{"b"})
	for _, err := range []error{errForget, errJoin} {
		var agentErr *api.AgentError
		if !errors.As(err, &agentErr) || agentErr.Message != why || agentErr.Remedy != "" {
			t.Errorf("%#v; want an AgentError that says %q, and nothing else", err, why)
		}
	}
}

func TestMemberBodies(t *testing.T) {
	r := &registrar{joined: view.JoinAnswer{Added: []string{}, Hosts: []string{}}}
	client := httpClient(t, r.served(t).Socket)
	for _, tt := range []struct {
		name, path, body string
		code             int
		want             string // in the answer
	}{
		{"forget", "forget", `{"node":"b"}`, 200, `"state"`},
		{"nobody", "forget", `{"force":true}`, 400, "it names no node"},
		{"an unknown field", "forget", `{"node":"b","on":"c"}`, 400, `unknown field "on"`},
		{"several", "forget", `{"node":["b"]}`, 400, "cannot unmarshal array"},
		{"null", "forget", `null`, 400, "it is null"},
		{"a long name", "forget", `{"node":"` + strings.Repeat("b", 2000) + `"}`, 400, "too large"},
		{"join", "join", `{"hosts":["h"]}`, 200, `{"added":[],"hosts":[]}`},
		{"no host", "join", `{"hosts":[]}`, 400, "it names 0 hosts"},
		{"no list", "join", `{"hosts":"h"}`, 400, "cannot unmarshal string"},
		{"too many", "join", `{"hosts":["h"` + strings.Repeat(`,"h"`, api.MaxHosts) + `]}`, 400, "it names 65 hosts"},
		{"nothing", "join", ``, 400, "it is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(r.requests())
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent/v1/"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.code || !strings.Contains(string(body), tt.want) {
				t.Errorf("%d %q, %v; want %d and %q", response.StatusCode, body, err, tt.code, tt.want)
			}
			if asked := len(r.requests()) > before; asked != (tt.code == 200) {
				t.Errorf("the agent was asked: %v", asked)
			}
		})
	}
}
