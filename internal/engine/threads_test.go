package engine_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"math"
	"math/big"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// slowHandshakes makes TestHandshakesShareThreads run so many handshakes at once,
// with a key of 4096 bits, which takes some milliseconds of each.
const slowHandshakes = "POLYTLS_SLOW_HANDSHAKES"

// threadsOf is set for the process that counts its threads: to the provider.
const threadsOf = "POLYTLS_TEST_THREADS_OF"

// Hundreds of handshakes at the same time do not multiply threads. A process of
// its own counts, as other tests leave threads behind.
func TestHandshakesShareThreads(t *testing.T) {
	eachProvider(t, func(t *testing.T, f *fixture) {
		if provider := os.Getenv(threadsOf); provider != "" {
			if provider == f.provider.Name() {
				countThreads(t, f)
			}
			return
		}
		// Besides those of the handshakes' steps: the runtime's own, and those that
		// other steps and garbage collection keep busy for a moment. A machine that
		// does something else takes processors from the middle of other steps, and
		// the scheduler makes threads then: the quietest run of a minute counts.
		limit, least := runtime.GOMAXPROCS(0)+12, math.MaxInt
		begin := time.Now()
		for run := 0; least > limit && (run < 5 || time.Since(begin) < time.Minute); run++ {
			least = min(least, threadsMade(t, f))
		}
		t.Logf("%d threads", least)
		assert.LessOrEqual(t, least, limit)
	})
}

// threadsMade runs countThreads in a process of its own.
func threadsMade(t *testing.T, f *fixture) int {
	test := exec.Command(os.Args[0], "-test.run=^TestHandshakesShareThreads$", "-test.v")
	test.Env = append(os.Environ(), threadsOf+"="+f.provider.Name())
	out, err := test.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, count, ok := strings.Cut(string(out), "threads made: ")
	require.True(t, ok, "%s", out)
	count, _, _ = strings.Cut(count, "\n")
	threads, err := strconv.Atoi(count)
	require.NoError(t, err)
	return threads
}

func countThreads(t *testing.T, f *fixture) {
	pairs := 300
	if value := os.Getenv(slowHandshakes); value != "" {
		var err error
		pairs, err = strconv.Atoi(value)
		require.NoError(t, err)
		f.useSlowKey(t)
	}
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range pairs {
		wire, serverWire := tlstest.Pipe()
		client, server := f.over(t, wire, serverWire)
		wg.Go(func() {
			<-begin
			assert.NoError(t, server.Handshake())
			_, err := server.Write([]byte{1})
			assert.NoError(t, err)
		})
		wg.Go(func() {
			<-begin
			assert.NoError(t, client.Handshake())
			_, err := client.Read(make([]byte, 1))
			assert.NoError(t, err)
			assert.NoError(t, client.Close())
		})
		t.Cleanup(func() { server.Close() })
	}
	close(begin)
	wg.Wait()
	t.Logf("threads made: %d", pprof.Lookup("threadcreate").Count())
}

// useSlowKey gives the server a certificate of its own, which the client trusts.
func (f *fixture) useSlowKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{host}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	f.client.RootCAs = tlsapi.NewCertPool()
	f.client.RootCAs.AddCert(certificate)
	f.server.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}
