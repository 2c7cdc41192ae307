package providers_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/internal/leftover"
	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
	"github.com/polytls/polytls/tlstest"
)

// ticketProcess is set for the process that TestTickets starts.
const ticketProcess = "POLYTLS_TICKET_PROCESS"

// ticketServers are the configurations whose tickets are taken to all others:
// one, and those that differ from it in one thing.
var ticketServers = []string{"base", "other keys", "other certificate", "asks clients", "requires clients", "requires others"}

// ticketParties are certificates and keys in a form that goes from one process to
// another.
type ticketParties struct {
	ClientCA, OtherCA       []byte
	Cert, Key               []byte
	OtherCert, OtherKey     []byte
	ClientCert, ClientKey   []byte
	ServerCA, OtherServerCA []byte
}

func newTicketParties(t *testing.T) *ticketParties {
	serverCA, clientCA := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Servers"}), tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Clients"})
	otherCA := tlstest.NewAuthority(t, tlstest.Spec{CommonName: "Clients"})
	spec := tlstest.Spec{CommonName: ticketHost, DNSNames: []string{ticketHost}}
	cert, other, client := serverCA.Leaf(t, spec), serverCA.Leaf(t, spec), clientCA.Leaf(t, tlstest.Spec{CommonName: "client"})
	return &ticketParties{
		ClientCA: clientCA.PEM(), OtherCA: otherCA.PEM(), ServerCA: serverCA.PEM(),
		Cert: tlstest.CertificatePEM(cert), Key: tlstest.KeyPEM(t, cert),
		OtherCert: tlstest.CertificatePEM(other), OtherKey: tlstest.KeyPEM(t, other),
		ClientCert: tlstest.CertificatePEM(client), ClientKey: tlstest.KeyPEM(t, client),
	}
}

const ticketHost = "server.example"

// config is the server's configuration of a name.
func (x *ticketParties) config(name string) (*tlsapi.ServerConfig, error) {
	cert, key := x.Cert, x.Key
	if name == "other certificate" {
		cert, key = x.OtherCert, x.OtherKey
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	secret := byte(1)
	if name == "other keys" {
		secret = 2
	}
	c := &tlsapi.ServerConfig{
		Certificates:      []tls.Certificate{pair},
		SessionTicketKeys: [][32]byte{[32]byte(bytes.Repeat([]byte{secret}, 32))},
	}
	clients := x.ClientCA
	switch name {
	case "asks clients":
		c.ClientAuth = tls.RequestClientCert
	case "requires clients":
		c.ClientAuth = tls.RequireAndVerifyClientCert
	case "requires others":
		c.ClientAuth, clients = tls.RequireAndVerifyClientCert, x.OtherCA
	}
	c.ClientCAs = tlsapi.NewCertPool()
	return c, c.ClientCAs.AddPEM(clients)
}

// ticketFleet are servers of every provider with every configuration, by
// "provider/configuration".
type ticketFleet struct {
	addresses map[string]string
	stop      func()
}

// startTicketFleet serves until stop. A connection gets one byte that says
// whether it was resumed, and is closed when the client closes it.
func startTicketFleet(x *ticketParties) (*ticketFleet, error) {
	f := &ticketFleet{addresses: make(map[string]string)}
	var running sync.WaitGroup
	var listeners []net.Listener
	f.stop = func() {
		for _, l := range listeners {
			l.Close()
		}
		running.Wait()
	}
	for _, p := range providers.All() {
		if p.Available() != nil {
			continue
		}
		for _, name := range ticketServers {
			config, err := x.config(name)
			if err != nil {
				return nil, err
			}
			config.MaxBlindingDelay = noBlinding(p)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			listeners = append(listeners, listener)
			f.addresses[p.Name()+"/"+name] = listener.Addr().String()
			running.Go(func() {
				for {
					transport, err := listener.Accept()
					if err != nil {
						return
					}
					running.Go(func() { greet(p, config, transport) })
				}
			})
		}
	}
	return f, nil
}

func greet(p tlsapi.Provider, config *tlsapi.ServerConfig, transport net.Conn) {
	server, err := p.Server(transport, config)
	if err != nil {
		transport.Close()
		return
	}
	defer server.Close()
	if server.Handshake() != nil {
		return
	}
	state := server.ConnectionState()
	greeting := []byte{0, byte(len(state.PeerCertificates))}
	if state.DidResume {
		greeting[0] = 1
	}
	if _, err := server.Write(greeting); err == nil {
		_, _ = io.Copy(io.Discard, server)
	}
}

// TestTicketProcess is the other process: it serves until its input ends.
func TestTicketProcess(t *testing.T) {
	if os.Getenv(ticketProcess) == "" {
		t.Skip("it is run by TestTickets")
	}
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	require.NoError(t, err)
	var x ticketParties
	require.NoError(t, json.Unmarshal(line, &x))
	fleet, err := startTicketFleet(&x)
	require.NoError(t, err)
	defer fleet.stop()
	out, err := json.Marshal(fleet.addresses)
	require.NoError(t, err)
	fmt.Printf("%s%s\n", ticketLine, out)
	_, _ = io.Copy(io.Discard, in)
}

// ticketLine begins the line with the addresses.
const ticketLine = "ticket servers: "

// otherProcess starts the servers in a process of their own. stop ends it.
func otherProcess(t *testing.T, x *ticketParties) (addresses map[string]string, stop func()) {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run=^TestTicketProcess$", "-test.timeout=20m")
	command.Env = append(os.Environ(), ticketProcess+"=1")
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	stop = sync.OnceFunc(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		assert.NoError(t, command.Wait())
	})
	t.Cleanup(stop)
	line, err := json.Marshal(x)
	require.NoError(t, err)
	_, err = in.Write(append(line, '\n'))
	require.NoError(t, err)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, text, ok := strings.Cut(lines.Text(), ticketLine); ok {
			require.NoError(t, json.Unmarshal([]byte(text), &addresses))
			return addresses, stop
		}
	}
	require.Fail(t, "the other process has not told its addresses")
	return nil, nil
}

