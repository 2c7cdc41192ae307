package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// backlogTime is how long a socket that is given up is still accepted from:
// clients in the system's queue have connected.
const backlogTime = 50 * time.Millisecond

// acceptPause is the wait after a failed accept, such as for want of file
// descriptors.
const acceptPause = 50 * time.Millisecond

// Options are what a Server needs besides its configuration.
type Options struct {
	// Log receives what operators should know. It is required.
	Log *slog.Logger
	// Metrics counts. It is required.
	Metrics *Metrics
}

// Server runs the listeners of a configuration.
type Server struct {
	options Options

	mu       sync.Mutex
	config   *Config
	sockets  map[string]*socket // by the address of the configuration
	stopping bool
	retired  sync.WaitGroup // generations and sockets on their way out
	retirees sync.Map       // of *generation
	admin    *admin
	access   atomic.Pointer[AccessLog]
}

// maxIdleGrace is how long Shutdown leaves connections open on which no request
// is under way: one may be on its way, and clients then learn of the end from
// its response.
const maxIdleGrace = 3 * time.Second

// Start checks the configuration, listens and serves. When it fails, nothing is
// left behind.
func Start(config *Config, options Options) (*Server, error) {
	s := &Server{options: options, sockets: make(map[string]*socket), admin: newAdmin(options)}
	if err := s.Apply(config); err != nil {
		return nil, err
	}
	return s, nil
}

// Apply puts another configuration in place of the current one, as a whole or
// not at all. Sockets whose address stays are kept; new ones are opened before
// anything changes.
//
// New connections get the new configuration. Where only the settings of TLS
// towards clients have changed, open connections live on. Otherwise requests
// under way are finished, and connections of HTTP close with their next response
// (HTTP/2: GOAWAY); those of mode tcp go on to their end.
func (s *Server) Apply(config *Config) error {
	if err := config.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return errors.New("the proxy is stopping")
	}
	return s.plan(config, func(steps []step) { s.carryOut(config, steps) })
}

// step is what a new configuration means for one listener.
type step struct {
	key        string
	listener   *Listener
	socket     *socket
	opened     bool
	generation *generation // nil where the current one stays
}

// plan opens what a configuration needs and hands it to commit, or undoes
// everything when something fails.
func (s *Server) plan(config *Config, commit func([]step)) (err error) {
	var steps []step
	defer func() {
		if err == nil {
			return
		}
		for _, st := range steps {
			if st.generation != nil {
				st.generation.finish()
			}
			if st.opened && st.socket != nil {
				st.socket.inner.Close()
			}
		}
	}()
	for i, l := range config.Listeners {
		fail := func(field string, err error) error {
			return &ConfigError{Listener: i, Backend: -1, Field: field, Err: err}
		}
		st := step{key: key(l, i), listener: l}
		st.socket = s.sockets[st.key]
		if st.socket != nil && st.socket.reusePort != l.ReusePort {
			return fail("reuse-port", errors.New("it cannot change while the socket is open: give the listener another address, or start again"))
		}
		if st.socket == nil {
			if st.socket, err = listen(l); err != nil {
				return fail("address", err)
			}
			st.opened = true
		}
		steps = append(steps, st)
		if !st.opened && st.socket.current.Load().servesAs(l) {
			continue
		}
		if steps[i].generation, err = newGeneration(l, s.options, &s.access); err != nil {
			return fail("tls", err)
		}
	}
	if err := s.admin.prepare(config.Admin); err != nil {
		return &ConfigError{Listener: -1, Backend: -1, Field: "admin", Err: err}
	}
	commit(steps)
	return nil
}

// carryOut cannot fail.
func (s *Server) carryOut(config *Config, steps []step) {
	wanted := make(map[string]bool)
	for _, st := range steps {
		wanted[st.key] = true
		if st.opened {
			st.socket.log, st.socket.limit = s.options.Log, newLimit(st.listener.MaxConnections)
			st.socket.use(st.generation)
			s.sockets[st.key] = st.socket
			go st.socket.serve()
			continue
		}
		st.socket.limit.set(st.listener.MaxConnections)
		if st.generation == nil {
			st.socket.current.Load().useTLS(st.listener)
		} else {
			s.retire(st.socket.use(st.generation))
		}
	}
	for k, o := range s.sockets {
		if !wanted[k] {
			delete(s.sockets, k)
			s.retired.Go(func() {
				o.stop()
				s.retire(o.current.Load())
			})
		}
	}
	s.admin.commit()
	if old := s.access.Swap(config.AccessLog); old != nil && old != config.AccessLog {
		// A line that is being written is lost at worst.
		_ = old.Close()
	}
	s.config = config
}

// key tells sockets apart. Those whose port the system chooses stay what they
// are by their place in the configuration.
func key(l *Listener, i int) string {
	if ephemeral(l.Address) {
		return fmt.Sprintf("%s#%d", l.Address, i)
	}
	return l.Address
}

