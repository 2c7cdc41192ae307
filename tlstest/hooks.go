package tlstest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hookCalls counts the calls of all hooks.
type hookCalls struct {
	verify, complete, failed atomic.Int32
	mu                       sync.Mutex
	state                    tls.ConnectionState
	info                     tlsapi.ConnectionInfo
	err                      error
}

func (h *hookCalls) install(verdict error) func(*tlsapi.Settings) {
	return func(s *tlsapi.Settings) {
		s.VerifyConnection = func(state tls.ConnectionState) error {
			h.verify.Add(1)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.state = state
			return verdict
		}
		s.HandshakeComplete = func(info tlsapi.ConnectionInfo) {
			h.complete.Add(1)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.info = info
		}
		s.HandshakeFailed = func(err error) {
			h.failed.Add(1)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.err = err
		}
	}
}

func (h *hookCalls) require(t *testing.T, verify, complete, failed int32) {
	t.Helper()
	assert.Equal(t, verify, h.verify.Load(), "calls of VerifyConnection")
	assert.Equal(t, complete, h.complete.Load(), "calls of HandshakeComplete")
	assert.Equal(t, failed, h.failed.Load(), "calls of HandshakeFailed")
}

// withoutAlert is what a matrix says of rejections that send none.
const withoutAlert = "closes the connection without an alert"

