package tlsapi_test

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// instances are the fields that a session or a ticket does not depend on: they
// change what this end does around a connection, not whom it trusts.
var instances = map[string]bool{
	"MaxBlindingDelay": true, "ConfigCacheSize": true, "HandshakeTimeout": true, "KeyLogWriter": true,
	"VerifyConnection": true, "HandshakeComplete": true, "HandshakeFailed": true,
	"SessionTicketsDisabled": true, "SessionCache": true, "SessionTicketKeys": true, "ALPNStrict": true,
	"GetCertificate": true, "GetConfigForClient": true,
}

// A field that is missing from a digest would make two different
// configurations interchangeable.
func TestEveryFieldIsInTheDigest(t *testing.T) {
	client := func() *tlsapi.ClientConfig { return new(tlsapi.ClientConfig) }
	server := func() *tlsapi.ServerConfig { return new(tlsapi.ServerConfig) }
	checkDigest(t, client, (*tlsapi.ClientConfig).Digest, func(c *tlsapi.ClientConfig) [32]byte {
		var out [32]byte
		copy(out[:], c.SessionKey("p")[len("p:"):])
		return out
	})
	checkDigest(t, server, (*tlsapi.ServerConfig).Digest, (*tlsapi.ServerConfig).TicketBinding)
}

func checkDigest[C any](t *testing.T, empty func() *C, digest, identity func(*C) [32]byte) {
	require.Equal(t, digest(empty()), digest(empty()))
	base, baseIdentity := digest(empty()), identity(empty())
	seen := map[[32]byte]string{base: "nothing"}
	for _, name := range fieldNames(reflect.TypeFor[C]()) {
		config := empty()
		setField(t, reflect.ValueOf(config).Elem().FieldByName(name), name)
		sum := digest(config)
		assert.Empty(t, seen[sum], "%T: setting %s makes the same digest", config, name)
		seen[sum] = name
		assert.Equal(t, instances[name], identity(config) == baseIdentity, "%T: %s and the identity of sessions", config, name)
	}
}

// fieldNames returns the names of the fields, those of embedded structs among
// them.
func fieldNames(of reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(of) {
		if !f.Anonymous {
			names = append(names, f.Name)
		}
	}
	return names
}

func TestDigestTellsContentsApart(t *testing.T) {
	ca1 := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	ca2 := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	leaf := tlstest.Spec{CommonName: "x", DNSNames: []string{"x.example"}}
	one, two := ca1.Leaf(t, leaf), ca2.Leaf(t, leaf)
	hook := func(n int) func(tls.ConnectionState) error {
		return func(tls.ConnectionState) error { _ = n; return nil }
	}
	first, second := hook(1), hook(2)
	base := func() *tlsapi.ClientConfig {
		return &tlsapi.ClientConfig{ServerName: "x.example", RootCAs: tlstest.Pool(ca1), Certificate: &one,
			Settings: tlsapi.Settings{VerifyConnection: first, ALPN: []string{"a", "b"}}}
	}
	assert.Equal(t, base().Digest(), base().Digest(), "equal contents are equal, whatever their addresses")
	for name, change := range map[string]func(*tlsapi.ClientConfig){
		"another CA of the same name":   func(c *tlsapi.ClientConfig) { c.RootCAs = tlstest.Pool(ca2) },
		"another certificate":           func(c *tlsapi.ClientConfig) { c.Certificate = &two },
		"another closure":               func(c *tlsapi.ClientConfig) { c.VerifyConnection = second },
		"protocols that run together":   func(c *tlsapi.ClientConfig) { c.ALPN = []string{"ab"} },
		"the order of protocols":        func(c *tlsapi.ClientConfig) { c.ALPN = []string{"b", "a"} },
		"no anchors":                    func(c *tlsapi.ClientConfig) { c.RootCAs = nil },
		"a secret":                      func(c *tlsapi.ClientConfig) { c.PSKs = []tlsapi.PSK{{Identity: []byte("a"), Secret: []byte("b")}} },
		"an identity into the next one": func(c *tlsapi.ClientConfig) { c.PSKs = []tlsapi.PSK{{Identity: []byte("ab")}} },
	} {
		config := base()
		change(config)
		assert.NotEqual(t, base().Digest(), config.Digest(), name)
	}
	assert.Equal(t, base().SessionKey("a"), base().SessionKey("a"))
	assert.NotEqual(t, base().SessionKey("a"), base().SessionKey("b"), "sessions of one library are nothing to another")
	upper := base()
	upper.ServerName = "X.Example"
	assert.Equal(t, base().SessionKey("a"), upper.SessionKey("a"))
}