// retire lets a generation end by itself: without a limit of time, unless the
// server stops.
func (s *Server) retire(g *generation) {
	s.retirees.Store(g, true)
	g.retire()
	s.retired.Go(func() {
		<-g.ended()
		g.finish()
		s.retirees.Delete(g)
	})
}

// Address is what a listener of the configuration listens on, with the port that
// the system has chosen.
func (s *Server) Address(i int) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sockets[key(s.config.Listeners[i], i)].inner.Addr()
}

// AdminAddress is where /metrics and /healthz are served, in the form of AddressOf;
// empty for nowhere.
func (s *Server) AdminAddress() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin.listener == nil {
		return ""
	}
	return AddressOf(s.admin.listener.Addr())
}

// Shutdown stops listening, takes what clients have already connected, and waits
// until requests and connections are finished, for the DrainTimeout of the
// configuration at most. Connections of HTTP end with their next response;
// those on which none comes are closed after a while. What is left then is
// cut off, which is an error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return errors.New("the proxy is stopping already")
	}
	s.stopping = true
	s.admin.stopping.Store(true)
	sockets, drain := s.sockets, s.config.DrainTimeout
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	defer s.admin.close()
	var draining sync.WaitGroup
	for _, o := range sockets {
		draining.Go(func() {
			g := o.current.Load()
			g.retire()
			o.stop()
			s.retire(g)
		})
	}
	draining.Wait()
	var cut atomic.Int64
	s.retirees.Range(func(g, _ any) bool {
		draining.Go(func() { cut.Add(int64(g.(*generation).drain(ctx, min(drain/4, maxIdleGrace)))) })
		return true
	})
	draining.Wait()
	s.retired.Wait()
	if access := s.access.Swap(nil); access != nil {
		_ = access.Close()
	}
	if n := cut.Load(); n > 0 {
		return fmt.Errorf("%d connections were still in use after %v and were cut off", n, drain)
	}
	return nil
}

// socket accepts connections for the generation that is current.
type socket struct {
	inner     net.Listener
	reusePort bool
	current   atomic.Pointer[generation]
	limit     *limit
	log       *slog.Logger
	stopped   atomic.Bool
	ended     chan struct{}
}

func listen(l *Listener) (*socket, error) {
	network, address := networkOf(l.Address)
	var config net.ListenConfig
	if l.ReusePort {
		config.Control = setReusePort
	}
	if network == "unix" {
		removeStale(address)
	}
	inner, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return &socket{inner: inner, reusePort: l.ReusePort, ended: make(chan struct{})}, nil
}

// removeStale removes the file of a Unix socket that nobody listens on any more:
// a process that was killed leaves it.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	probe, err := net.Dial("unix", path)
	if err == nil {
		probe.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}

// use makes g current and returns what was.
func (o *socket) use(g *generation) *generation {
	g.limit = o.limit
	return o.current.Swap(g)
}

// serve accepts until stop.
func (o *socket) serve() {
	defer close(o.ended)
	for o.limit.acquire() {
		accepted, err := o.inner.Accept()
		switch {
		case err == nil:
			o.hand(accepted)
			continue
		case o.stopped.Load():
			o.limit.release()
			return
		}
		o.limit.release()
		o.log.Error("accept", "address", o.inner.Addr().String(), "error", err)
		time.Sleep(acceptPause)
	}
}

func (o *socket) hand(accepted net.Conn) {
	for {
		g := o.current.Load()
		if g.take(accepted) {
			return
		}
		if g == o.current.Load() {
			// The server is being cut off.
			accepted.Close()
			o.limit.release()
			return
		}
	}
}

// stop closes the socket once the clients in its queue are accepted.
func (o *socket) stop() {
	o.stopped.Store(true)
	if d, ok := o.inner.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Now().Add(backlogTime))
	}
	select {
	case <-o.ended:
	case <-time.After(2 * backlogTime):
		// It waits for a place: see limit.
	}
	o.inner.Close()
	o.limit.close()
	<-o.ended
}

// limit bounds the connections of a socket.
type limit struct {
	mu     sync.Mutex
	free   sync.Cond
	open   int
	most   int
	closed bool
}

func newLimit(most int) *limit {
	l := &limit{most: most}
	l.free.L = &l.mu
	return l
}

// acquire waits for a place; false means that the socket is closed.
func (l *limit) acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open >= l.most && !l.closed {
		l.free.Wait()
	}
	if l.closed {
		return false
	}
	l.open++
	return true
}

func (l *limit) release() {
	l.mu.Lock()
	l.open--
	l.mu.Unlock()
	l.free.Signal()
}

func (l *limit) set(most int) {
	l.mu.Lock()
	l.most = most
	l.mu.Unlock()
	l.free.Broadcast()
}

func (l *limit) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.free.Broadcast()
}
