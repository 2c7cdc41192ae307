package stdtls

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"io"
)

// externalSigner is a private key that lives elsewhere, for one handshake: the handshake
// need not wait for it when it is to end, and its error is a hook's.
type externalSigner struct {
	crypto.Signer
	conn *conn
}

// withSigner returns cert for the use by this connection.
func (c *conn) withSigner(cert *tls.Certificate) *tls.Certificate {
	switch cert.PrivateKey.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return cert
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return cert
	}
	own := *cert
	own.PrivateKey = &externalSigner{key, c}
	return &own
}

// Sign implements crypto.Signer.
func (s *externalSigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.wait(func() ([]byte, error) { return s.Signer.Sign(rand, digest, opts) })
}

// SignMessage implements crypto.MessageSigner, which the key may need.
func (s *externalSigner) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.wait(func() ([]byte, error) { return crypto.SignMessage(s.Signer, rand, message, opts) })
}

// wait returns what sign does, or an error as soon as the handshake is to end.
// The call then goes on by itself: nothing can stop it.
func (s *externalSigner) wait(sign func() ([]byte, error)) ([]byte, error) {
	type result struct {
		signature []byte
		err       error
	}
	done := make(chan result, 1)
	go func() {
		signature, err := sign()
		done <- result{signature, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			// crypto/tls makes a text of it.
			s.conn.signerErr = rejected(alertInternalError, fmt.Errorf("the private key does not sign: %w", r.err))
			return nil, s.conn.signerErr
		}
		return r.signature, nil
	case <-s.conn.handshakeCtx.Done():
		return nil, context.Cause(s.conn.handshakeCtx)
	}
}