func (s *suite) testHooks(t *testing.T) {
	eachRoleAndVersion(t, func(t *testing.T, r role, version uint16) {
		s.need(t, r.feature("verify-connection"), r.feature("handshake-hooks"))
		t.Run("success", func(t *testing.T) {
			var calls hookCalls
			d := s.unconnected(t, r, version, calls.install(nil))
			// Many callers of the handshake, one handshake.
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() { assert.NoError(t, d.conn.Handshake()) })
			}
			require.NoError(t, d.peer.Handshake())
			group.Wait()
			calls.require(t, 1, 1, 0)
			assert.Equal(t, version, calls.info.Version)
			assert.Equal(t, s.p.Name(), calls.info.Provider)
			assert.Equal(t, version, calls.state.Version)
			assert.NotZero(t, calls.state.CipherSuite)
			if r == client {
				require.NotEmpty(t, calls.state.PeerCertificates)
				assert.NotEmpty(t, calls.state.VerifiedChains)
				assert.Equal(t, serverName, calls.state.ServerName)
			}
			d.mustEcho(t)
			require.NoError(t, d.conn.Close())
			calls.require(t, 1, 1, 0)
		})
		t.Run("rejection", func(t *testing.T) {
			errVerdict := errors.New("not on the list")
			var calls hookCalls
			d := s.unconnected(t, r, version, calls.install(errVerdict))
			err, peerErr := d.handshakes()
			s.requireKind(t, err, tlsapi.KindRejected)
			require.ErrorIs(t, err, errVerdict)
			calls.require(t, 1, 0, 1)
			assert.ErrorIs(t, calls.err, errVerdict)
			if r == client {
				requireNoLastFlight(t, d.connWire.Written(), version)
			}
			if r == server && version == tls.VersionTLS13 {
				// The client has finished; it learns of it from its first Read.
				require.NoError(t, peerErr)
				_, peerErr = d.peer.Read(make([]byte, 1))
			}
			require.Error(t, peerErr)
			if cell := s.cells[r.feature("verify-connection")]; strings.Contains(cell.Note, withoutAlert) {
				require.True(t, isCut(peerErr), "%v", peerErr)
				return
			}
			s.requireAlertSeen(t, r, certificateStage(version), peerErr, alertBadCertificate)
		})
		t.Run("rejection of a certificate", func(t *testing.T) {
			if r == server {
				s.need(t, tlsapi.ServerClientAuth)
			}
			for _, c := range []struct {
				verdict error
				alert   tls.AlertError
			}{
				{errors.New("not on the list"), alertBadCertificate},
				{fmt.Errorf("pinned otherwise: %w", tls.AlertError(46)), 46},
				// Of another connection, and one that ends no handshake.
				{&tlsapi.Error{Kind: tlsapi.KindPeerAlert, Alert: 48, HasAlert: true}, alertBadCertificate},
				{tls.AlertError(90), alertBadCertificate},
			} {
				verdict, alert := c.verdict, c.alert
				var calls hookCalls
				var d *duo
				if r == client {
					config := s.clientConfig()
					calls.install(verdict)(&config.Settings)
					d = s.clientDuo(t, config, s.referenceServer(only(version)))
				} else {
					config := s.serverConfig(func(c *tlsapi.ServerConfig) { c.ClientAuth = tls.RequireAnyClientCert })
					calls.install(verdict)(&config.Settings)
					d = s.serverDuo(t, config, s.referenceClient(only(version), func(c *tls.Config) {
						c.Certificates = []tls.Certificate{s.certs[ECDSA]}
					}))
				}
				err, peerErr := d.handshakes()
				e := s.requireKind(t, err, tlsapi.KindRejected)
				require.ErrorIs(t, err, verdict)
				calls.require(t, 1, 0, 1)
				require.NotEmpty(t, calls.state.PeerCertificates)
				assert.Equal(t, version, calls.state.Version)
				assert.NotZero(t, calls.state.CipherSuite)
				if r == server && version == tls.VersionTLS13 {
					_, peerErr = d.peer.Read(make([]byte, 1))
				}
				require.Error(t, peerErr)
				cell := s.cells[r.feature("verify-connection")]
				switch {
				case cell.Support == tlsapi.Emulated && strings.Contains(cell.Note, withoutAlert):
					require.True(t, isCut(peerErr), "%v", peerErr)
					assert.False(t, e.HasAlert)
					continue
				case strings.Contains(cell.Note, "always bad_certificate"):
					alert = alertBadCertificate
				}
				s.requireAlertSeen(t, r, certificateStage(version), peerErr, alert)
			}
		})
		t.Run("failure before verification", func(t *testing.T) {
			var calls hookCalls
			d := s.unconnected(t, r, version, calls.install(nil))
			require.NoError(t, d.peerWire.Close())
			err := d.conn.Handshake()
			require.Error(t, err)
			require.Error(t, d.conn.Handshake())
			calls.require(t, 0, 0, 1)
			require.Error(t, calls.err)
			assert.Equal(t, err.Error(), calls.err.Error())
		})
		t.Run("failed verification", func(t *testing.T) {
			if r == server {
				s.need(t, tlsapi.ServerClientAuth, tlsapi.ServerClientCAs)
			}
			var calls hookCalls
			var d *duo
			if r == client {
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.ServerName = "wrong.example" })
				calls.install(nil)(&config.Settings)
				d = s.clientDuo(t, config, s.referenceServer(only(version)))
			} else {
				config := s.serverConfig(func(c *tlsapi.ServerConfig) {
					c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, Pool(s.ca)
				})
				calls.install(nil)(&config.Settings)
				d = s.serverDuo(t, config, s.referenceClient(only(version)))
			}
			err, _ := d.handshakes()
			require.Error(t, err)
			calls.require(t, 0, 0, 1)
		})
		t.Run("slow verdict", func(t *testing.T) {
			s.need(t, r.feature("handshake-timeout"))
			var asked atomic.Bool
			d := s.unconnected(t, r, version, func(c *tlsapi.Settings) {
				c.HandshakeTimeout = shortly
				c.VerifyConnection = func(tls.ConnectionState) error {
					asked.Store(true)
					time.Sleep(10 * shortly)
					return nil
				}
			})
			go d.peer.Handshake()
			s.requireKind(t, within(t, "Handshake", d.conn.Handshake), tlsapi.KindTimeout)
			// On a busy machine the time may be up before there is a flight.
			if r == client && asked.Load() {
				requireNoLastFlight(t, d.connWire.Written(), version)
			}
		})
		if r == server {
			return // it does not verify by default
		}
		t.Run("without verification", func(t *testing.T) {
			errVerdict := errors.New("pinned otherwise")
			for _, verdict := range []error{nil, errVerdict} {
				var calls hookCalls
				config := s.clientConfig(func(c *tlsapi.ClientConfig) { c.InsecureSkipVerify = true })
				calls.install(verdict)(&config.Settings)
				d := s.clientDuo(t, config, s.referenceServer(only(version)))
				err, _ := d.handshakes()
				require.ErrorIs(t, err, verdict)
				assert.NotEmpty(t, calls.state.PeerCertificates)
				assert.EqualValues(t, 1, calls.verify.Load())
			}
		})
	})
}
