package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/cpu"

	"github.com/polytls/polytls/tlsapi"
)

// test is what the runner's flags ask for: how to reach it, and one connection
// after the other.
type test struct {
	port        string
	shimID      uint64
	ipv6        bool
	server      bool
	resumeCount int
	initial     connection
	resumed     connection
}

// connection is what the flags say about one connection. Flags without a prefix
// count for all of them.
type connection struct {
	server bool
	async  bool
	// schemesPerCertificate is set where a certificate can have its own signature
	// schemes.
	schemesPerCertificate bool
	// hookSchemesSettled is set where that of GetClientCertificate cannot.
	hookSchemesSettled bool
	// noCertificateHook is set where a client has one certificate, given before the
	// handshake.
	noCertificateHook bool
	// matchIssuers are the leaves with -must-match-issuer.
	matchIssuers []*x509.Certificate
	// noTLSUnique is set where the library does not tell of it.
	noTLSUnique bool
	// oneShareByDefault is set where a second key share, which BoringSSL sends by
	// default, has to be asked for.
	oneShareByDefault bool
	// refusesLegacyServers is set where servers without RFC 5746 are refused.
	refusesLegacyServers bool
	// partlyCompliant is set where the provider has a part of what a compliance
	// policy says.
	partlyCompliant bool
	// fixedSchemes are the signature schemes of a library that has no setting for
	// them; it does not tell the peer's either.
	fixedSchemes []tls.SignatureScheme
	// hookPresents is set where only a certificate of GetClientCertificate is
	// presented, or ends the handshake, when it does not suit the server.
	hookPresents bool
	// noExporter is set where the library has none.
	noExporter bool

	// certificate is what -cert-file and its companions say before the first
	// -new-x509-credential; credentials are those after it, which come first.
	certificate credential
	credentials []credential
	compliance  *compliance

	minVersion, maxVersion uint16
	noVersion              map[uint16]bool
	suites                 []uint16
	curves                 []tlsapi.CurveID
	keyShares              []tlsapi.CurveID
	verifyPrefs            []tls.SignatureScheme

	hostName      string
	trustCert     string
	verifyPeer    bool
	customVerify  bool
	verifyFail    bool
	reverify      bool
	requireClient bool
	clientCAs     [][]byte

	noLegacyServers bool

	advertiseALPN []string
	selectALPN    string
	rejectALPN    bool
	declineALPN   bool

	noTicket    bool
	renewTicket bool
	ticketKeys  [][32]byte

	pskSecret   []byte
	pskIdentity []byte

	earlyCallback     bool
	failEarlyCallback bool
	failCertCallback  bool
	hookFails         bool
	useOCSPCallback   bool
	declineOCSP       bool
	failOCSP          bool

	implicitHandshake    bool
	handshakeAgain       bool
	writesFirst          bool
	initialWrite         string
	repeatInitialWrite   int
	differentRecordSizes bool
	readSize             int
	shutsDown            bool
	checkCloseNotify     bool
	exportBetweenReads   bool
	exportLength         int
	exportLabel          string
	exportContext        string
	useExportContext     bool
	tlsUnique            bool

	expectVersion        uint16
	expectCipher         uint16
	expectCurve          tlsapi.CurveID
	expectScheme         tls.SignatureScheme
	expectVerifyPrefs    []tls.SignatureScheme
	expectALPN           string
	expectAdvertisedALPN []string
	expectServerName     string
	expectNoServerName   bool
	expectHRR            bool
	expectNoHRR          bool
	expectOCSP           []byte
	expectSessionMiss    bool
	expectNoSession      bool
	expectTicketRenewal  bool
	expectPeerCert       string
	expectClientCAs      [][]byte
	expectNoPeerCert     bool
	expectSCTs           []byte
	expectEMS            bool
	enableSCTs           bool
}

// credential is a certificate with its key, or an imported PSK.
type credential struct {
	certFile, keyFile string
	signingPrefs      []tls.SignatureScheme
	ocspResponse      []byte
	scts              []byte
	psk               *tlsapi.PSK
	mustMatchIssuer   bool
}

