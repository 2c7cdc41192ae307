package promtls_test

import (
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/metrics"
	"github.com/polytls/polytls/promtls"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// use makes connections of all sorts: a full handshake with data, a resumed one,
// one that the client refuses, and one that the provider refuses.
func use(t *testing.T, p tlsapi.Provider) {
	authority := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Test CA"})
	server := &tlsapi.ServerConfig{Certificates: []tls.Certificate{authority.Leaf(t, tlstest.Spec{DNSNames: []string{"server.example"}})}}
	client := &tlsapi.ClientConfig{ServerName: "server.example", RootCAs: tlstest.Pool(authority), SessionCache: tlsapi.NewLRUSessionCache(0)}
	client.MaxVersion = tls.VersionTLS12 // the session is there when the handshake is over
	talk := func() {
		clientEnd, serverEnd := connect(t, p, client, server)
		var served sync.WaitGroup
		served.Go(func() {
			_, err := io.CopyN(serverEnd, serverEnd, 5)
			assert.NoError(t, err)
		})
		_, err := clientEnd.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(clientEnd, make([]byte, 5))
		require.NoError(t, err)
		served.Wait()
		clientEnd.Close()
		serverEnd.Close()
	}
	talk()
	talk()

	wrong := *client
	wrong.ServerName, wrong.SessionCache = "other.example", nil
	wrong.MaxBlindingDelay = -1
	clientEnd, serverEnd := connect(t, p, &wrong, server)
	var served sync.WaitGroup
	served.Go(func() { assert.Error(t, serverEnd.Handshake()) })
	require.ErrorIs(t, clientEnd.Handshake(), tlsapi.KindHostname)
	clientEnd.Close()
	served.Wait()
	serverEnd.Close()

	_, err := p.Client(nil, &tlsapi.ClientConfig{})
	require.ErrorIs(t, err, tlsapi.KindConfig)
}

func connect(t *testing.T, p tlsapi.Provider, client *tlsapi.ClientConfig, server *tlsapi.ServerConfig) (clientEnd, serverEnd tlsapi.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	clientEnd, err = p.Client(near, client)
	require.NoError(t, err)
	serverEnd, err = p.Server(far, server)
	require.NoError(t, err)
	return clientEnd, serverEnd
}

func TestCollector(t *testing.T) {
	var names []string
	meter := new(metrics.Meter)
	for _, p := range providers.All() {
		if p.Available() == nil {
			names = append(names, p.Name())
			use(t, meter.Provider(p))
		}
	}
	require.Contains(t, names, "std")
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(promtls.NewCollector(meter)))

	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)

	var want strings.Builder
	want.WriteString("# HELP polytls_handshakes_resumed_total Successful TLS handshakes that resumed a session.\n# TYPE polytls_handshakes_resumed_total counter\n")
	for _, name := range names {
		for _, role := range []string{"client", "server"} {
			want.WriteString(`polytls_handshakes_resumed_total{provider="` + name + `",role="` + role + `",version="1.2"} 1` + "\n")
			want.WriteString(`polytls_handshakes_resumed_total{provider="` + name + `",role="` + role + `",version="1.3"} 0` + "\n")
		}
	}
	want.WriteString("# HELP polytls_read_bytes_total Application data read from TLS connections.\n# TYPE polytls_read_bytes_total counter\n")
	for _, name := range names {
		for _, role := range []string{"client", "server"} {
			want.WriteString(`polytls_read_bytes_total{provider="` + name + `",role="` + role + `"} 10` + "\n")
		}
	}
	assert.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(want.String()), "polytls_handshakes_resumed_total", "polytls_read_bytes_total"))

	values := gathered(t, registry)
	for _, name := range names {
		of := `provider=` + name + `,role=client`
		for metric, want := range map[string]float64{
			`polytls_handshakes_total{provider=` + name + `,result=success,role=client,version=1.2}`: 2,
			`polytls_handshakes_total{provider=` + name + `,result=success,role=client,version=1.3}`: 0,
			`polytls_handshakes_total{provider=` + name + `,result=hostname,role=client,version=}`:   1,
			`polytls_connections_refused_total{kind=config,` + of + `}`:                              1,
			`polytls_connections_open{` + of + `}`:                                                   0,
			`polytls_handshakes_in_progress{` + of + `}`:                                             0,
			`polytls_handshake_duration_seconds{outcome=full,` + of + `}`:                            1,
			`polytls_handshake_duration_seconds{outcome=resumed,` + of + `}`:                         1,
			`polytls_handshake_duration_seconds{outcome=failed,` + of + `}`:                          1,
			`polytls_connections_forgotten_total{` + of + `}`:                                        0,
			`polytls_connections_blinded_total{` + of + `}`:                                          0,
			`polytls_written_bytes_total{` + of + `}`:                                                10,
		} {
			value, ok := values[metric]
			assert.True(t, ok, metric)
			assert.Equal(t, want, value, metric)
		}
		_, caches := values[`polytls_config_cache_hits_total{`+of+`}`]
		assert.Equal(t, name != "std", caches, name)
	}
	assert.Zero(t, values[`polytls_connections_blinding_pending{}`])
}

// gathered has the values by name and labels; of histograms the counts.
func gathered(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	families, err := registry.Gather()
	require.NoError(t, err)
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.Counter != nil:
				values[key] = m.Counter.GetValue()
			case m.Gauge != nil:
				values[key] = m.Gauge.GetValue()
			case m.Histogram != nil:
				values[key] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return values
}

// Scrapes go on while connections do; the race detector judges.
func TestConcurrentScrapes(t *testing.T) {
	meter := new(metrics.Meter)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(promtls.NewCollector(meter)))
	p, err := providers.Lookup("std")
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { use(t, meter.Provider(p)) })
		all.Go(func() {
			for range 50 {
				_, err := registry.Gather()
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
}

// The documentation names every metric, and none that there is not.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/MIGRATION.md")
	require.NoError(t, err)
	descriptions := make(chan *prometheus.Desc, 100)
	promtls.NewCollector(new(metrics.Meter)).Describe(descriptions)
	close(descriptions)
	name := regexp.MustCompile(`fqName: "polytls_([a-z_]+)"`)
	documented := regexp.MustCompile("`(?:polytls_([a-z_]+)|(_[a-z]+_total))`").FindAllStringSubmatch(string(text), -1)
	var want, got []string
	for d := range descriptions {
		want = append(want, name.FindStringSubmatch(d.String())[1])
	}
	for _, match := range documented {
		got = append(got, cmp.Or(match[1], "config_cache"+match[2]))
	}
	assert.ElementsMatch(t, want, got)
}
