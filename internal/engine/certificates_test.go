package engine

import (
	"crypto/x509"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCertificatesAreShared(t *testing.T) {
	shared := sharedCertificates{known: make(map[string]weak.Pointer[x509.Certificate])}
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"one.example"}})
	other := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"two.example"}})

	der := append([]byte(nil), leaf.Certificate[0]...)
	first, err := shared.parse(der)
	require.NoError(t, err)
	second, err := shared.parse(leaf.Certificate[0])
	require.NoError(t, err)
	assert.Same(t, first, second)
	clear(der)
	assert.Equal(t, leaf.Certificate[0], first.Raw, "the bytes stay the caller's")
	third, err := shared.parse(other.Certificate[0])
	require.NoError(t, err)
	assert.Equal(t, []string{"two.example"}, third.DNSNames)
	_, err = shared.parse(leaf.Certificate[0][1:])
	require.Error(t, err)
	assert.Len(t, shared.known, 2, "what does not parse is not kept")

	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				again, err := shared.parse(leaf.Certificate[0])
				assert.NoError(t, err)
				assert.Same(t, first, again)
			}
		})
	}
	group.Wait()
	runtime.KeepAlive(first)
	runtime.KeepAlive(third)
}

func TestSharedCertificatesAreForgotten(t *testing.T) {
	shared := sharedCertificates{known: make(map[string]weak.Pointer[x509.Certificate])}
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	for range 3 {
		leaf := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"one.example"}})
		_, err := shared.parse(leaf.Certificate[0])
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		shared.mu.RLock()
		defer shared.mu.RUnlock()
		return len(shared.known) == 0
	}, time.Minute, 10*time.Millisecond)
}