// last is what flags about a credential speak of.
func (c *connection) last() *credential {
	if n := len(c.credentials); n > 0 {
		return &c.credentials[n-1]
	}
	return &c.certificate
}

// parse reads the runner's flags.
func parse(args []string) (*test, error) {
	t := &test{}
	for _, c := range []*connection{&t.initial, &t.resumed} {
		c.noVersion = make(map[uint16]bool)
		c.initialWrite = "hello"
		c.repeatInitialWrite = 1
	}
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		into := []*connection{&t.initial, &t.resumed}
		// Flags of two processes' handshakes: this end does without the handshaker,
		// whose flags do not matter then.
		if rest, ok := strings.CutPrefix(name, "-on-shim"); ok {
			name = rest
		} else if rest, ok := strings.CutPrefix(name, "-on-handshaker"); ok {
			name, into = rest, nil
		}
		if rest, ok := strings.CutPrefix(name, "-on-initial"); ok {
			name, into = rest, into[:min(1, len(into))]
		} else if rest, ok := strings.CutPrefix(name, "-on-resume"); ok {
			name, into = rest, into[min(1, len(into)):]
		} else if strings.HasPrefix(name, "-on-retry") {
			return nil, missing{"early data (" + name + ")"}
		}
		name = strings.TrimPrefix(name, "-")
		if policy, ok := compliances[name]; ok {
			for _, c := range into {
				c.compliance = &policy
			}
			continue
		}

		if set, ok := switches[name]; ok {
			for _, c := range into {
				set(c)
			}
			continue
		}
		if name == "server" || name == "ipv6" {
			t.server = t.server || name == "server"
			t.ipv6 = t.ipv6 || name == "ipv6"
			continue
		}
		if _, ok := options[name]; !ok && !global[name] {
			return nil, missing{"-" + name}
		}
		if len(args) == 0 {
			return nil, fmt.Errorf("flag -%s has no value", name)
		}
		value := args[0]
		args = args[1:]
		if global[name] {
			if err := t.set(name, value); err != nil {
				return nil, fmt.Errorf("flag -%s: %w", name, err)
			}
			continue
		}
		for _, c := range into {
			if err := options[name](c, value); err != nil {
				return nil, fmt.Errorf("flag -%s: %w", name, err)
			}
		}
	}
	t.initial.server, t.resumed.server = t.server, t.server
	return t, nil
}

var global = map[string]bool{"port": true, "shim-id": true, "resume-count": true}

func (t *test) set(name, value string) (err error) {
	switch name {
	case "port":
		t.port = value
	case "shim-id":
		t.shimID, err = strconv.ParseUint(value, 10, 64)
	case "resume-count":
		t.resumeCount, err = strconv.Atoi(value)
	}
	return err
}

