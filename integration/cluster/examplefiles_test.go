package cluster

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/integration/harness"
)

// required runs a program that has to find nothing to say.
func required(t *testing.T, pkg, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" && os.Getenv(harness.SkipVariable) == "1":
		t.Skipf("%s is not installed", name)
	case errors.Is(err, exec.ErrNotFound):
		t.Fatalf("%s is not installed (Debian: apt-get install %s; make test does it)", name, pkg)
	case err != nil || len(out) > 0:
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, names ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{example}, names...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// aSecret is as long as a secret has to be.
var aSecret = strings.Repeat("s3cret", 6)

// unit returns the settings of the service section of the example's unit.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	settings := map[string][]string{}
	section := ""
	for line := range strings.Lines(read(t, "systemd", "mqgate.service")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		if name, value, ok := strings.Cut(line, "="); ok && section == "[Service]" && !strings.HasPrefix(line, "#") {
			settings[name] = append(settings[name], value)
		}
	}
	return settings
}

// serviceUser is what systemd gives a DynamicUser, and nobody has.
const serviceUser = 61184

// TestExampleUnit has systemd read the unit, and starts what it starts as a service that has a user of its own and reads nothing in
// /etc/mqgate but by the credentials of the unit: systemd itself would need to be the first process of the machine.
func TestExampleUnit(t *testing.T) {
	built, err := harness.PlainBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := harness.TempDir(t)
	installed := strings.ReplaceAll(read(t, "systemd", "mqgate.service"), "/usr/bin/mqgate", built)
	write(t, filepath.Join(dir, "mqgate.service"), installed, 0o600)
	required(t, "systemd", "systemd-analyze", "verify", filepath.Join(dir, "mqgate.service"))

	s := &service{t: t, dir: dir, unit: unit(t)}
	s.install(built)
	if out, err := s.command("config", "check", filepath.Join(s.path("etc"), "mqgate.yaml")).CombinedOutput(); err == nil && s.user != nil {
		t.Errorf("the service reads what is root's: %s", out)
	}
	argv := strings.Fields(s.unit["ExecStart"][0])
	for i, a := range argv {
		argv[i] = strings.ReplaceAll(a, "${CREDENTIALS_DIRECTORY}", s.path("credentials"))
	}
	if len(argv) < 2 || argv[1] != "serve" {
		t.Fatalf("ExecStart has %q", argv)
	}
	admin := harness.FreeAddress(t)
	for _, set := range []string{"node_name=n1", "data_dir=" + s.path("state"), "admin.listen=" + admin, "stomp.listen=127.0.0.1:0",
		"mqtt.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "cluster.listen=" + harness.FreeAddress(t),
		fmt.Sprintf("cluster.join=[%s, %s, %s]", harness.FreeAddress(t), harness.FreeAddress(t), harness.FreeAddress(t))} {
		argv = append(argv, "--set", set)
	}
	cmd := s.command(argv[1:]...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		if err := cmd.Process.Kill(); err == nil {
			<-ended
		}
	}()
	harness.Eventually(t, harness.StartTimeout, func() error { // one node alone is never ready
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the service ended: %v\n%s", err, out.String())
		default:
		}
		resp, err := http.Get("http://" + admin + "/livez")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errorf("/livez: %s", resp.Status)
		}
		return nil
	})
}

// service is what systemd would make of a unit, below a directory.
type service struct {
	t    *testing.T
	dir  string
	unit map[string][]string
	user *syscall.Credential // nil: the test's own
}

func (s *service) path(name string) string { return filepath.Join(s.dir, name) }

// command is mqgate as the service's user.
func (s *service) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.path("mqgate"), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"CREDENTIALS_DIRECTORY=" + s.path("credentials")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	return cmd
}

