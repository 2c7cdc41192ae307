package tlsapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// forms returns how a secret could look in a text.
func forms(secret []byte) []string {
	decimal := strings.Trim(fmt.Sprint([]int{int(secret[0]), int(secret[1]), int(secret[2])}), "[]")
	return []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret), decimal, strings.ReplaceAll(decimal, " ", ","),
		fmt.Sprintf("%#x, %#x, %#x", secret[0], secret[1], secret[2]),
	}
}

func TestPSKNeverPrints(t *testing.T) {
	secret := []byte("Tops3cret!Tops3cret!")
	psk := tlsapi.PSK{Identity: []byte("me"), Secret: secret, Hash: tlsapi.PSKSHA384, Kind: tlsapi.PSKImported}
	config := &tlsapi.ClientConfig{Settings: tlsapi.Settings{PSKs: []tlsapi.PSK{psk}}}
	values := map[string]any{
		"value": psk, "pointer": &psk, "slice": []tlsapi.PSK{psk}, "pointers": []*tlsapi.PSK{&psk},
		"map": map[string]tlsapi.PSK{"k": psk}, "struct": struct{ P tlsapi.PSK }{psk}, "any": []any{psk},
		"settings": config.Settings, "configuration": *config, "pointer to configuration": config,
	}
	for name, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%#x", "%t", "%o", "%c", "%U", "%b", "%10.3s"} {
			text := fmt.Sprintf(verb, value)
			for _, form := range forms(secret) {
				assert.NotContains(t, text, form, "%s with %s", name, verb)
			}
		}
	}
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("psk", "value", psk, "pointer", &psk, "slice", []tlsapi.PSK{psk})
	}
	encoded, err := json.Marshal(map[string]any{"value": psk, "pointer": &psk, "slice": []tlsapi.PSK{psk}})
	require.NoError(t, err)
	for _, form := range forms(secret) {
		assert.NotContains(t, log.String(), form)
		assert.NotContains(t, string(encoded), form)
	}
	assert.Contains(t, psk.String(), "me")
	assert.Contains(t, psk.String(), "sha384")
	assert.Contains(t, psk.String(), "imported")
	assert.Contains(t, string(encoded), "me")
}

func TestPSKAsJSON(t *testing.T) {
	for _, identity := range [][]byte{{0}, []byte("\xff\xfe\"\\\n"), []byte("ünïcode \U0001f600 \u2028"), nil} {
		text, err := json.Marshal(tlsapi.PSK{Identity: identity})
		require.NoError(t, err)
		var back string
		require.NoError(t, json.Unmarshal(text, &back), "%s", text)
	}
}

func TestPSKMistakes(t *testing.T) {
	secret := []byte("0123456789abcdef")
	good := tlsapi.PSK{Identity: []byte("good"), Secret: secret}
	for name, psks := range map[string][]tlsapi.PSK{
		"empty identity":             {{Secret: secret}},
		"long identity":              {{Identity: make([]byte, 65536), Secret: secret}},
		"short":                      {{Identity: []byte("a"), Secret: secret[:15]}},
		"no secret":                  {{Identity: []byte("a")}},
		"zero":                       {{Identity: []byte("a"), Secret: make([]byte, 32)}},
		"duplicate":                  {good, {Identity: []byte("other"), Secret: secret}, good},
		"unknown hash":               {{Identity: []byte("a"), Secret: secret, Hash: 9}},
		"unknown kind":               {{Identity: []byte("a"), Secret: secret, Kind: 9}},
		"context of an external one": {{Identity: []byte("a"), Secret: secret, Context: []byte("b")}},
		"long context":               {{Identity: []byte("a"), Secret: secret, Kind: tlsapi.PSKImported, Context: make([]byte, 65527)}},
		"second is wrong":            {good, {Identity: []byte("b"), Secret: []byte("short")}},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&tlsapi.ClientConfig{ServerName: "x", Settings: tlsapi.Settings{PSKs: psks}}).Validate()
			requireConfigError(t, err, "PSKs")
			assert.NotContains(t, err.Error(), string(secret))
			assert.NotContains(t, err.Error(), "0123456789")
			requireConfigError(t, (&tlsapi.ServerConfig{Settings: tlsapi.Settings{PSKs: psks}}).Validate(), "PSKs")
		})
	}
	require.NoError(t, (&tlsapi.ClientConfig{ServerName: "x", Settings: tlsapi.Settings{PSKs: []tlsapi.PSK{good}, RequirePSK: true}}).Validate())
	require.NoError(t, (&tlsapi.ServerConfig{Settings: tlsapi.Settings{PSKs: []tlsapi.PSK{good}}}).Validate(), "a server with PSKs needs no certificate")
	assert.Equal(t, "external imported tls12 kind 7", fmt.Sprint(tlsapi.PSKExternal, " ", tlsapi.PSKImported, " ", tlsapi.PSKTLS12, " ", tlsapi.PSKKind(7)))
	assert.Equal(t, "sha256 sha384 hash 7", fmt.Sprint(tlsapi.PSKSHA256, " ", tlsapi.PSKSHA384, " ", tlsapi.PSKHash(7)))
}

func TestErrors(t *testing.T) {
	inner := errors.New("inner")
	e := &tlsapi.Error{Provider: "openssl", Op: "handshake", Kind: tlsapi.KindExpired, Alert: 45, HasAlert: true, Err: inner, Text: "certificate has expired"}
	assert.ErrorIs(t, e, tlsapi.KindExpired)
	assert.NotErrorIs(t, e, tlsapi.KindHostname)
	assert.ErrorIs(t, e, e.Alert)
	assert.ErrorIs(t, e, inner)
	assert.Equal(t, "openssl: handshake: certificate has expired: inner: certificate has expired", e.Error())
	assert.NotErrorIs(t, &tlsapi.Error{Kind: tlsapi.KindProtocol, Alert: 45}, e.Alert, "an alert that is not there")

	unsupported := tlsapi.UnsupportedError("std", "PSKs", "there are none in %s", "crypto/tls")
	assert.ErrorIs(t, unsupported, errors.ErrUnsupported)
	assert.ErrorIs(t, unsupported, tlsapi.KindUnsupported)
	for _, part := range []string{"std", "PSKs", "there are none in crypto/tls"} {
		assert.Contains(t, unsupported.Error(), part)
	}
	assert.NotErrorIs(t, tlsapi.ConfigError("ALPN", "wrong"), errors.ErrUnsupported)

	texts := make(map[string]tlsapi.Kind)
	for kind := tlsapi.KindInternal; kind <= tlsapi.KindInvalidCertificate; kind++ {
		assert.NotContains(t, kind.Error(), "kind ", "kind %d has no text", kind)
		assert.NotContains(t, texts, kind.Error())
		texts[kind.Error()] = kind
		assert.Equal(t, kind >= tlsapi.KindHostname, kind.Verification(), "%v", kind)
		assert.Equal(t, kind == tlsapi.KindTimeout, (&tlsapi.Error{Kind: kind}).Timeout(), "%v", kind)
	}
	assert.Equal(t, "kind 200", tlsapi.Kind(200).Error())
}
