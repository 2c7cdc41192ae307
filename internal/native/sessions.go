package native

import (
	"crypto/tls"

	"github.com/polytls/polytls/internal/tickets"
	"github.com/polytls/polytls/tlsapi"
)

// tickets adds the keys of a server's session tickets. config is the one that is
// in effect: where certificates or configurations are chosen for a connection,
// the chosen ones are in it, and the keys are theirs alone.
//
// Where clients are asked for certificates their chains are in the tickets and
// verified again; a library that does not do that issues none. Nor is there one
// with PSKs, which s2n and OpenSSL cannot have together with
// tickets.
func (c *contextBuilder) tickets(config *tlsapi.ServerConfig) {
	if config.SessionTicketsDisabled || config.ClientAuth != tls.NoClientCert && c.provider.NoClientTickets || len(config.PSKs) > 0 ||
		!c.provider.supports(tlsapi.ServerSessionTickets) {
		return
	}
	keys, err := tickets.Keys(config.SessionTicketKeys, c.provider.ProviderName, config.TicketBinding())
	if err != nil {
		c.fail(tlsapi.ConfigError("SessionTicketKeys", "the keys cannot be derived: %v", err))
		return
	}
	c.setUint8(optSessionTickets, "SessionTicketsDisabled", 1)
	for i := range keys {
		k := &keys[i]
		// One allocation, so that wipe reaches every copy of the key.
		data := make([]byte, 0, len(k.Name)+len(k.Encryption)+len(k.MAC))
		data = append(append(append(data, k.Name[:]...), k.Encryption[:]...), k.MAC[:]...)
		c.instructions = append(c.instructions, instruction{option: optTicketKey, name: "SessionTicketKeys", data: data, secret: true})
	}
	clear(keys)
}