// TestTickets takes a ticket of every provider with every configuration to every
// provider with every configuration in another process, with every provider's
// client. It is resumed there only by the same provider with the same keys, the
// same certificate and the same client authentication; all else is a full
// handshake, which fails only where that client is to be refused. Then the other
// process is replaced by a third: what a restart keeps.
func TestTickets(t *testing.T) {
	leftover.Check(t)
	x := newTicketParties(t)
	fleet, err := startTicketFleet(x)
	require.NoError(t, err)
	defer fleet.stop()
	there, stop := otherProcess(t, x)
	again, _ := otherProcess(t, x)
	t.Run("another process", func(t *testing.T) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			eachNamed(t, tls.VersionName(version)+" ", func(t *testing.T, p tlsapi.Provider) {
				t.Parallel()
				c := &ticketClient{provider: p, version: version, parties: x}
				c.carry(t, fleet.addresses, there)
			})
		}
	})
	t.Run("restart", func(t *testing.T) {
		var tickets []*ticketOf
		c := &ticketClient{version: tls.VersionTLS13, parties: x}
		for _, p := range providers.All() {
			if p.Available() != nil {
				continue
			}
			c.provider = p
			cache := &offering{}
			_, err := c.connect(there[p.Name()+"/base"], cache)
			require.NoError(t, err)
			tickets = append(tickets, &ticketOf{p, cache.last()})
		}
		stop()
		for _, k := range tickets {
			c.provider = k.provider
			resumed, err := c.connect(again[k.provider.Name()+"/base"], &offering{offer: k.session})
			require.NoError(t, err)
			assert.True(t, resumed, "%s: a ticket from before the restart", k.provider.Name())
		}
	})
}

type ticketOf struct {
	provider tlsapi.Provider
	session  []byte
}

// ticketClient is a client that takes tickets around.
type ticketClient struct {
	provider tlsapi.Provider
	version  uint16
	parties  *ticketParties
}

// carry gets tickets of the servers here and offers them there.
func (c *ticketClient) carry(t *testing.T, here, there map[string]string) {
	resumed, refused, full := 0, 0, 0
	for from, address := range here {
		cache := &offering{}
		_, err := c.connect(address, cache)
		if strings.HasSuffix(from, "requires others") {
			require.Error(t, err)
			continue // no ticket for a client that is refused
		}
		require.NoError(t, err, from)
		session := cache.last()
		issuer, _, _ := strings.Cut(from, "/")
		resumes := resumesClients(t, issuer) || !strings.HasSuffix(from, " clients")
		if session == nil {
			assert.False(t, resumes, "%s issues no ticket", from)
			continue
		}
		for to, address := range there {
			what := fmt.Sprintf("a ticket of %s at %s", from, to)
			again, err := c.connect(address, &offering{offer: bytes.Clone(session)})
			if strings.HasSuffix(to, "requires others") {
				assert.Error(t, err, "%s: this client must be refused", what)
				refused++
				continue
			}
			if !assert.NoError(t, err, what) {
				continue
			}
			assert.Equal(t, from == to && resumes, again, what)
			if again {
				resumed++
			} else {
				full++
			}
		}
	}
	t.Logf("%d tickets were resumed, %d led to full handshakes, %d clients were refused", resumed, full, refused)
	assert.NotZero(t, resumed)
}

// resumesClients reports whether a provider's servers resume sessions where
// clients are asked for certificates: its matrix says where they do not.
func resumesClients(t *testing.T, provider string) bool {
	p, err := providers.Lookup(provider)
	require.NoError(t, err)
	for _, cell := range p.Features() {
		if cell.Feature == tlsapi.ServerSessionTickets {
			return !strings.Contains(cell.Note, "none with client authentication")
		}
	}
	require.Fail(t, "the matrix has no cell for session tickets")
	return false
}

// connect makes a connection and says whether it was resumed, on both ends.
func (c *ticketClient) connect(address string, cache *offering) (resumed bool, err error) {
	pair, err := tls.X509KeyPair(c.parties.ClientCert, c.parties.ClientKey)
	if err != nil {
		return false, err
	}
	config := &tlsapi.ClientConfig{ServerName: ticketHost, RootCAs: tlsapi.NewCertPool(), Certificate: &pair, SessionCache: cache}
	if err := config.RootCAs.AddPEM(c.parties.ServerCA); err != nil {
		return false, err
	}
	config.MaxBlindingDelay = noBlinding(c.provider)
	if c.version == tls.VersionTLS12 {
		config.MaxVersion = tls.VersionTLS12
	} else {
		config.MinVersion = tls.VersionTLS13
	}
	transport, err := net.Dial("tcp", address)
	if err != nil {
		return false, err
	}
	client, err := c.provider.Client(transport, config)
	if err != nil {
		transport.Close()
		return false, err
	}
	defer client.Close()
	var greeting [2]byte
	if _, err := io.ReadFull(client, greeting[:]); err != nil {
		return false, err
	}
	state := client.ConnectionState()
	if state.DidResume != (greeting[0] == 1) {
		return false, errors.New("the ends differ about resumption")
	}
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return false, errors.New("the client does not know its server")
	}
	return state.DidResume, nil
}