// switches are the flags without a value.
var switches = map[string]func(*connection){
	"async":                          func(c *connection) { c.async = true },
	"no-tls1":                        func(c *connection) { c.noVersion[tls.VersionTLS10] = true },
	"no-tls11":                       func(c *connection) { c.noVersion[tls.VersionTLS11] = true },
	"no-tls12":                       func(c *connection) { c.noVersion[tls.VersionTLS12] = true },
	"no-tls13":                       func(c *connection) { c.noVersion[tls.VersionTLS13] = true },
	"verify-peer":                    func(c *connection) { c.verifyPeer = true },
	"use-custom-verify-callback":     func(c *connection) { c.customVerify = true },
	"verify-fail":                    func(c *connection) { c.verifyFail = true },
	"reverify-on-resume":             func(c *connection) { c.reverify = true },
	"require-any-client-certificate": func(c *connection) { c.requireClient = true },
	"reject-alpn":                    func(c *connection) { c.rejectALPN = true },
	"decline-alpn":                   func(c *connection) { c.declineALPN = true },
	"no-ticket":                      func(c *connection) { c.noTicket = true },
	"skip-ticket":                    func(c *connection) { c.noTicket = true },
	"renew-ticket":                   func(c *connection) { c.renewTicket = true },
	"use-early-callback":             func(c *connection) { c.earlyCallback = true },
	"fail-early-callback":            func(c *connection) { c.failEarlyCallback = true },
	"fail-cert-callback":             func(c *connection) { c.failCertCallback = true },
	"use-ocsp-callback":              func(c *connection) { c.useOCSPCallback = true },
	"install-ddos-callback":          func(c *connection) { c.earlyCallback = true },
	"fail-ddos-callback":             func(c *connection) { c.hookFails = true },
	"decline-ocsp-callback":          func(c *connection) { c.declineOCSP = true },
	"fail-ocsp-callback":             func(c *connection) { c.failOCSP = true },
	"implicit-handshake":             func(c *connection) { c.implicitHandshake = true },
	"handshake-twice":                func(c *connection) { c.handshakeAgain = true },
	"no-op-extra-handshake":          func(c *connection) { c.handshakeAgain = true },
	"shim-writes-first":              func(c *connection) { c.writesFirst = true },
	"write-different-record-sizes":   func(c *connection) { c.differentRecordSizes = true },
	"shim-shuts-down":                func(c *connection) { c.shutsDown = true },
	"check-close-notify":             func(c *connection) { c.checkCloseNotify = true },
	"use-exporter-between-reads":     func(c *connection) { c.exportBetweenReads = true },
	"use-export-context":             func(c *connection) { c.useExportContext = true },
	"tls-unique":                     func(c *connection) { c.tlsUnique = true },
	"expect-no-server-name":          func(c *connection) { c.expectNoServerName = true },
	"expect-hrr":                     func(c *connection) { c.expectHRR = true },
	"expect-no-hrr":                  func(c *connection) { c.expectNoHRR = true },
	"expect-session-miss":            func(c *connection) { c.expectSessionMiss = true },
	"expect-no-session":              func(c *connection) { c.expectNoSession = true },
	"expect-ticket-renewal":          func(c *connection) { c.expectTicketRenewal = true },
	"expect-no-peer-cert":            func(c *connection) { c.expectNoPeerCert = true },
	"expect-extended-master-secret":  func(c *connection) { c.expectEMS = true },
	"enable-signed-cert-timestamps":  func(c *connection) { c.enableSCTs = true },
	"no-legacy-server-connect":       func(c *connection) { c.noLegacyServers = true },
	"must-match-issuer":              func(c *connection) { c.last().mustMatchIssuer = true },
	"new-x509-credential":            func(c *connection) { c.credentials = append(c.credentials, credential{}) },
	"new-psk-credential": func(c *connection) {
		c.credentials = append(c.credentials, credential{psk: &tlsapi.PSK{Kind: tlsapi.PSKImported}})
	},
	"psk-importer-sha256": func(c *connection) { c.setPSK(func(p *tlsapi.PSK) { p.Hash = tlsapi.PSKSHA256 }) },
	"psk-importer-sha384": func(c *connection) { c.setPSK(func(p *tlsapi.PSK) { p.Hash = tlsapi.PSKSHA384 }) },

	// The certificate holds the response, whenever it is set.
	"set-ocsp-in-callback": func(*connection) {},
	// Clients ask for a stapled response, servers have no cache of session
	// identifiers, and a client's certificate needs no callback.
	"enable-ocsp-stapling":         func(*connection) {},
	"expect-no-session-id":         func(*connection) {},
	"use-old-client-cert-callback": func(*connection) {},
	// The verification's outcome is that of the handshake.
	"expect-verify-result": func(*connection) {},
	// There is no early data: it is neither offered nor accepted, and a test that
	// wants nothing else applies.
	"enable-early-data":          func(*connection) {},
	"expect-reject-early-data":   func(*connection) {},
	"expect-no-offer-early-data": func(*connection) {},
	// Tickets go through callbacks of ours where the library has them.
	"use-ticket-callback":      func(*connection) {},
	"use-ticket-aead-callback": func(*connection) {},
	// For two processes.
	"allow-hint-mismatch": func(*connection) {},
	// What these allow, Polytls never does: a test that wants nothing else applies.
	"false-start":                    func(*connection) {},
	"allow-false-start-without-alpn": func(*connection) {},
	"jdk11-workaround":               func(*connection) {},
	// Renegotiation is always forbidden: a request for it is refused or ignored.
	"forbid-renegotiation-after-handshake": func(*connection) {},
	"renegotiate-ignore":                   func(*connection) {},
	// Every Write is whole.
	"partial-write": func(*connection) {},
}