// The fields inside of an option count like the option.
func TestEveryFieldOfAnOptionIsInTheDigest(t *testing.T) {
	client := func(c *tlsapi.ClientConfig) [32]byte { return c.Digest() }
	seen := make(map[[32]byte]string)
	add := func(name string, config *tlsapi.ClientConfig) {
		sum := client(config)
		assert.Empty(t, seen[sum], "%s makes the same digest", name)
		seen[sum] = name
	}
	add("a PSK", &tlsapi.ClientConfig{Settings: tlsapi.Settings{PSKs: make([]tlsapi.PSK, 1)}})
	for _, name := range fieldNames(reflect.TypeFor[tlsapi.PSK]()) {
		psks := make([]tlsapi.PSK, 1)
		setField(t, reflect.ValueOf(&psks[0]).Elem().FieldByName(name), name)
		add(name, &tlsapi.ClientConfig{Settings: tlsapi.Settings{PSKs: psks}})
	}
	add("a certificate", &tlsapi.ClientConfig{Certificate: new(tls.Certificate)})
	for _, name := range fieldNames(reflect.TypeFor[tls.Certificate]()) {
		cert := new(tls.Certificate)
		switch name {
		case "Leaf": // parsed from Certificate
			continue
		case "PrivateKey":
			// A key in memory is that of the leaf; one elsewhere is an instance.
			for i := range 2 {
				cert := &tls.Certificate{PrivateKey: signer{func() int { return i }}}
				add("a signer", &tlsapi.ClientConfig{Certificate: cert})
			}
			continue
		}
		setField(t, reflect.ValueOf(cert).Elem().FieldByName(name), name)
		add(name, &tlsapi.ClientConfig{Certificate: cert})
	}
}

// signer is told apart by what it holds, not by its type.
type signer struct{ call func() int }

// What is renewed while tickets live, and what differs between the processes
// that share ticket keys, is no part of the binding.
func TestTicketBindingOutlivesStaples(t *testing.T) {
	ca := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "CA"})
	cert := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x.example"}})
	config := &tlsapi.ServerConfig{Certificates: []tls.Certificate{cert}}
	stapled := cert
	stapled.OCSPStaple = []byte("staple")
	external := cert
	external.PrivateKey = signer{}
	for _, c := range []tls.Certificate{stapled, external} {
		other := &tlsapi.ServerConfig{Certificates: []tls.Certificate{c}}
		assert.Equal(t, config.TicketBinding(), other.TicketBinding())
		assert.NotEqual(t, config.Digest(), other.Digest())
	}
	own := ca.Leaf(t, tlstest.Spec{DNSNames: []string{"x.example"}})
	assert.NotEqual(t, config.TicketBinding(), (&tlsapi.ServerConfig{Certificates: []tls.Certificate{own}}).TicketBinding())
}

// Processes of other Go versions that share ticket keys must agree.
func TestDigestsAreStable(t *testing.T) {
	settings := tlsapi.Settings{
		MinVersion: tls.VersionTLS13, Curves: []tlsapi.CurveID{tlsapi.X25519}, ALPN: []string{"h2"},
		PSKs: []tlsapi.PSK{{Identity: []byte("i"), Secret: []byte("s"), Hash: tlsapi.PSKSHA384}},
	}
	server := &tlsapi.ServerConfig{Settings: settings, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{{1, 2, 3}}}}}
	client := &tlsapi.ClientConfig{Settings: settings, ServerName: "x.example", InsecureSkipVerify: true}
	assert.Equal(t, "c699cc7c40937ed73aef4bcbf0f88a29a8239bcc7fcdcc16f3083bae4f672308", fmt.Sprintf("%x", server.TicketBinding()))
	assert.Equal(t, "p:fd916a43da1658963cbb0b4b4b4194bc3bf7ef1e0b5edf05d4a02b060e9d20d5", client.SessionKey("p"))
}

func TestLRUSessionCache(t *testing.T) {
	c := tlsapi.NewLRUSessionCache(2)
	assert.Nil(t, c.Get("a"))
	for i := range 6 {
		c.Put("a", []byte{byte(i)})
	}
	for want := 5; want >= 2; want-- {
		assert.Equal(t, []byte{byte(want)}, c.Get("a"), "newest first, each once")
	}
	assert.Nil(t, c.Get("a"))
	c.Put("a", []byte{1})
	c.Put("b", []byte{2})
	c.Get("a")
	c.Put("a", []byte{1})
	c.Put("c", []byte{3})
	assert.Nil(t, c.Get("b"), "the key that was not used for the longest time is gone")
	assert.NotNil(t, c.Get("a"))
	assert.NotNil(t, c.Get("c"))
}
