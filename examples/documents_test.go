package examples

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// before has what the documents' pieces of code take for given.
const before = `package documents

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/polytls/polytls/boringssl"
	"github.com/polytls/polytls/certreload"
	"github.com/polytls/polytls/grpctls"
	"github.com/polytls/polytls/httptls"
	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/openssl"
	"github.com/polytls/polytls/promtls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/s2n"
	"github.com/polytls/polytls/tlsapi"
)

// Each is imported by some piece.
var (
	_ = tls.VersionTLS13
	_ = errors.ErrUnsupported
	_ = io.EOF
	_ = log.Default
	_ = slog.Default
	_ = time.Second
	_ = prometheus.MustRegister
	_ grpc.ServerOption
	_, _, _ = boringssl.Provider, openssl.Provider, s2n.Provider
	_ certreload.Options
	_, _ = grpctls.NewServer, promtls.NewCollector
	_ metrics.Meter
	_ = providers.Lookup
)

var (
	raw              net.Conn
	listener         net.Listener
	mux              *http.ServeMux
	pool             *x509.CertPool
	roots            *tlsapi.CertPool
	secret           []byte
	newKey, oldKey   [32]byte
	srv              *httptls.Server
	server           *tlsapi.ServerConfig
	client           *tlsapi.ClientConfig
	err              error
)
`

// surroundings are the functions that a piece may stand in.
var surroundings = []string{
	"(config *tlsapi.ClientConfig) error",
	"(config *tlsapi.ServerConfig) error",
	"(config *tlsapi.ServerConfig) (tlsapi.Conn, error)",
	"(config *tlsapi.ClientConfig) (*tlsapi.ClientConfig, error)",
}

var (
	goPiece      = regexp.MustCompile("(?s)```go\n(.*?)```")
	compileError = regexp.MustCompile(`(?m)^[^\s:]*documents\.go:(\d+):\d+: (.*)$`)
	// soft are the errors of a piece that goes on where it is used.
	soft = regexp.MustCompile(`^declared and not used|^missing return`)
)

// Every piece of Go in README.md and docs/MIGRATION.md compiles.
func TestDocuments(t *testing.T) {
	var source strings.Builder
	source.WriteString(before)
	type place struct{ piece, surrounding int }
	var places []place // by line of source
	var pieces []string
	write := func(text string, at place) {
		source.WriteString(text)
		for range strings.Count(text, "\n") {
			places = append(places, at)
		}
	}
	for range strings.Count(before, "\n") {
		places = append(places, place{-1, 0})
	}
	for _, document := range []string{"README.md", "docs/MIGRATION.md"} {
		text, err := os.ReadFile(filepath.Join("..", document))
		require.NoError(t, err)
		found := goPiece.FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, found, document)
		for _, match := range found {
			for i, surrounding := range surroundings {
				// What is shown before and after a change declares the same.
				body := regexp.MustCompile(`(?m)^(.*// after)$`).ReplaceAllString(match[1], "}\n{\n$1")
				write(fmt.Sprintf("func _%s {\n{\n%s}\n}\n", surrounding, body), place{len(pieces), i})
			}
			pieces = append(pieces, document+":\n"+match[1])
		}
	}

	folder := t.TempDir()
	file, overlay := filepath.Join(folder, "documents.go"), filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(file, []byte(source.String()), 0o600))
	here, err := filepath.Abs("documents")
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "documents.go"): file}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, text, 0o600))
	cmd := exec.Command("go", "build", "-gcflags=-e", "-overlay", overlay, "./documents")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	_ = cmd.Run() // It fails: what is declared there is not used.
	told := compileError.FindAllStringSubmatch(output.String(), -1)
	require.NotEmpty(t, told, "%s", output.String())
	wrong := make(map[place][]string)
	for _, e := range told {
		line, err := strconv.Atoi(e[1])
		require.NoError(t, err)
		at := places[line-1]
		require.GreaterOrEqual(t, at.piece, 0, e[0])
		if !soft.MatchString(e[2]) {
			wrong[at] = append(wrong[at], e[2])
		}
	}
	for i, piece := range pieces {
		var all []string
		good := false
		for s, surrounding := range surroundings {
			errs := wrong[place{i, s}]
			good = good || len(errs) == 0
			all = append(all, fmt.Sprintf("func%s: %s", surrounding, strings.Join(errs, "; ")))
		}
		assert.True(t, good, "%s\n%s", piece, strings.Join(all, "\n"))
	}
}
