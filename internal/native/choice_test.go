package native

import (
	stdcontext "context"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// certificateRequest is a request with three schemes, of which 0x0302 is none that
// hooks see, and one CA.
func certificateRequest(version byte, types ...byte) []byte {
	wire := []byte{3, version, 0, 6, 8, 4, 4, 3, 3, 2, byte(len(types))}
	wire = append(wire, types...)
	return append(wire, 0, 0, 0, 2, 0x30, 0)
}

func TestParseCertificateRequest(t *testing.T) {
	const rsaSign, ecdsaSign = 1, 64
	for _, c := range []struct {
		name string
		wire []byte
		want []tls.SignatureScheme
	}{
		{"TLS 1.3", certificateRequest(4), []tls.SignatureScheme{tls.PSSWithSHA256, tls.ECDSAWithP256AndSHA256, 0x0302}},
		{"both types", certificateRequest(3, rsaSign, ecdsaSign), []tls.SignatureScheme{tls.PSSWithSHA256, tls.ECDSAWithP256AndSHA256}},
		{"RSA", certificateRequest(3, rsaSign), []tls.SignatureScheme{tls.PSSWithSHA256}},
		{"ECDSA", certificateRequest(3, ecdsaSign), []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}},
		{"no type", certificateRequest(3), []tls.SignatureScheme{}},
	} {
		request, err := parseCertificateRequest(c.wire)
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, request.SignatureSchemes, c.name)
		assert.Equal(t, [][]byte{{0x30, 0}}, request.AcceptableCAs, c.name)
		assert.EqualValues(t, 0x0300|uint16(c.wire[1]), request.Version, c.name)
	}
	whole := certificateRequest(3, rsaSign)
	for n := range len(whole) - 6 {
		_, err := parseCertificateRequest(whole[:n])
		require.Error(t, err, "%d bytes", n)
	}
}

// The field that crypto/tls keeps the context in is not ours: a release without it
// has to be noticed.
func TestCertificateRequestHasItsContext(t *testing.T) {
	ctx, cancel := stdcontext.WithCancel(t.Context())
	request := new(tls.CertificateRequestInfo)
	setContext(request, ctx)
	require.NotNil(t, request.Context())
	require.NoError(t, request.Context().Err())
	cancel()
	require.ErrorIs(t, request.Context().Err(), stdcontext.Canceled)
}

func TestTimestampLists(t *testing.T) {
	want := [][]byte{[]byte("one"), []byte("another")}
	list, err := timestampList(want)
	require.NoError(t, err)
	assert.Equal(t, want, timestamps(list))
	for n := range list {
		assert.Nil(t, timestamps(list[:n]), "%d bytes", n)
	}
	for name, wrong := range map[string][][]byte{"empty": {{}}, "long": {make([]byte, 0x10000)}, "long list": {make([]byte, 0xfff0), make([]byte, 0x20)}} {
		_, err := timestampList(wrong)
		assert.Error(t, err, name)
	}
}
