package stdtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"strings"
	"time"

	"github.com/polytls/polytls/internal/tickets"
)

// ticketer makes and reads the tickets of one connection of a server.
// crypto/tls encrypts and parses them; what its tickets do not know is added:
// the configuration that they belong to, by the keys, and the name that the
// client asked for.
type ticketer struct {
	// secrets are those of the configuration, nil for the process's.
	secrets [][32]byte
	// binding is the configuration's TicketBinding.
	binding [32]byte
	// subject is what the ticket must have been issued for.
	subject [sha256.Size]byte
	// chainsUntil tells how long what this handshake has verified holds.
	chainsUntil func() time.Time
	// resumedUntil is that of the ticket which was read last: when a session is
	// resumed, the one in use.
	resumedUntil time.Time
}

func newTicketer(secrets [][32]byte, binding [32]byte, serverName string, chainsUntil func() time.Time) *ticketer {
	subject := append(binding[:], strings.ToLower(serverName)...)
	return &ticketer{secrets: secrets, binding: binding, subject: sha256.Sum256(subject), chainsUntil: chainsUntil}
}

// into makes a tls.Config issue and accept the tickets.
func (t *ticketer) into(config *tls.Config) {
	config.SessionTicketsDisabled = false
	config.WrapSession, config.UnwrapSession = t.wrap, t.unwrap
}

// keys returns a tls.Config that has nothing but the ticket keys.
func (t *ticketer) keys() (*tls.Config, error) {
	derived, err := tickets.Keys(t.secrets, providerName, t.binding)
	if err != nil {
		return nil, err
	}
	keys := make([][32]byte, len(derived))
	for i := range derived {
		keys[i] = derived[i].Encryption
	}
	config := &tls.Config{}
	config.SetSessionTicketKeys(keys)
	return config, nil
}

// ticketExtra begins the entry in tls.SessionState.Extra. Behind it are the
// subject and, in seconds since 1970, the end of what was verified.
const ticketExtra = "polytls std ticket 1:"

const ticketExtraBytes = len(ticketExtra) + sha256.Size + 8

// maxTicket is the longest ticket that is issued: the client has to send it back,
// and 65535 bytes are the most that fits. The client's chain is in it twice.
const maxTicket = 1 << 15

func (t *ticketer) wrap(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
	keys, err := t.keys()
	if err != nil {
		return nil, err
	}
	// In TLS 1.3 the ticket of a resumed session is made before its chain has
	// been verified again.
	until := t.resumedUntil
	if !state.DidResume {
		until = t.chainsUntil()
	}
	extra := append([]byte(ticketExtra), t.subject[:]...)
	session.Extra = append(session.Extra, binary.BigEndian.AppendUint64(extra, unixSeconds(until)))
	ticket, err := keys.EncryptTicket(state, session)
	if err == nil && len(ticket) > maxTicket {
		// crypto/tls would fail the handshake. Nothing decrypts this one.
		return []byte{0}, nil
	}
	return ticket, err
}

// unwrap returns nil for tickets that are not to be resumed: a full handshake
// follows.
func (t *ticketer) unwrap(identity []byte, state tls.ConnectionState) (*tls.SessionState, error) {
	if len(identity) == 0 {
		return nil, nil
	}
	keys, err := t.keys()
	if err != nil {
		return nil, err
	}
	session, err := keys.DecryptTicket(identity, state)
	if err != nil || session == nil {
		return nil, err
	}
	for _, extra := range session.Extra {
		if len(extra) != ticketExtraBytes || !bytes.HasPrefix(extra, []byte(ticketExtra)) {
			continue
		}
		rest := extra[len(ticketExtra):]
		until := timeOfUnixSeconds(binary.BigEndian.Uint64(rest[sha256.Size:]))
		if !bytes.Equal(rest[:sha256.Size], t.subject[:]) || past(until) {
			return nil, nil
		}
		t.resumedUntil = until
		return session, nil
	}
	return nil, nil
}

// unixSeconds is the form of a time in tickets and sessions; 0 is no limit.
func unixSeconds(t time.Time) uint64 {
	if t.IsZero() || t.Unix() < 0 {
		return 0
	}
	return uint64(t.Unix())
}

func timeOfUnixSeconds(s uint64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

// past reports whether a limit has passed; the zero time is none.
func past(limit time.Time) bool { return !limit.IsZero() && time.Now().After(limit) }
