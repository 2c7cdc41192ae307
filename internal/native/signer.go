package native

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/polytls/polytls/tlsapi"
)

// externalSigner returns the signer of a private key that lives outside of the
// process's memory; nil for keys that the library can be given. It lives with
// the connection: a context knows only the certificate, and connections with
// the same certificate may have different signers.
func externalSigner(key crypto.PrivateKey) crypto.Signer {
	switch key.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return nil
	}
	signer, _ := key.(crypto.Signer)
	return signer
}

// signature is one that a handshake waits for.
type signature struct {
	signer  crypto.Signer
	request []byte // POLYTLS_GET_SIGNATURE_REQUEST
	value   []byte // empty when the signer has failed
}

// make asks the signer. It may block.
func (s *signature) make() error {
	internal := func(format string, args ...any) error {
		return &tlsapi.Error{Kind: tlsapi.KindInternal, Err: fmt.Errorf(format, args...)}
	}
	if s.signer == nil || len(s.request) < 3 {
		return internal("the library wants a signature of a signer that is not there")
	}
	id, digested, input := tls.SignatureScheme(binary.BigEndian.Uint16(s.request)), s.request[2] != 0, s.request[3:]
	scheme, ok := schemes[id]
	if !ok {
		return internal("the library wants a signature of the scheme %v", id)
	}
	if scheme.hash == 0 && digested {
		return internal("the library wants a digest signed with %v, which signs messages", id)
	}
	if scheme.hash != 0 && !digested {
		h := scheme.hash.New()
		h.Write(input)
		input = h.Sum(nil)
	}
	value, err := s.signer.Sign(rand.Reader, input, scheme.options())
	if err == nil && len(value) == 0 {
		err = errors.New("the signature is empty")
	}
	if err != nil {
		return &tlsapi.Error{Kind: tlsapi.KindRejected, Option: "PrivateKey", Err: fmt.Errorf("the signer of the certificate: %w", err)}
	}
	s.value = value
	return nil
}

// scheme is what a signer must know of a signature scheme.
type scheme struct {
	hash crypto.Hash // 0 where the message itself is signed
	pss  bool
}

func (s scheme) options() crypto.SignerOpts {
	if s.pss {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash}
	}
	return s.hash
}

var schemes = map[tls.SignatureScheme]scheme{
	tls.PKCS1WithSHA256:        {hash: crypto.SHA256},
	tls.PKCS1WithSHA384:        {hash: crypto.SHA384},
	tls.PKCS1WithSHA512:        {hash: crypto.SHA512},
	tls.PSSWithSHA256:          {hash: crypto.SHA256, pss: true},
	tls.PSSWithSHA384:          {hash: crypto.SHA384, pss: true},
	tls.PSSWithSHA512:          {hash: crypto.SHA512, pss: true},
	tls.ECDSAWithP256AndSHA256: {hash: crypto.SHA256},
	tls.ECDSAWithP384AndSHA384: {hash: crypto.SHA384},
	tls.ECDSAWithP521AndSHA512: {hash: crypto.SHA512},
	tls.Ed25519:                {},
}
