package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pgpooled/pgpooled"
)

// object is as much of a Kubernetes object as the tests look at.
type object struct {
	Kind string
	Spec struct {
		Replicas     int
		MinAvailable int            `yaml:"minAvailable"`
		Selector     map[string]any // of a Service: the labels; else matchLabels
		Ports        []struct {
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels map[string]any }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []container
			}
		}
	}
}

type container struct {
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Env []struct {
		Name, Value string
		ValueFrom   struct {
			Secret struct{ Name, Key string } `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	}
	Startup   check `yaml:"startupProbe"`
	Liveness  check `yaml:"livenessProbe"`
	Readiness check `yaml:"readinessProbe"`
}

type check struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	Timeout int                         `yaml:"timeoutSeconds"`
}

func manifest(t *testing.T) map[string]object {
	t.Helper()
	f, err := os.Open("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	objects := map[string]object{}
	for d := yaml.NewDecoder(f); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		objects[o.Kind] = o
	}
	if len(objects) != 3 || len(objects["Deployment"].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("unexpected objects: %v", objects)
	}
	return objects
}

// environment is the container's, with a URL for the secret one. Each of its
// variables is one that the program reads: a misspelt one would be its default.
func environment(t *testing.T, c container) (cfg config, pool *pgpooled.Config) {
	t.Helper()
	env, read := map[string]string{}, map[string]bool{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
		if v.Name == "DATABASE_URL" {
			env[v.Name] = "postgres://app@db.example.com/accounts"
			if v.Value != "" || v.ValueFrom.Secret.Name == "" || v.ValueFrom.Secret.Key == "" {
				t.Error("DATABASE_URL is not a secret")
			}
		}
		if strings.HasPrefix(v.Name, "PGPOOLED_") {
			t.Setenv(v.Name, v.Value)
			read[v.Name] = true // ParseDSN refuses one that it does not know
		}
	}
	cfg, err := loadConfig(func(name string) string { read[name] = true; return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	for name := range env {
		if !read[name] {
			t.Errorf("nobody reads %s", name)
		}
	}
	if pool, err = pgpooled.ParseDSN(cfg.databaseURL); err != nil {
		t.Fatal(err)
	}
	return cfg, pool
}

func TestTheManifestFitsTheProgram(t *testing.T) {
	objects := manifest(t)
	pod := objects["Deployment"].Spec.Template
	c := pod.Spec.Containers[0]
	cfg, pool := environment(t, c)

	ports := map[string]string{}
	for _, p := range c.Ports {
		ports[p.Name] = ":" + strconv.Itoa(p.ContainerPort)
	}
	if ports["http"] != cfg.listenAddr || ports["admin"] != cfg.adminAddr {
		t.Errorf("ports %v, the program listens on %s and %s", ports, cfg.listenAddr, cfg.adminAddr)
	}
	routes := newService(cfg, nil, nil).routes()
	for path, probe := range map[string]check{"/healthz": c.Startup, "/readyz": c.Readiness} {
		_, pattern := routes.Handler(httptest.NewRequest(http.MethodGet, probe.HTTPGet.Path, nil))
		if probe.HTTPGet.Path != path || pattern != "GET "+path || probe.HTTPGet.Port != "http" {
			t.Errorf("a probe asks %v, which is %q", probe.HTTPGet, pattern)
		}
	}
	if c.Liveness.HTTPGet != c.Startup.HTTPGet {
		t.Errorf("liveness asks %v", c.Liveness.HTTPGet)
	}
	if limit := time.Duration(c.Readiness.Timeout) * time.Second; limit <= pgpooled.DefaultHealthTimeout {
		t.Errorf("readiness is given up after %s, its check takes up to %s", limit, pgpooled.DefaultHealthTimeout)
	}
	longest := cfg.drainDelay + cfg.shutdownTimeout + pool.CloseTimeout
	if grace := time.Duration(pod.Spec.Grace) * time.Second; grace < longest+5*time.Second {
		t.Errorf("killed after %s, a shutdown takes up to %s", grace, longest)
	}
	if pool.PoolTimeout >= cfg.requestTimeout {
		t.Errorf("pool_timeout is %s, a request has %s", pool.PoolTimeout, cfg.requestTimeout)
	}

	budget := objects["PodDisruptionBudget"].Spec
	if budget.MinAvailable < 1 || budget.MinAvailable >= objects["Deployment"].Spec.Replicas {
		t.Errorf("%d replicas, of which %d must be there", objects["Deployment"].Spec.Replicas, budget.MinAvailable)
	}
	app := pod.Metadata.Labels["app"]
	service := objects["Service"].Spec
	if app == nil || service.Selector["app"] != app || matched(objects["Deployment"]) != app || matched(objects["PodDisruptionBudget"]) != app {
		t.Errorf("the selectors do not find the pods with app: %v", app)
	}
	if len(service.Ports) != 1 || service.Ports[0].TargetPort != "http" {
		t.Errorf("the Service leads to %v", service.Ports)
	}
}

func matched(o object) any {
	labels, _ := o.Spec.Selector["matchLabels"].(map[string]any)
	return labels["app"]
}
