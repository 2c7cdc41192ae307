package native

import (
	stdcontext "context"
	"crypto"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/tlsapi"
)

// certificateChooser asks a client's hook for the certificate that the server asks
// for.
type certificateChooser struct {
	provider *Provider
	config   *tlsapi.ClientConfig
}

// chosenCertificate is what the library is told: the data of connChosenCertificate,
// and who signs where that holds no private key.
type chosenCertificate struct {
	answer []byte
	signer crypto.Signer
}

// choose lets the hook decide. It may block. Until it has come to something,
// chosen fails the handshake.
func (c *certificateChooser) choose(ctx stdcontext.Context, wire []byte, chosen *chosenCertificate) error {
	request, err := parseCertificateRequest(wire)
	if err != nil {
		return err
	}
	setContext(request, ctx)
	cert, err := c.config.GetClientCertificate(request)
	if err != nil {
		chosen.answer = []byte{choiceFail, engine.HookAlert(err, alertInternalError)}
		return &tlsapi.Error{Kind: tlsapi.KindRejected, Option: "GetClientCertificate", Err: fmt.Errorf("GetClientCertificate: %w", err)}
	}
	if cert == nil {
		chosen.answer = []byte{choiceKeep}
		return nil
	}
	if len(cert.Certificate) == 0 {
		chosen.answer = []byte{choiceNone}
		return nil
	}
	effective := *c.config
	effective.Certificate, effective.GetClientCertificate = cert, nil
	if err := c.provider.checkClient(&effective); err != nil {
		return ofOption("GetClientCertificate", err)
	}
	if len(cert.SignedCertificateTimestamps) > 0 {
		return tlsapi.UnsupportedError(c.provider.ProviderName, "GetClientCertificate", "SignedCertificateTimestamps of the hook's certificate are not sent")
	}
	identity, err := keyAndChain("GetClientCertificate", cert)
	if err != nil {
		return err
	}
	defer clear(identity)
	schemes := uint16s(cert.SupportedSignatureAlgorithms)
	answer := make([]byte, 0, 3+len(schemes)+len(identity))
	answer = binary.BigEndian.AppendUint16(append(answer, choiceSend), uint16(len(schemes)))
	chosen.answer = append(append(answer, schemes...), identity...)
	chosen.signer = externalSigner(cert.PrivateKey)
	return nil
}

// parseCertificateRequest reads POLYTLS_GET_CERTIFICATE_REQUEST.
func parseCertificateRequest(wire []byte) (*tls.CertificateRequestInfo, error) {
	damaged := &tlsapi.Error{Kind: tlsapi.KindInternal, Err: errors.New("the library does not tell what the server asks for")}
	if len(wire) < 4 {
		return nil, damaged
	}
	request := &tls.CertificateRequestInfo{Version: binary.BigEndian.Uint16(wire)}
	size := int(binary.BigEndian.Uint16(wire[2:]))
	wire = wire[4:]
	if size%2 != 0 || len(wire) < size+1 || len(wire) < size+1+int(wire[size]) {
		return nil, damaged
	}
	for at := 0; at < size; at += 2 {
		request.SignatureSchemes = append(request.SignatureSchemes, tls.SignatureScheme(binary.BigEndian.Uint16(wire[at:])))
	}
	types := wire[size+1 : size+1+int(wire[size])]
	request.AcceptableCAs = chain(wire[size+1+len(types):])
	if request.Version == tls.VersionTLS12 {
		request.SignatureSchemes = slices.DeleteFunc(request.SignatureSchemes, func(s tls.SignatureScheme) bool {
			kind, known := certificateTypes[s]
			return !known || !slices.Contains(types, kind)
		})
	}
	return request, nil
}

// certificateTypes are the ClientCertificateTypes (RFC 5246 section 7.4.4, RFC 8422
// section 5.5) of the certificates that sign with a scheme: a TLS 1.2 server must
// ask for both. Other schemes no hook sees, as in crypto/tls.
var certificateTypes = func() map[tls.SignatureScheme]byte {
	const rsaSign, ecdsaSign = 1, 64
	types := make(map[tls.SignatureScheme]byte)
	for _, s := range []tls.SignatureScheme{tls.PKCS1WithSHA1, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512,
		tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512} {
		types[s] = rsaSign
	}
	for _, s := range []tls.SignatureScheme{tls.ECDSAWithSHA1, tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384,
		tls.ECDSAWithP521AndSHA512, tls.Ed25519} {
		types[s] = ecdsaSign
	}
	return types
}()

// setContext makes Context return ctx: only crypto/tls can set its field. Where a
// release has no such field, Context returns nil, which a test would find.
func setContext(request *tls.CertificateRequestInfo, ctx stdcontext.Context) {
	field := reflect.ValueOf(request).Elem().FieldByName("ctx")
	if field.IsValid() && field.Type() == reflect.TypeFor[stdcontext.Context]() {
		*(*stdcontext.Context)(unsafe.Pointer(field.UnsafeAddr())) = ctx
	}
}