// install writes what the operator does, and hands the service its credentials as systemd does: root's, for the group of the service to
// read. One who is not root has a service of its own user.
func (s *service) install(binary string) {
	s.t.Helper()
	if s.unit["DynamicUser"] == nil || s.unit["StateDirectory"] == nil {
		s.t.Error("the unit has no user or no state directory of its own")
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, s.path("mqgate"), string(text), 0o755) // where the service's user may look
	for _, name := range []string{"etc", "credentials", "state"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	write(s.t, filepath.Join(s.path("etc"), "mqgate.yaml"), read(s.t, "compose", "mqgate.yaml"), 0o600)
	write(s.t, filepath.Join(s.path("etc"), "secret"), aSecret, 0o600)
	var made []string
	for _, c := range s.unit["LoadCredential"] {
		id, from, _ := strings.Cut(c, ":")
		text, err := os.ReadFile(strings.Replace(from, "/etc/mqgate", s.path("etc"), 1))
		if err != nil {
			s.t.Fatalf("LoadCredential=%s: %v", c, err)
		}
		path := filepath.Join(s.path("credentials"), id)
		write(s.t, path, string(text), 0o400)
		made = append(made, path)
	}
	if os.Getuid() != 0 {
		return
	}
	s.user = &syscall.Credential{Uid: serviceUser, Gid: serviceUser}
	err = errors.Join(os.Chmod(s.dir, 0o711), os.Chown(s.path("state"), serviceUser, serviceUser),
		os.Chown(s.path("credentials"), 0, serviceUser), os.Chmod(s.path("credentials"), 0o550))
	for _, path := range made {
		err = errors.Join(err, os.Chown(path, 0, serviceUser), os.Chmod(path, 0o440))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// compose is what is checked of the compose file.
type compose struct {
	Services map[string]composeService
	Networks map[string]struct {
		IPAM struct{ Config []struct{ Subnet string } }
	}
	Volumes map[string]any
}

type composeService struct {
	Build           struct{ Context, Dockerfile string }
	Hostname        string
	StopGracePeriod string `yaml:"stop_grace_period"`
	Ports, Volumes  []string
}

// mounted lays out below dir what a service sees, and returns the paths of its volumes.
func (s composeService) mounted(t *testing.T, dir string) (volumes []string) {
	t.Helper()
	for _, v := range s.Volumes {
		from, rest, _ := strings.Cut(v, ":")
		to := strings.TrimSuffix(rest, ":ro")
		if !strings.HasPrefix(from, ".") {
			volumes = append(volumes, from, to)
			continue
		}
		text := aSecret
		if from != "./secret" { // which the user makes
			text = read(t, "compose", from)
		}
		path := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, text, 0o600)
	}
	return volumes
}

// TestExampleCompose reads the files for containers as those would that use them, as far as that goes without containers.
func TestExampleCompose(t *testing.T) {
	harness.RequireHAProxy(t)
	required(t, "haproxy", harness.HAProxyBinary, "-c", "-q", "-f", filepath.Join(example, "compose", "haproxy.cfg"))
	file := filepath.Join(example, "compose", "compose.yaml")
	if exec.Command("docker", "compose", "version").Run() == nil {
		required(t, "docker-compose", "docker", "compose", "-f", file, "config", "-q")
	}
	var c compose
	if err := yaml.Unmarshal([]byte(read(t, "compose", "compose.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	balancer := read(t, "compose", "haproxy.cfg")
	front := c.Services["haproxy"]
	delete(c.Services, "haproxy")
	front.mounted(t, t.TempDir())
	if len(front.Ports) != 3 || len(c.Services) != 3 {
		t.Errorf("HAProxy has the ports %v, before %d nodes", front.Ports, len(c.Services))
	}
	for _, p := range front.Ports {
		if _, inside, _ := strings.Cut(p, ":"); !strings.Contains(balancer, "bind :"+inside+"\n") {
			t.Errorf("HAProxy does not listen on port %s", inside)
		}
	}
	for name, s := range c.Services {
		if s.Hostname != name {
			t.Errorf("%s calls itself %q", name, s.Hostname)
		}
		c.checkNode(t, s, balancer)
	}
}

// checkNode loads the configuration of a node as it would, and holds it against what is around it.
func (c compose) checkNode(t *testing.T, s composeService, balancer string) {
	t.Helper()
	dir := t.TempDir()
	volumes := s.mounted(t, dir)
	build := read(t, "compose", s.Build.Context, s.Build.Dockerfile)
	inside := "/etc/mqgate/mqgate.yaml"
	if !strings.Contains(build, `"--config", "`+inside+`"`) {
		t.Errorf("the image does not start with %s", inside)
	}
	cfg, err := config.Load(config.Sources{File: filepath.Join(dir, inside), Environ: []string{"MQGATE_NODE_NAME=" + s.Hostname}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Cluster.Secret(); err != nil {
		t.Error(err)
	}
	if len(volumes) != 2 || volumes[1] != cfg.DataDir {
		t.Errorf("%s keeps its data in %s, and has the volumes %v", s.Hostname, cfg.DataDir, volumes)
	} else if _, there := c.Volumes[volumes[0]]; !there {
		t.Errorf("there is no volume %s", volumes[0])
	}
	if !slices.Contains(cfg.Cluster.Join, s.Hostname+cfg.Cluster.Listen) {
		t.Errorf("%s%s is not among %v", s.Hostname, cfg.Cluster.Listen, cfg.Cluster.Join)
	}
	grace, err := time.ParseDuration(s.StopGracePeriod)
	if needs := cfg.Drain.Grace + cfg.Drain.Spread + cfg.DrainTimeout; err != nil || grace <= needs {
		t.Errorf("%s is killed after %s (%v), and its drain may take %s", s.Hostname, grace, err, needs)
	}
	for _, l := range []struct {
		listen  string
		proxies []string
	}{{cfg.Stomp.Listen, cfg.Stomp.ProxyProtocol}, {cfg.Mqtt.Listen, cfg.Mqtt.ProxyProtocol}, {cfg.HTTP.Listen, cfg.HTTP.ProxyProtocol}} {
		if server := fmt.Sprintf("server %s %s%s port %s\n", s.Hostname, s.Hostname, l.listen, strings.TrimPrefix(cfg.Admin.Listen, ":")); !strings.Contains(balancer, server) {
			t.Errorf("HAProxy has no %q", server)
		}
		if subnets := c.Networks["cluster"].IPAM.Config; len(subnets) != 1 || !slices.Equal(l.proxies, []string{subnets[0].Subnet}) {
			t.Errorf("%s trusts the proxies of %v, and is in %v", s.Hostname, l.proxies, subnets)
		}
	}
}
