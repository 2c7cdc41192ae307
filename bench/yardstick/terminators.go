package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/polytls/polytls/internal/freeport"
	"github.com/polytls/polytls/internal/measure"
)

// A terminator is a program that ends TLS connections, running.
type terminator struct {
	name    string // "nginx", "polytls boringssl"
	address string
	process *exec.Cmd
	// most is the largest file that it can answer with; zero is any.
	most   int
	output *bytes.Buffer
	exited chan error
}

// site is what all terminators serve, and with what certificate.
type site struct {
	dir                    string // all files of this run
	root                   string // the folder that is served
	certificate, key, both string
	small, large           []byte
}

const (
	smallSize = 1 << 10
	largeSize = 4 << 20
)

func newSite(dir string) (*site, error) {
	if err := measure.WriteFixtures(dir); err != nil {
		return nil, err
	}
	s := &site{dir: dir, root: filepath.Join(dir, "public"), both: filepath.Join(dir, "both.pem")}
	s.certificate, s.key, _ = measure.CertificateFiles(dir, measure.Settings{})
	s.small, s.large = content(smallSize), content(largeSize)
	certificate, err := os.ReadFile(s.certificate)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(s.key)
	if err != nil {
		return nil, err
	}
	// nginx's workers give up the rights of root, and read the files.
	return s, errors.Join(
		os.Chmod(dir, 0o755),
		os.Mkdir(s.root, 0o755),
		os.WriteFile(filepath.Join(s.root, "small.bin"), s.small, 0o644),
		os.WriteFile(filepath.Join(s.root, "large.bin"), s.large, 0o644),
		os.WriteFile(s.both, append(certificate, key...), 0o600),
	)
}

// content is text that differs at every place, so that an answer that was
// shifted or cut is noticed.
func content(size int) []byte {
	b := make([]byte, 0, size+16)
	for i := 0; len(b) < size; i++ {
		b = fmt.Appendf(b, "%x\n", i)
	}
	return b[:size]
}

// startNginx serves the site's files over TLS, or forwards to a backend, or,
// with plain, is that backend.
func (s *site) startNginx(ctx context.Context, backend string, plain bool) (*terminator, error) {
	port, err := freeport.Choose()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "nginx-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	listen := "listen 127.0.0.1:" + port + " ssl backlog=4096;\n" +
		"ssl_certificate " + s.certificate + "; ssl_certificate_key " + s.key + "; ssl_protocols TLSv1.3;"
	if plain {
		listen = "listen 127.0.0.1:" + port + " backlog=4096;"
	}
	location := "root " + s.root + ";"
	upstream := ""
	if backend != "" {
		upstream = "upstream backend { server " + backend + "; keepalive 64; keepalive_requests 100000000; }"
		location = `proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;`
	}
	text := fmt.Sprintf(`
daemon off; pid %[1]s/pid; error_log stderr warn; worker_processes auto;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; server_tokens off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  %[2]s
  server { %[3]s location / { %[4]s } }
}
`, dir, upstream, listen, location)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	t := &terminator{name: "nginx", address: "127.0.0.1:" + port}
	return t, t.start(ctx, exec.CommandContext(ctx, program("nginx"), "-e", "stderr", "-p", dir, "-c", config))
}

// startHAProxy forwards to a backend, or answers with the small file from its
// memory: it serves no files.
func (s *site) startHAProxy(ctx context.Context, backend string) (*terminator, error) {
	port, err := freeport.Choose()
	if err != nil {
		return nil, err
	}
	rule := "http-request return status 200 content-type application/octet-stream file " + filepath.Join(s.root, "small.bin")
	most := smallSize
	if backend != "" {
		rule, most = "default_backend backend\nbackend backend\n  http-reuse always\n  server one "+backend, 0
	}
	text := fmt.Sprintf(`
global
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  timeout http-keep-alive 30s
frontend tls
  bind 127.0.0.1:%s ssl crt %s alpn http/1.1
  %s
`, port, s.both, rule)
	config := filepath.Join(s.dir, "haproxy-"+port+".cfg")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	t := &terminator{name: "HAProxy", address: "127.0.0.1:" + port, most: most}
	return t, t.start(ctx, exec.CommandContext(ctx, program("haproxy"), "-db", "-f", config))
}

// startPolytls runs `polytls serve` with the site's files.
func (s *site) startPolytls(ctx context.Context, polytls, provider string) (*terminator, error) {
	return startCommand(ctx, "polytls "+provider, exec.CommandContext(ctx, polytls, "serve", "127.0.0.1:0", "--json",
		"--provider", provider, "--cert", s.certificate, "--key", s.key, "--root", s.root, "--min-version", "1.3", "--log-level", "warn"))
}

// startPolytlsProxy runs `polytls proxy` to a plain backend.
func (s *site) startPolytlsProxy(ctx context.Context, polytls, provider, backend string) (*terminator, error) {
	return startCommand(ctx, "polytls "+provider, exec.CommandContext(ctx, polytls, "proxy", "127.0.0.1:0", "--json",
		"--provider", provider, "--cert", s.certificate, "--key", s.key, "--backend", backend, "--alpn", "http/1.1", "--min-version", "1.3"))
}

// startCommand starts a polytls command that announces its address as JSON.
func startCommand(ctx context.Context, name string, cmd *exec.Cmd) (*terminator, error) {
	t := &terminator{name: name}
	stdout, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	cmd.Stdout = writer
	err = t.launch(cmd)
	writer.Close()
	if err != nil {
		return nil, err
	}
	if err := stdout.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return t, err
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		return t, fmt.Errorf("%s announces nothing: %w\n%s", cmd, err, t.output)
	}
	var announced struct {
		Address   string
		Listeners []struct{ Address string }
	}
	if err := json.Unmarshal(line, &announced); err != nil {
		return t, fmt.Errorf("%s: %w", cmd, err)
	}
	t.address = announced.Address
	for _, l := range announced.Listeners {
		t.address = l.Address
	}
	return t, nil
}

// start starts the program and waits until it takes connections.
func (t *terminator) start(ctx context.Context, cmd *exec.Cmd) error {
	if err := t.launch(cmd); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", t.address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case exit := <-t.exited:
			t.exited <- exit
			return fmt.Errorf("%s: %w\n%s", cmd, exit, t.output)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen: %w", cmd, err)
		}
	}
}

func (t *terminator) launch(cmd *exec.Cmd) error {
	t.process, t.output, t.exited = cmd, &bytes.Buffer{}, make(chan error, 1)
	cmd.Stderr = t.output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { t.exited <- cmd.Wait() }()
	return nil
}

func (t *terminator) stop() {
	if t == nil || t.process == nil || t.process.Process == nil {
		return
	}
	_ = t.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-t.exited:
	case <-time.After(5 * time.Second):
		_ = t.process.Process.Kill()
	}
}

// program finds a daemon, which may not be in an ordinary user's path.
func program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return filepath.Join("/usr/sbin", name)
}