func (c *connection) setPSK(set func(*tlsapi.PSK)) {
	if p := c.last().psk; p != nil {
		set(p)
	}
}

// options are the flags with a value.
var options = map[string]func(*connection, string) error{
	"cert-file":      func(c *connection, v string) error { c.last().certFile = v; return nil },
	"key-file":       func(c *connection, v string) error { c.last().keyFile = v; return nil },
	"signing-prefs":  func(c *connection, v string) error { return appendNumber(&c.last().signingPrefs, v) },
	"ocsp-response":  func(c *connection, v string) error { return decode(&c.last().ocspResponse, v) },
	"trust-cert":     func(c *connection, v string) error { c.trustCert = v; return nil },
	"host-name":      func(c *connection, v string) error { c.hostName = v; return nil },
	"min-version":    func(c *connection, v string) error { return number(&c.minVersion, v) },
	"max-version":    func(c *connection, v string) error { return number(&c.maxVersion, v) },
	"curves":         func(c *connection, v string) error { return appendNumber(&c.curves, v) },
	"key-shares":     func(c *connection, v string) error { return appendNumber(&c.keyShares, v) },
	"verify-prefs":   func(c *connection, v string) error { return appendNumber(&c.verifyPrefs, v) },
	"cipher":         func(c *connection, v string) (err error) { c.suites, err = parseSuites(v); return err },
	"advertise-alpn": func(c *connection, v string) (err error) { c.advertiseALPN, err = protocols(v); return err },
	"select-alpn":    func(c *connection, v string) error { c.selectALPN = v; return nil },
	"psk":            func(c *connection, v string) error { c.pskSecret = []byte(v); return nil },
	"psk-identity":   func(c *connection, v string) error { c.pskIdentity = []byte(v); return nil },
	"psk-importer-key": func(c *connection, v string) error {
		p := c.last().psk
		if p == nil {
			return missing{"-psk-importer-key without a credential"}
		}
		return decode(&p.Secret, v)
	},
	"psk-importer-identity": func(c *connection, v string) error {
		p := c.last().psk
		if p == nil {
			return missing{"-psk-importer-identity without a credential"}
		}
		return decode(&p.Identity, v)
	},
	"psk-importer-context": func(c *connection, v string) error {
		p := c.last().psk
		if p == nil {
			return missing{"-psk-importer-context without a credential"}
		}
		return decode(&p.Context, v)
	},
	"signed-cert-timestamps":        func(c *connection, v string) error { return decode(&c.last().scts, v) },
	"shim-initial-write":            func(c *connection, v string) error { c.initialWrite = v; return nil },
	"repeat-shim-initial-write":     func(c *connection, v string) error { return number(&c.repeatInitialWrite, v) },
	"read-size":                     func(c *connection, v string) error { return number(&c.readSize, v) },
	"export-keying-material":        func(c *connection, v string) error { return number(&c.exportLength, v) },
	"export-label":                  func(c *connection, v string) error { c.exportLabel = v; return nil },
	"export-context":                func(c *connection, v string) error { c.exportContext = v; return nil },
	"expect-version":                func(c *connection, v string) error { return number(&c.expectVersion, v) },
	"expect-cipher":                 func(c *connection, v string) error { return number(&c.expectCipher, v) },
	"expect-curve-id":               func(c *connection, v string) error { return number(&c.expectCurve, v) },
	"expect-peer-verify-pref":       func(c *connection, v string) error { return appendNumber(&c.expectVerifyPrefs, v) },
	"expect-alpn":                   func(c *connection, v string) error { c.expectALPN = v; return nil },
	"expect-server-name":            func(c *connection, v string) error { c.expectServerName = v; return nil },
	"expect-ocsp-response":          func(c *connection, v string) error { return decode(&c.expectOCSP, v) },
	"expect-signed-cert-timestamps": func(c *connection, v string) error { return decode(&c.expectSCTs, v) },
	"expect-peer-cert-file":         func(c *connection, v string) error { c.expectPeerCert = v; return nil },
	"expect-peer-signature-algorithm": func(c *connection, v string) error {
		return number(&c.expectScheme, v)
	},
	"expect-total-renegotiations": func(c *connection, v string) error {
		if v != "0" {
			return missing{"renegotiation"}
		}
		return nil
	},
	"use-client-ca-list":    func(c *connection, v string) error { return names(&c.clientCAs, v) },
	"expect-client-ca-list": func(c *connection, v string) error { return names(&c.expectClientCAs, v) },
	"expect-advertised-alpn": func(c *connection, v string) (err error) {
		c.expectAdvertisedALPN, err = protocols(v)
		return err
	},
	// The messages in the order in which a callback sees them: the runner sees
	// them, too.
	"expect-msg-callback": func(*connection, string) error { return nil },
	// Which of the two depends on the processor.
	"expect-cipher-aes":    func(c *connection, v string) error { return expectCipherOn(c, v, cpu.X86.HasAES || cpu.ARM64.HasAES) },
	"expect-cipher-no-aes": func(c *connection, v string) error { return expectCipherOn(c, v, !cpu.X86.HasAES && !cpu.ARM64.HasAES) },
	// The runner compares the certificate that it was sent with the one that it
	// expects; tlsapi does not tell which of its own a connection has used.
	"expect-selected-credential": func(*connection, string) error { return nil },
}

