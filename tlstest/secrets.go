package tlstest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testSecrets prints everything that a program may log, in every way, and looks
// for the secrets in it.
func (s *suite) testSecrets(t *testing.T) {
	t.Run("configurations", s.testSecretConfigurations)
	t.Run("connections", s.testSecretConnections)
	t.Run("session caches", s.testSecretSessions)
	t.Run("refusals", s.testSecretRefusals)
}

// secrets are what must not be printed, by name.
type secrets map[string][]byte

// keys adds the private numbers of a certificate's key.
func (x secrets) key(name string, cert tls.Certificate) {
	switch key := cert.PrivateKey.(type) {
	case *ecdsa.PrivateKey:
		if raw, err := key.Bytes(); err == nil {
			x[name] = raw
		}
	case *rsa.PrivateKey:
		x[name+", exponent"] = key.D.Bytes()
		for i, prime := range key.Primes {
			x[fmt.Sprintf("%s, prime %d", name, i+1)] = prime.Bytes()
		}
	case ed25519.PrivateKey:
		x[name] = key.Seed()
	}
}

// forms returns what secret may look like in a text: a part of it is enough.
func forms(secret []byte) []string {
	const part = 6
	number := new(big.Int).SetBytes(secret)
	all := []string{
		string(secret), hex.EncodeToString(secret), number.String(), number.Text(16),
		base64.StdEncoding.EncodeToString(secret)[:len(secret)], base64.RawURLEncoding.EncodeToString(secret)[:len(secret)],
	}
	for at := 0; at+part <= len(secret); at += len(secret) - part {
		bits := secret[at : at+part]
		list := func(format, separator string) string {
			var texts []string
			for _, b := range bits {
				texts = append(texts, fmt.Sprintf(format, b))
			}
			return strings.Join(texts, separator)
		}
		all = append(all,
			list("%d", " "), list("%d", ","), list("%d", ", "), list("%#x", ", "), list("%#x", ","), list("0x%02x", ", "),
			list("%02x", " "), list("%02x", ""), list("%02X", ""), list("%o", " "),
			strings.Trim(fmt.Sprintf("%q", bits), `"`), string(bits))
	}
	for _, word := range number.Bits() {
		// A short one (a length inside a session) stands in any text.
		if uint64(word)>>40 == 0 {
			continue
		}
		all = append(all, fmt.Sprint(uint(word)), fmt.Sprintf("%x", uint(word)))
	}
	return all
}

// requireSecret prints value in every way and fails the test when it finds one of
// the secrets.
func requireSecret(t *testing.T, x secrets, name string, value any) {
	t.Helper()
	// In a struct's unexported field package fmt can call no methods. Pointers
	// are safe there, but not with %s and %q, for which it looks behind them.
	unexported := struct{ hidden any }{value}
	pointer := reflect.ValueOf(value).Kind() == reflect.Pointer
	texts := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d"} {
		texts[verb] = fmt.Sprintf(verb, value)
		texts[verb+" in a list"] = fmt.Sprintf(verb, []any{value})
		texts[verb+" in a map"] = fmt.Sprintf(verb, map[string]any{"k": value})
		texts[verb+" in a struct"] = fmt.Sprintf(verb, struct{ Shown any }{value})
		texts[verb+" in a pointer to a struct"] = fmt.Sprintf(verb, &struct{ Shown any }{value})
		if pointer && verb != "%s" && verb != "%q" {
			texts[verb+" behind an unexported field"] = fmt.Sprintf(verb, unexported)
		}
	}
	// A value that JSON cannot show (a function in a struct) shows nothing.
	if encoded, err := json.Marshal(map[string]any{"value": value}); err == nil {
		texts["JSON"] = string(encoded)
	}
	var text, structured bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("log", "value", value, "nested", struct{ Shown any }{value})
	slog.New(slog.NewJSONHandler(&structured, nil)).Info("log", "value", value, "nested", struct{ Shown any }{value})
	texts["slog as text"], texts["slog as JSON"] = text.String(), structured.String()
	for secret, bits := range x {
		for _, form := range forms(bits) {
			for way, printed := range texts {
				if strings.Contains(printed, form) {
					assert.Fail(t, "a secret was printed", "%s: %s prints %s as %q", name, way, secret, form)
				}
			}
		}
	}
}

