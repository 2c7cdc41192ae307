package handshakelog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"

	"github.com/polytls/polytls/internal/handshakelog"
	"github.com/polytls/polytls/tlsapi"
)

func TestText(t *testing.T) {
	assert.Equal(t, "server.example", handshakelog.Text("server.example"))
	assert.Equal(t, "a�[31mb�c�", handshakelog.Text("a\x1b[31mb\nc\u202e"))
	for n := 500; n < 530; n++ {
		long := handshakelog.Text(strings.Repeat("a", n) + strings.Repeat("ü", 40_000))
		assert.LessOrEqual(t, len(long), 512+len("…"))
		assert.True(t, utf8.ValidString(long))
		assert.NotContains(t, long, "�", "cut within a character")
		assert.True(t, strings.HasSuffix(long, "…"))
	}
	assert.LessOrEqual(t, len(handshakelog.Text(strings.Repeat("\xff", 4000))), 512+len("…"))
}

func TestFailed(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&text, nil))
	h := handshakelog.Handshake{Provider: "std", Role: "server", Duration: time.Millisecond}
	for _, c := range []struct {
		err  error
		want []string
		not  string
	}{
		{&tlsapi.Error{Kind: tlsapi.KindPeerAlert, Alert: 42, HasAlert: true}, []string{`"kind":"peer_alert"`, `"alert_received":42`}, "alert_sent"},
		{&tlsapi.Error{Kind: tlsapi.KindProtocol, Alert: 40, HasAlert: true}, []string{`"kind":"protocol"`, `"alert_sent":40`}, "alert_received"},
		{&tlsapi.Error{Kind: tlsapi.KindHostname, Err: errors.New("not valid for evil\x1b\nname")}, []string{"evil��name"}, "alert"},
		{errors.New("of somebody else"), []string{`"kind":"other"`}, "alert"},
	} {
		text.Reset()
		handshakelog.Failed(log, h, c.err)
		for _, want := range append(c.want, `"level":"WARN"`, `"provider":"std","role":"server","duration":1000000`) {
			assert.Contains(t, text.String(), want)
		}
		assert.NotContains(t, text.String(), `"`+c.not)
	}
	handshakelog.Failed(nil, h, errors.New("silent by default"))
	handshakelog.Complete(nil, h, &tlsapi.ConnectionInfo{})
}