func expectCipherOn(c *connection, text string, here bool) error {
	if !here {
		return nil
	}
	return number(&c.expectCipher, text)
}

func number[T ~int | ~uint16](into *T, text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	*into = T(n)
	return err
}

func appendNumber[T ~int | ~uint16](into *[]T, text string) error {
	var n T
	if err := number(&n, text); err != nil {
		return err
	}
	*into = append(*into, n)
	return nil
}

func decode(into *[]byte, text string) (err error) {
	*into, err = base64.StdEncoding.DecodeString(text)
	return err
}

// names reads a list of distinguished names. BoringSSL tells a list that is empty
// from none; on the wire they are one.
func names(into *[][]byte, text string) error {
	*into = [][]byte{}
	if text == "<EMPTY>" || text == "<NULL>" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, err := hex.DecodeString(part)
		if err != nil {
			return err
		}
		*into = append(*into, name)
	}
	return nil
}

// protocols reads a list of ALPN names, each after its length.
func protocols(text string) ([]string, error) {
	var names []string
	for len(text) > 0 {
		n := int(text[0])
		if len(text) < 1+n {
			return nil, fmt.Errorf("a name of %d bytes in %q is cut short", n, text)
		}
		names = append(names, text[1:1+n])
		text = text[1+n:]
	}
	return names, nil
}

// opensslSuites are OpenSSL's names of the suites of TLS 1.2 that tlsapi knows.
var opensslSuites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// parseSuites reads a plain list of suites, by OpenSSL's names or the IANA's;
// OpenSSL's other expressions are no lists.
func parseSuites(text string) ([]uint16, error) {
	var suites []uint16
	for name := range strings.SplitSeq(text, ":") {
		id, ok := opensslSuites[name]
		if !ok {
			parsed, err := tlsapi.ParseCipherSuites(name)
			if err != nil {
				return nil, missing{"-cipher " + text}
			}
			id = parsed[0]
		}
		suites = append(suites, id)
	}
	return suites, nil
}