// secretSettings returns settings with a PSK, and what is secret in them.
func secretSettings(t *testing.T, x secrets) tlsapi.Settings {
	t.Helper()
	psk := tlsapi.PSK{Identity: []byte("identity"), Secret: newSecret(32)}
	x["PSK"] = psk.Secret
	return tlsapi.Settings{
		PSKs: []tlsapi.PSK{psk}, RequirePSK: true, KeyLogWriter: new(bytes.Buffer),
		VerifyConnection: func(tls.ConnectionState) error { return nil },
	}
}

func newSecret(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// testSecretConfigurations prints the types of package tlsapi.
func (s *suite) testSecretConfigurations(t *testing.T) {
	for _, kind := range []KeyType{ECDSA, RSA, Ed25519} {
		x := make(secrets)
		x.key(kind.String(), s.certs[kind])
		cert := s.certs[kind]
		client := &tlsapi.ClientConfig{
			Settings: secretSettings(t, x), ServerName: serverName, RootCAs: Pool(s.ca), Certificate: &cert,
			SessionCache: tlsapi.NewLRUSessionCache(0),
		}
		server := &tlsapi.ServerConfig{
			Settings: client.Settings, Certificates: []tls.Certificate{cert, cert},
			SessionTicketKeys: [][32]byte{[32]byte(newSecret(32)), [32]byte(newSecret(32))},
		}
		for i := range server.SessionTicketKeys {
			x[fmt.Sprintf("ticket key %d", i+1)] = server.SessionTicketKeys[i][:]
		}
		for name, value := range map[string]any{
			"pointer to a client's": client, "pointer to a server's": server, "pointer to settings": &client.Settings,
			"pointer to a PSK": &client.PSKs[0], "pool": client.RootCAs,
		} {
			requireSecret(t, x, name, value)
		}
		for name, value := range map[string]any{
			"client's": *client, "server's": *server, "settings": client.Settings, "PSK": client.PSKs[0], "PSKs": client.PSKs,
			"clients'": []tlsapi.ClientConfig{*client}, "embedded": struct{ tlsapi.ClientConfig }{*client},
			"map": map[string]tlsapi.ServerConfig{"k": *server}, "features": client.Features(),
		} {
			requireSecret(t, x, name, value)
		}
	}
}

// testSecretConnections prints what is there while connections live.
func (s *suite) testSecretConnections(t *testing.T) {
	eachVersion(t, func(t *testing.T, version uint16) {
		x := make(secrets)
		for _, kind := range []KeyType{ECDSA, RSA} {
			x.key(kind.String(), s.certs[kind])
		}
		x.key("client's key", s.clientCert)
		var log bytes.Buffer
		d := newPair(t, s, s, version, func(c *tlsapi.ClientConfig) {
			c.Certificate = &s.clientCert
			if s.supported(tlsapi.ClientKeyLog) {
				c.KeyLogWriter = &log
			}
		}, func(c *tlsapi.ServerConfig) {
			c.Certificates = []tls.Certificate{s.certs[RSA]}
			if s.supported(tlsapi.ServerSessionTicketKeys) {
				c.SessionTicketKeys = [][32]byte{[32]byte(newSecret(32))}
				x["ticket key"] = c.SessionTicketKeys[0][:]
			}
		})
		d.mustHandshake(t)
		d.mustEcho(t)
		s.addLoggedSecrets(t, x, log.String())
		plain := newSecret(64)
		x["data"] = plain
		_, err := d.client.Write(plain)
		require.NoError(t, err)
		_, err = d.server.Read(make([]byte, len(plain)/2))
		require.NoError(t, err)
		requireSecret(t, x, "provider", s.p)
		for name, conn := range map[string]tlsapi.Conn{"client": d.clientConn, "server": d.serverConn} {
			requireSecret(t, x, name, conn)
			requireSecret(t, x, name+"'s information", conn.Info())
		}
		// An error after the handshake.
		d.serverWire.Tamper(func(p []byte) { p[len(p)-1] ^= 1 })
		_, err = d.server.Write(plain)
		require.NoError(t, err)
		_, err = d.client.Read(make([]byte, 1))
		require.Error(t, err)
		requireSecret(t, x, "error", err)
	})
	for _, p := range s.pskSuites() {
		t.Run("PSKs, "+p.kind.String(), func(t *testing.T) {
			s.need(t, p.client, p.server)
			x := make(secrets)
			right, wrong := p.psk("a", 1, tlsapi.PSKSHA256), p.psk("a", 1, tlsapi.PSKSHA256)
			right.Secret, wrong.Secret = newSecret(32), newSecret(32)
			x["PSK"], x["the other PSK"] = right.Secret, wrong.Secret
			d := p.pair(t, []tlsapi.PSK{right}, []tlsapi.PSK{right}, nil, nil)
			d.mustHandshake(t)
			requireSecret(t, x, "client", d.clientConn)
			requireSecret(t, x, "server", d.serverConn)
			requireSecret(t, x, "client's information", d.clientConn.Info())
			requireSecret(t, x, "provider", s.p)
			d = p.pair(t, []tlsapi.PSK{right}, []tlsapi.PSK{wrong}, nil, nil)
			clientErr, serverErr := d.handshake()
			require.Error(t, errors.Join(clientErr, serverErr))
			requireSecret(t, x, "client's error", clientErr)
			requireSecret(t, x, "server's error", serverErr)
		})
	}
}

// addLoggedSecrets adds the secrets of a key log: label, random, secret.
func (s *suite) addLoggedSecrets(t *testing.T, x secrets, log string) {
	t.Helper()
	if !s.supported(tlsapi.ClientKeyLog) {
		return
	}
	require.NotEmpty(t, log)
	for line := range strings.Lines(log) {
		fields := strings.Fields(line)
		require.Len(t, fields, 3)
		secret, err := hex.DecodeString(fields[2])
		require.NoError(t, err)
		x[fields[0]] = secret
	}
}

func (s *suite) testSecretSessions(t *testing.T) {
	s.need(t, tlsapi.ClientSessionCache)
	eachVersion(t, func(t *testing.T, version uint16) {
		recorder := &frozenCache{}
		config := s.clientConfig(func(c *tlsapi.ClientConfig) {
			s.fixVersion(&c.Settings, version)
			c.SessionCache = recorder
		})
		s.call(t, config, promiscuousServer(version, s.certs[ECDSA]), func(d *duo) { d.mustEcho(t) })
		require.Equal(t, 1, recorder.freeze())
		cache, x := tlsapi.NewLRUSessionCache(0), make(secrets)
		for key, session := range recorder.sessions {
			// What libraries keep secret stands somewhere in it. Half of what is
			// random does not look so from a given byte on.
			for at := 0; at+32 <= len(session); {
				if block := session[at : at+32]; random(block[:6]) && random(block[26:]) && !text(block) {
					x[fmt.Sprintf("session from byte %d", at)] = block
					at += 16
				} else {
					at++
				}
			}
			cache.Put(key, session)
		}
		require.NotEmpty(t, x)
		requireSecret(t, x, "cache", cache)
		holder := *config
		holder.SessionCache = cache
		requireSecret(t, x, "configuration", &holder)
		requireSecret(t, x, "provider", s.p)
	})
}

// random tells bytes that look random from names and numbers, which also stand
// elsewhere.
func random(b []byte) bool {
	high := 0
	for _, v := range b {
		if v >= 0x80 {
			high++
		}
	}
	return high >= len(b)/2 && bytes.IndexByte(b, 0) < 0
}

// text tells blocks with a word in them, such as a piece of the server's name:
// other things that are printed hold the same word.
func text(b []byte) bool {
	run := 0
	for _, v := range b {
		if run++; v < ' ' || v > '~' {
			run = 0
		}
		if run == 5 {
			return true
		}
	}
	return false
}

// testSecretRefusals looks at the errors of configurations that are refused.
func (s *suite) testSecretRefusals(t *testing.T) {
	x := make(secrets)
	short := newSecret(15)
	x["short PSK"] = short
	key := [32]byte(newSecret(32))
	x["ticket key"] = key[:]
	mismatched := s.certs[Ed25519]
	mismatched.PrivateKey = newKey(t, Ed25519)
	x.key("key", mismatched)
	for name, config := range map[string]*tlsapi.ServerConfig{
		"short PSK": s.serverConfig(func(c *tlsapi.ServerConfig) {
			c.PSKs = []tlsapi.PSK{{Identity: []byte("a"), Secret: short}}
		}),
		"ticket keys": s.serverConfig(func(c *tlsapi.ServerConfig) { c.SessionTicketKeys = [][32]byte{key, key} }),
		"wrong key":   s.serverConfig(func(c *tlsapi.ServerConfig) { c.Certificates = []tls.Certificate{mismatched} }),
	} {
		wire, _ := newWire(t)
		_, err := s.p.Server(wire, config)
		require.Error(t, err)
		requireSecret(t, x, name, err)
	}
}
