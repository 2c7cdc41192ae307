package native

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// remoteKey is a private key that can only sign.
type remoteKey struct{ crypto.Signer }

func request(id tls.SignatureScheme, digested bool, input []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(id))
	b = append(b, map[bool]byte{true: 1}[digested])
	return append(b, input...)
}

func TestSignature(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey := map[elliptic.Curve]*ecdsa.PrivateKey{}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		ecKey[curve], err = ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	message := []byte("the handshake so far")
	pkcs1 := func(h crypto.Hash) func([]byte, []byte) bool {
		return func(digest, value []byte) bool { return rsa.VerifyPKCS1v15(&rsaKey.PublicKey, h, digest, value) == nil }
	}
	pss := func(h crypto.Hash) func([]byte, []byte) bool {
		return func(digest, value []byte) bool {
			// The salt's length is the digest's (RFC 8446 section 4.2.3).
			return rsa.VerifyPSS(&rsaKey.PublicKey, h, digest, value, &rsa.PSSOptions{SaltLength: h.Size()}) == nil
		}
	}
	ec := func(curve elliptic.Curve) func([]byte, []byte) bool {
		return func(digest, value []byte) bool { return ecdsa.VerifyASN1(&ecKey[curve].PublicKey, digest, value) }
	}
	for _, c := range []struct {
		id     tls.SignatureScheme
		hash   crypto.Hash
		key    crypto.Signer
		verify func(digest, value []byte) bool
	}{
		{tls.PKCS1WithSHA256, crypto.SHA256, rsaKey, pkcs1(crypto.SHA256)},
		{tls.PKCS1WithSHA384, crypto.SHA384, rsaKey, pkcs1(crypto.SHA384)},
		{tls.PKCS1WithSHA512, crypto.SHA512, rsaKey, pkcs1(crypto.SHA512)},
		{tls.PSSWithSHA256, crypto.SHA256, rsaKey, pss(crypto.SHA256)},
		{tls.PSSWithSHA384, crypto.SHA384, rsaKey, pss(crypto.SHA384)},
		{tls.PSSWithSHA512, crypto.SHA512, rsaKey, pss(crypto.SHA512)},
		{tls.ECDSAWithP256AndSHA256, crypto.SHA256, ecKey[elliptic.P256()], ec(elliptic.P256())},
		{tls.ECDSAWithP384AndSHA384, crypto.SHA384, ecKey[elliptic.P384()], ec(elliptic.P384())},
		{tls.ECDSAWithP521AndSHA512, crypto.SHA512, ecKey[elliptic.P521()], ec(elliptic.P521())},
		{tls.Ed25519, 0, edKey, func(message, value []byte) bool {
			return ed25519.Verify(edKey.Public().(ed25519.PublicKey), message, value)
		}},
	} {
		t.Run(c.id.String(), func(t *testing.T) {
			digest := message
			if c.hash != 0 {
				h := c.hash.New()
				h.Write(message)
				digest = h.Sum(nil)
				s := &signature{signer: remoteKey{c.key}, request: request(c.id, true, digest)}
				require.NoError(t, s.make())
				assert.True(t, c.verify(digest, s.value))
			}
			s := &signature{signer: remoteKey{c.key}, request: request(c.id, false, message)}
			require.NoError(t, s.make())
			assert.True(t, c.verify(digest, s.value))
		})
	}
}

type brokenKey struct {
	crypto.Signer
	err error
}

func (k brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, k.err }

func TestSignatureThatFails(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	errDevice := errors.New("the device is gone")
	for name, c := range map[string]struct {
		signature signature
		kind      tlsapi.Kind
		cause     error
	}{
		"signer fails":         {signature{signer: brokenKey{key, errDevice}, request: request(tls.Ed25519, false, []byte("x"))}, tlsapi.KindRejected, errDevice},
		"signer gives nothing": {signature{signer: brokenKey{key, nil}, request: request(tls.Ed25519, false, []byte("x"))}, tlsapi.KindRejected, nil},
		"no signer":            {signature{request: request(tls.Ed25519, false, []byte("x"))}, tlsapi.KindInternal, nil},
		"no request":           {signature{signer: key}, tlsapi.KindInternal, nil},
		"unknown scheme":       {signature{signer: key, request: request(0x9999, true, []byte("x"))}, tlsapi.KindInternal, nil},
		"digest for Ed25519":   {signature{signer: key, request: request(tls.Ed25519, true, []byte("x"))}, tlsapi.KindInternal, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.signature.make()
			require.ErrorIs(t, err, c.kind)
			if c.cause != nil {
				require.ErrorIs(t, err, c.cause)
			}
			assert.Empty(t, c.signature.value)
		})
	}
}

func TestExternalSigner(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	assert.Nil(t, externalSigner(key), "the library can have it")
	assert.Equal(t, remoteKey{key}, externalSigner(remoteKey{key}))
}
