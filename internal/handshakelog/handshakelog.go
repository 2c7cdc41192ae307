// Package handshakelog writes handshakes to a log/slog logger, with the same
// words and attributes wherever Polytls logs them.
package handshakelog

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polytls/polytls/tlsapi"
)

const (
	// CompleteLevel and FailedLevel are the levels of the two kinds of lines.
	CompleteLevel = slog.LevelDebug
	FailedLevel   = slog.LevelWarn
)

// Handshake is what is known of a handshake however it ends.
type Handshake struct {
	Provider string
	// Role is "client" or "server".
	Role   string
	Remote net.Addr
	// Duration is left out of the log when it is zero.
	Duration time.Duration
}

// LogsComplete reports whether Complete would write anything: describing a
// connection has its price.
func LogsComplete(log *slog.Logger) bool {
	return log != nil && log.Enabled(context.Background(), CompleteLevel)
}

// Complete logs a handshake that has succeeded.
func Complete(log *slog.Logger, h Handshake, info *tlsapi.ConnectionInfo) {
	if !LogsComplete(log) {
		return
	}
	attributes := append(h.attributes(),
		slog.String("version", tlsapi.VersionName(info.Version)),
		slog.String("suite", tlsapi.CipherSuiteName(info.CipherSuite)))
	for _, a := range []struct{ key, value string }{
		{"group", tlsapi.CurveName(info.Group)},
		{"alpn", info.ALPN},
		{"server_name", info.ServerName},
		{"peer_serial", info.PeerSerial},
		{"peer_sha256", info.PeerSHA256},
	} {
		if a.value != "" {
			attributes = append(attributes, slog.String(a.key, Text(a.value)))
		}
	}
	for _, a := range []struct {
		key   string
		value bool
	}{{"resumed", info.Resumed}, {"psk", info.PSKIdentity != nil}, {"verified", info.Verified}} {
		if a.value {
			attributes = append(attributes, slog.Bool(a.key, true))
		}
	}
	log.LogAttrs(context.Background(), CompleteLevel, "TLS handshake complete", attributes...)
}

// Failed logs a handshake that has failed.
func Failed(log *slog.Logger, h Handshake, err error) {
	if log == nil || !log.Enabled(context.Background(), FailedLevel) {
		return
	}
	attributes := append(h.attributes(), slog.String("kind", tlsapi.KindOf(err).Name()))
	var e *tlsapi.Error
	if errors.As(err, &e) && e.HasAlert {
		key := "alert_sent"
		if e.Kind == tlsapi.KindPeerAlert {
			key = "alert_received"
		}
		attributes = append(attributes, slog.Int(key, int(e.Alert)))
	}
	attributes = append(attributes, slog.String("error", Text(err.Error())))
	log.LogAttrs(context.Background(), FailedLevel, "TLS handshake failed", attributes...)
}

func (h Handshake) attributes() []slog.Attr {
	attributes := make([]slog.Attr, 0, 16)
	attributes = append(attributes, slog.String("provider", h.Provider), slog.String("role", h.Role))
	if h.Remote != nil {
		attributes = append(attributes, slog.String("remote", h.Remote.String()))
	}
	if h.Duration != 0 {
		attributes = append(attributes, slog.Duration("duration", h.Duration))
	}
	return attributes
}

// maxText is the most bytes of a text in the log that a peer may have chosen: a
// certificate's names can have tens of thousands.
const maxText = 512

// Text makes a text that a peer may have chosen fit for a log, whatever the
// handler does with it: at most maxText bytes, nothing but printable characters.
func Text(s string) string {
	// Cut before, as there may be much of it, and after, as replacements are
	// longer than what they replace.
	printable := strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, cut(s))
	short := cut(printable)
	if len(s) > maxText || len(short) < len(printable) {
		short += "…"
	}
	return short
}

// cut shortens to maxText bytes without dividing a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
