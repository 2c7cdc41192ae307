package native

import (
	"slices"
	"sync"

	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/tlsapi"
)

// offerProbe is what clients of a context offer for the key exchange, found out
// once.
type offerProbe struct {
	once  sync.Once
	offer engine.Offer
	err   error
}

// offer makes a ClientHello that goes nowhere and reads it: what a library
// offers by itself depends on its version, its configuration file and its
// policies, and none has a call that tells all of it.
func (ctx *context) offer() (engine.Offer, error) {
	p := &ctx.probe
	p.once.Do(func() {
		var anyName connOptions
		anyName.add(connSkipHostname, []byte{1})
		conn, err := ctx.newConn(anyName)
		if err != nil {
			p.err = err
			return
		}
		defer conn.Free()
		result := conn.Handshake()
		var ok bool
		if p.offer, ok = engine.ReadOffer(conn.TakeOutput()); !ok {
			p.err = engine.ResultError(ctx.provider, "config", result, "the library made no ClientHello: "+conn.ErrorText())
		}
	})
	return p.offer, p.err
}

// keyShares chooses the shares of the first ClientHello: that of the first
// group, and with SecondKeyShareOn that of the first group of the other kind.
// The groups themselves stay the library's where Curves is nil.
func (c *contextBuilder) keyShares(config *tlsapi.ClientConfig) {
	if config.SecondKeyShare == tlsapi.SecondKeyShareDefault || c.err != nil {
		return
	}
	offer, err := c.provider.offer(config)
	if err != nil {
		c.fail(err)
		return
	}
	want, reason := wantedShares(offer, config.SecondKeyShare == tlsapi.SecondKeyShareOn)
	switch {
	case reason != "":
		c.fail(tlsapi.UnsupportedError(c.provider.ProviderName, "SecondKeyShare", "%s", reason))
	case slices.Equal(want, offer.KeyShares):
	case c.provider.Policy != nil:
		c.fail(tlsapi.UnsupportedError(c.provider.ProviderName, "SecondKeyShare",
			"%s chooses the key shares itself; with these settings: %s", c.provider.LibraryName, groupNames(offer.KeyShares)))
	default:
		c.set(optKeyShares, "SecondKeyShare", uint16s(want))
	}
}

// offer returns what clients with the configuration offer when the key shares
// are left to the library.
func (p *Provider) offer(config *tlsapi.ClientConfig) (engine.Offer, error) {
	c := &contextBuilder{provider: p, role: client}
	defer c.wipe()
	c.settings(&config.Settings)
	// No certificate is looked at.
	c.setUint8(optVerifyMode, "InsecureSkipVerify", verifyNone)
	if c.err != nil {
		return engine.Offer{}, c.err
	}
	ctx, err := p.contexts.get(c)
	if err != nil {
		return engine.Offer{}, err
	}
	defer ctx.release()
	return ctx.offer()
}

// wantedShares returns the groups that are to have a share, in the order of
// supported_groups, or the reason why there is no second one.
func wantedShares(offer engine.Offer, second bool) (groups []tlsapi.CurveID, reason string) {
	if len(offer.KeyShares) == 0 {
		if second {
			return nil, "key shares need TLS 1.3, which these settings do not offer"
		}
		return nil, ""
	}
	if len(offer.Groups) == 0 {
		return nil, "the library offers no groups"
	}
	first := offer.Groups[0]
	if !second {
		return []tlsapi.CurveID{first}, ""
	}
	other := slices.IndexFunc(offer.Groups, func(id tlsapi.CurveID) bool {
		return tlsapi.PostQuantum(id) != tlsapi.PostQuantum(first)
	})
	if other < 0 {
		return nil, "on needs a post-quantum and a classical group, but the groups offered are " +
			groupNames(offer.Groups) + "; set Curves to a list with such a pair"
	}
	return []tlsapi.CurveID{first, offer.Groups[other]}, ""
}

func groupNames(groups []tlsapi.CurveID) string {
	names := ""
	for i, id := range groups {
		if i > 0 {
			names += ":"
		}
		names += tlsapi.CurveName(id)
	}
	return names
}
