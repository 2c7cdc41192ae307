//go:build cgo

package native

/*
#cgo CFLAGS: -I${SRCDIR}/../../cgo/include -Wall -Wextra -Werror
#include <stdlib.h>
#include "polytls_native.h"

// No function of the table keeps a pointer to Go memory or calls into Go.
#cgo noescape ctx_set
#cgo nocallback ctx_set
#cgo noescape conn_make
#cgo nocallback conn_make
#cgo noescape conn_set
#cgo nocallback conn_set
#cgo nocallback conn_handshake
#cgo noescape conn_read
#cgo nocallback conn_read
#cgo noescape conn_write
#cgo nocallback conn_write
#cgo nocallback conn_close_notify
#cgo noescape conn_query
#cgo nocallback conn_query
#cgo nocallback conn_free

// Calls through the table. The results come back by value.
static const char *lib_version(const struct polytls_library *l) { return l->version(); }
static struct polytls_result lib_init(const struct polytls_library *l, char *text) { return l->init(text); }
static struct polytls_result ctx_new(const struct polytls_library *l, int role, struct polytls_ctx **out) {
  return l->ctx_new((enum polytls_role)role, out);
}
static struct polytls_result ctx_set(const struct polytls_library *l, struct polytls_ctx *c, int option, const uint8_t *data, size_t n) {
  return l->ctx_set(c, option, data, n);
}
static struct polytls_result ctx_finish(const struct polytls_library *l, struct polytls_ctx *c) { return l->ctx_finish(c); }
static void ctx_free(const struct polytls_library *l, struct polytls_ctx *c) { l->ctx_free(c); }
static size_t get_uint32(const uint8_t *p) { return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]; }

// What follows runs for every connection. It takes the addresses of C memory as
// numbers: Go would look at every pointer, each time.

// Makes a connection and applies its options, each as its number (uint32), the
// length of its data (uint32) and the data. The caller frees what *out is set to,
// also after a failure.
static struct polytls_result conn_make(uintptr_t library, uintptr_t c, size_t out_limit, const uint8_t *options, size_t n,
                                       struct polytls_conn **out) {
  const struct polytls_library *l = (const struct polytls_library *)library;
  struct polytls_result r = l->conn_new((struct polytls_ctx *)c, out);
  if (r.status != POLYTLS_OK) {
    return r;
  }
  (*out)->out_limit = out_limit;
  while (n >= 8 && r.status == POLYTLS_OK) {
    size_t size = get_uint32(options + 4);
    if (size > n - 8) {
      break;
    }
    r = l->conn_set(*out, (int)get_uint32(options), options + 8, size);
    options += 8 + size;
    n -= 8 + size;
  }
  return r;
}
static struct polytls_result conn_set(uintptr_t l, uintptr_t c, int option, const uint8_t *data, size_t n) {
  return ((const struct polytls_library *)l)->conn_set((struct polytls_conn *)c, option, data, n);
}
static struct polytls_result conn_handshake(uintptr_t l, uintptr_t c) {
  return ((const struct polytls_library *)l)->handshake((struct polytls_conn *)c);
}
static struct polytls_result conn_read(uintptr_t l, uintptr_t c, uint8_t *p, size_t n) {
  return ((const struct polytls_library *)l)->read((struct polytls_conn *)c, p, n);
}
static struct polytls_result conn_write(uintptr_t l, uintptr_t c, const uint8_t *p, size_t n) {
  return ((const struct polytls_library *)l)->write((struct polytls_conn *)c, p, n);
}
static struct polytls_result conn_close_notify(uintptr_t l, uintptr_t c) {
  return ((const struct polytls_library *)l)->close_notify((struct polytls_conn *)c);
}
static struct polytls_result conn_query(uintptr_t l, uintptr_t c, int what, uint8_t *p, size_t n) {
  return ((const struct polytls_library *)l)->query((struct polytls_conn *)c, what, p, n);
}
static void conn_free(uintptr_t l, uintptr_t c, uint8_t *spare) {
  free(spare);
  ((const struct polytls_library *)l)->conn_free((struct polytls_conn *)c);
}
*/
import "C"

import (
	"bytes"
	stdcontext "context"
	"crypto"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	// The headers are part of this package's build key.
	_ "github.com/polytls/polytls/cgo/include"
	"github.com/polytls/polytls/internal/engine"
	"github.com/polytls/polytls/internal/forgotten"
	"github.com/polytls/polytls/tlsapi"
)

const (
	// batchSize is what one call of the transport moves at most: four records.
	batchSize = 4 * C.POLYTLS_MAX_RECORD
	// outputLimit bounds the ciphertext that a step makes before it is sent:
	// three records, because a kernel takes 64 KiB at a time. Four were a large
	// packet and a tiny one, each of which wakes the peer.
	outputLimit = 3 * C.POLYTLS_MAX_RECORD
)

// library is one struct polytls_library.
type library struct {
	c             *C.struct_polytls_library
	versionString atomic.Pointer[string]
}

// New completes the description of a provider with its library: a pointer to a
// struct polytls_library that lives as long as the process.
func New(p *Provider, table unsafe.Pointer) *Provider {
	l := &library{c: (*C.struct_polytls_library)(table)}
	if l.c.unavailable != nil {
		return p.complete(l, AllAbilities)
	}
	return p.complete(l, Abilities(l.c.abilities))
}

func (l *library) address() C.uintptr_t { return C.uintptr_t(uintptr(unsafe.Pointer(l.c))) }

func (l *library) init() error {
	if l.c.unavailable != nil {
		return errors.New(C.GoString(l.c.unavailable))
	}
	text := (*C.char)(C.calloc(1, C.POLYTLS_ERROR_TEXT_SIZE))
	if text == nil {
		return errors.New("out of memory")
	}
	defer C.free(unsafe.Pointer(text))
	if res := C.lib_init(l.c, text); res.status != C.POLYTLS_OK {
		return errors.New(C.GoString(text))
	}
	return nil
}

func (l *library) version() string {
	if v := l.versionString.Load(); v != nil {
		return *v
	}
	v := C.GoString(C.lib_version(l.c))
	l.versionString.Store(&v)
	return v
}

// context is a native context with a count of its references: the cache has
// one, and so has every caller between get and release. Connections hold their
// own inside the library.
type context struct {
	library  *library
	provider string
	c        *C.struct_polytls_ctx
	refs     atomic.Int32
	probe    offerProbe
}

// build makes the native context. The caller has its only reference.
func (b *contextBuilder) build() (*context, error) {
	lib := b.provider.library
	var c *C.struct_polytls_ctx
	if res := C.ctx_new(lib.c, C.int(b.role), &c); res.status != C.POLYTLS_OK {
		return nil, engine.ResultError(b.provider.ProviderName, "config", result(res), "creating the context")
	}
	ctx := &context{library: lib, provider: b.provider.ProviderName, c: c}
	ctx.refs.Store(1)
	for _, i := range b.instructions {
		values := [][]byte{i.data}
		if i.expand != nil {
			var err error
			if values, err = i.expand(); err != nil {
				ctx.release()
				return nil, err
			}
		}
		for _, v := range values {
			if res := C.ctx_set(lib.c, c, C.int(i.option), bytePointer(v), C.size_t(len(v))); res.status != C.POLYTLS_OK {
				err := ctx.fault(res, i.name)
				ctx.release()
				i.wipe(values)
				return nil, err
			}
		}
		i.wipe(values)
	}
	if res := C.ctx_finish(lib.c, c); res.status != C.POLYTLS_OK {
		name := ""
		for _, i := range b.instructions {
			if i.option == int(res.n) {
				name = i.name
			}
		}
		err := ctx.fault(res, name)
		ctx.release()
		return nil, err
	}
	return ctx, nil
}

func (ctx *context) fault(res C.struct_polytls_result, option string) error {
	e := engine.ResultError(ctx.provider, "config", result(res), C.GoString(&ctx.c.error_text[0]))
	e.Option = option
	return e
}

// hold takes another reference unless the context is gone.
func (ctx *context) hold() bool {
	for {
		n := ctx.refs.Load()
		if n == 0 {
			return false
		}
		if ctx.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (ctx *context) release() {
	if ctx.refs.Add(-1) == 0 {
		C.ctx_free(ctx.library.c, ctx.c)
	}
}

// conn is a native connection; it implements engine.Engine.
type conn struct {
	library *library
	c       *C.struct_polytls_conn
	// spare is the output buffer that TakeOutput has lent. It stands apart so
	// that the cleanup can reach it when the conn is gone.
	spare   *buffer
	cleanup runtime.Cleanup
	// signer signs for a certificate whose private key the context lacks, or is
	// nil; signature is the one that the handshake waits for.
	signer    crypto.Signer
	signature *signature
	// chooser chooses a client's certificate when the server asks for one, or is
	// nil; choice is the one that the handshake waits for.
	chooser *certificateChooser
	chosen  *chosenCertificate
	// wants is what the handshake waits for.
	wants C.int32_t
}

// newConn makes a connection and applies its options.
func (ctx *context) newConn(options connOptions) (*conn, error) {
	var c *C.struct_polytls_conn
	steps.enter()
	res := C.conn_make(ctx.library.address(), C.uintptr_t(uintptr(unsafe.Pointer(ctx.c))), outputLimit, bytePointer(options), C.size_t(len(options)), &c)
	steps.leave()
	if res.status != C.POLYTLS_OK {
		text := "creating the connection"
		if c != nil {
			text = C.GoString(&c.error_text[0])
			C.conn_free(ctx.library.address(), address(c), nil)
		}
		return nil, engine.ResultError(ctx.provider, "config", result(res), text)
	}
	n := &conn{library: ctx.library, c: c, spare: &buffer{}}
	// The net under connections that nobody closes.
	n.cleanup = runtime.AddCleanup(n, left.free, left{ctx.library, c, n.spare})
	return n, nil
}

func (n *conn) address() C.uintptr_t { return address(n.c) }

func address(c *C.struct_polytls_conn) C.uintptr_t { return C.uintptr_t(uintptr(unsafe.Pointer(c))) }

// left is what a connection leaves that nobody has closed.
type left struct {
	library *library
	c       *C.struct_polytls_conn
	spare   *buffer
}

func (l left) free() {
	steps.enter()
	C.conn_free(l.library.address(), address(l.c), l.spare.p)
	steps.leave()
	forgotten.Add()
}

func (n *conn) Handshake() engine.Result {
	if s := n.signature; s != nil {
		n.signature = nil
		if res := C.conn_set(n.library.address(), n.address(), C.POLYTLS_SET_SIGNATURE, bytePointer(s.value), C.size_t(len(s.value))); res.status != C.POLYTLS_OK {
			return result(res)
		}
	}
	refused := n.takeChoice()
	n.lendOutput(&recordBuffers)
	steps.enter()
	res := C.conn_handshake(n.library.address(), n.address())
	steps.leave()
	n.returnInput()
	if refused != nil {
		return *refused
	}
	if n.wants = res.status; n.wants == C.POLYTLS_WANT_CERTIFICATE {
		res.status = C.POLYTLS_WANT_SIGNATURE // the two are WantWork
	}
	return result(res)
}

// takeChoice gives the library the certificate that was chosen. When it refuses
// it the handshake fails, with this result and an alert that the next step makes.
func (n *conn) takeChoice() *engine.Result {
	chosen := n.chosen
	if chosen == nil {
		return nil
	}
	n.chosen = nil
	if chosen.answer[0] != choiceKeep {
		n.signer = chosen.signer
	}
	res := C.conn_set(n.library.address(), n.address(), connChosenCertificate, bytePointer(chosen.answer), C.size_t(len(chosen.answer)))
	clear(chosen.answer)
	if res.status == C.POLYTLS_OK {
		return nil
	}
	refused := result(res)
	return &refused
}

// Work signs what the library wants signed, or chooses the certificate that the
// server asks for.
func (n *conn) Work() func(stdcontext.Context, func(*engine.Options)) error {
	if n.wants == C.POLYTLS_WANT_CERTIFICATE {
		n.chosen = &chosenCertificate{answer: []byte{choiceFail}}
		request := bytes.Clone(n.query(C.POLYTLS_GET_CERTIFICATE_REQUEST, nil))
		chosen, chooser := n.chosen, n.chooser
		return func(ctx stdcontext.Context, _ func(*engine.Options)) error {
			return chooser.choose(ctx, request, chosen)
		}
	}
	s := &signature{signer: n.signer, request: n.query(C.POLYTLS_GET_SIGNATURE_REQUEST, nil)}
	n.signature = s
	return func(stdcontext.Context, func(*engine.Options)) error { return s.make() }
}

// Verdict answers WantVerdict.
func (n *conn) Verdict(alert uint8) engine.Result {
	return result(C.conn_set(n.library.address(), n.address(), C.POLYTLS_SET_VERDICT, (*C.uint8_t)(&alert), 1))
}

func (n *conn) Read(p []byte) engine.Result {
	steps.enter()
	res := C.conn_read(n.library.address(), n.address(), bytePointer(p), C.size_t(len(p)))
	steps.leave()
	n.returnInput()
	return result(res)
}

// EndFlood lowers the limit to what the peer has sent.
func (n *conn) EndFlood() { n.c.idle_limit = n.c.idle_records }

func (n *conn) Write(p []byte) engine.Result {
	n.lendOutput(&batchBuffers)
	steps.enter()
	res := C.conn_write(n.library.address(), n.address(), bytePointer(p), C.size_t(len(p)))
	steps.leave()
	return result(res)
}

func (n *conn) CloseNotify() engine.Result {
	n.lendOutput(&recordBuffers)
	steps.enter()
	res := C.conn_close_notify(n.library.address(), n.address())
	steps.leave()
	return result(res)
}

// InputSpace lends the free end of the input buffer.
func (n *conn) InputSpace(brief bool) []byte {
	c := n.c
	if c.in == nil {
		b := recordBuffers.get
		if brief {
			b = batchBuffers.get
		}
		memory := b()
		if memory.p == nil {
			return nil
		}
		c.in, c.in_cap, c.in_start, c.in_end = memory.p, memory.cap, 0, 0
	}
	free := c.in_cap - c.in_end
	if c.in_start > 0 && free < recordBuffers.size/2 {
		b := unsafe.Slice((*byte)(c.in), int(c.in_cap))
		copy(b, b[c.in_start:c.in_end])
		c.in_end -= c.in_start
		c.in_start = 0
		free = c.in_cap - c.in_end
	}
	return unsafe.Slice((*byte)(c.in), int(c.in_cap))[c.in_cap-free : c.in_cap]
}

func (n *conn) InputReceived(count int) {
	n.c.in_end += C.size_t(count)
	n.returnInput()
}

// returnInput gives the input buffer back when it is empty: a connection that
// waits holds none.
func (n *conn) returnInput() {
	c := n.c
	if c.in != nil && c.in_start == c.in_end {
		giveBack(buffer{c.in, c.in_cap})
		c.in, c.in_cap, c.in_start, c.in_end = nil, 0, 0, 0
	}
}

// lendOutput gives the next step an output buffer if there is none.
func (n *conn) lendOutput(pool *bufferPool) {
	if c := n.c; c.out == nil {
		b := pool.get()
		c.out, c.out_cap = b.p, b.cap
	}
}

func (n *conn) Input() []byte {
	if n.c.in == nil {
		return nil
	}
	return unsafe.Slice((*byte)(n.c.in), int(n.c.in_cap))[n.c.in_start:n.c.in_end]
}

func (n *conn) HasOutput() bool { return n.c.out_end > 0 }

// TakeOutput swaps the output buffer with the spare one, so that steps can add
// output while the last is being sent.
func (n *conn) TakeOutput() []byte {
	c := n.c
	if c.out_end == 0 {
		// All is sent: an idle connection holds no buffer.
		giveBack(*n.spare)
		giveBack(buffer{c.out, c.out_cap})
		*n.spare = buffer{}
		c.out, c.out_cap = nil, 0
		return nil
	}
	out, length, capacity := c.out, c.out_end, c.out_cap
	c.out, c.out_cap, c.out_end = n.spare.p, n.spare.cap, 0
	n.spare.p, n.spare.cap = out, capacity
	return unsafe.Slice((*byte)(out), int(length))
}

func (n *conn) Verification() engine.Verification {
	return engine.Verification{
		Code:        engine.VerifyCode(n.c.verify_code),
		Depth:       int(n.c.verify_depth),
		LibraryCode: int64(n.c.verify_library_code),
	}
}

func (n *conn) ErrorText() string {
	if n.c.error_text[0] == 0 {
		return ""
	}
	return C.GoString(&n.c.error_text[0])
}

// TakeKeyLog returns the lines for the key log and wipes the library's copy.
func (n *conn) TakeKeyLog() []byte {
	if n.c.key_log_end == 0 {
		return nil
	}
	b := unsafe.Slice((*byte)(n.c.key_log), int(n.c.key_log_end))
	lines := bytes.Clone(b)
	clear(b)
	n.c.key_log_end = 0
	return lines
}

// SetSession offers a session; false when the library cannot use it.
func (n *conn) SetSession(session []byte) bool {
	steps.enter()
	res := C.conn_set(n.library.address(), n.address(), connSession, bytePointer(session), C.size_t(len(session)))
	steps.leave()
	return res.status == C.POLYTLS_OK
}

// TakeSessions lends the library's copy of the new sessions, which the caller wipes.
func (n *conn) TakeSessions() [][]byte {
	if n.c.sessions_end == 0 {
		return nil
	}
	var sessions [][]byte
	for rest := unsafe.Slice((*byte)(n.c.sessions), int(n.c.sessions_end)); len(rest) >= 4; {
		size := binary.BigEndian.Uint32(rest)
		if uint64(size) > uint64(len(rest)-4) {
			break
		}
		sessions = append(sessions, rest[4:4+size:4+size])
		rest = rest[4+size:]
	}
	n.c.sessions_end = 0
	return sessions
}

// Facts asks for everything that is known of the connection, in one call.
func (n *conn) Facts() engine.Facts {
	b, ok := n.facts()
	if !ok {
		return engine.Facts{Incomplete: true}
	}
	next := func() []byte {
		// The sizes are polytls_answer_facts's own.
		size := 4 + int(binary.BigEndian.Uint32(b))
		answer := b[4:size:size]
		b = b[size:]
		if len(answer) == 0 {
			return nil
		}
		return answer
	}
	return engine.Facts{
		Version:         wireUint16(next()),
		CipherSuite:     wireUint16(next()),
		Group:           tlsapi.CurveID(wireUint16(next())),
		ALPN:            string(next()),
		ServerName:      string(next()),
		PeerChain:       chain(next()),
		VerifiedChain:   chain(next()),
		SignatureScheme: wireUint16(next()),
		Resumed:         wireBool(next()),
		HelloRetry:      wireBool(next()),
		OCSPResponse:    next(),
		PSKIdentity:     next(),
		TLSUnique:       next(),
		Timestamps:      timestamps(next()),
	}
}

// factsBuffers hold the answer of POLYTLS_GET_FACTS for a moment; only what it takes is
// kept.
var factsBuffers = sync.Pool{New: func() any { return new([8192]byte) }}

func (n *conn) facts() (answers []byte, ok bool) {
	pooled := factsBuffers.Get().(*[8192]byte)
	defer factsBuffers.Put(pooled)
	for buf := pooled[:]; ; {
		steps.enter()
		res := C.conn_query(n.library.address(), n.address(), C.POLYTLS_GET_FACTS, bytePointer(buf), C.size_t(len(buf)))
		steps.leave()
		if res.status != C.POLYTLS_OK {
			return nil, false
		}
		size := int(res.n)
		if size <= len(buf) {
			return bytes.Clone(buf[:size]), true
		}
		buf = make([]byte, size)
	}
}

// Export derives keying material.
func (n *conn) Export(label string, context []byte, length int) ([]byte, engine.Result) {
	request := binary.BigEndian.AppendUint16(nil, uint16(len(label)))
	request = append(request, label...)
	if context == nil {
		request = append(request, 0, 0, 0)
	} else {
		request = append(request, 1)
		request = binary.BigEndian.AppendUint16(request, uint16(len(context)))
		request = append(request, context...)
	}
	request = binary.BigEndian.AppendUint16(request, uint16(length))
	buf := append(request, make([]byte, max(0, length-len(request)))...)
	res := result(C.conn_query(n.library.address(), n.address(), C.POLYTLS_GET_EXPORTER, bytePointer(buf), C.size_t(len(buf))))
	if res.Status != engine.OK {
		return nil, res
	}
	if res.N != length {
		res.Status, res.Failure = engine.Failed, engine.FailInternal
		return nil, res
	}
	return buf[:length:length], res
}

// Free releases the connection and the lent memory.
func (n *conn) Free() {
	n.cleanup.Stop()
	c := n.c
	for _, b := range []buffer{{c.in, c.in_cap}, {c.out, c.out_cap}, *n.spare} {
		giveBack(b)
	}
	c.in, c.out = nil, nil
	steps.enter()
	C.conn_free(n.library.address(), address(c), nil)
	steps.leave()
	n.c, n.spare = nil, nil
}

func (n *conn) query(what C.int, buf []byte) []byte {
	if buf == nil {
		buf = make([]byte, 64)
	}
	for {
		res := C.conn_query(n.library.address(), n.address(), what, bytePointer(buf), C.size_t(len(buf)))
		if res.status != C.POLYTLS_OK || res.n == 0 {
			return nil
		}
		if int(res.n) <= len(buf) {
			return buf[:res.n]
		}
		buf = make([]byte, int(res.n))
	}
}

func wireUint16(b []byte) uint16 {
	if len(b) == 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func wireBool(b []byte) bool { return len(b) == 1 && b[0] != 0 }

func result(r C.struct_polytls_result) engine.Result {
	return engine.Result{
		Status: engine.Status(r.status),
		Flags:  engine.Flags(r.flags),
		N:      int(r.n),
		Fault: engine.Fault{
			Failure:       engine.Failure(r.failure),
			AlertSent:     int16(r.alert_sent),
			AlertReceived: int16(r.alert_received),
			Code:          uint64(r.code),
		},
	}
}

// bytePointer returns a pointer for a C call that does not keep it.
func bytePointer(b []byte) *C.uint8_t {
	return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b)))
}

// The numbers in native.go, which also compiles without cgo, are those of the
// header: a difference does not compile.
var (
	_ = [1]struct{}{}[optMinVersion-C.POLYTLS_SET_MIN_VERSION]
	_ = [1]struct{}{}[optMaxVersion-C.POLYTLS_SET_MAX_VERSION]
	_ = [1]struct{}{}[optCipherSuites-C.POLYTLS_SET_CIPHER_SUITES]
	_ = [1]struct{}{}[optGroups-C.POLYTLS_SET_GROUPS]
	_ = [1]struct{}{}[optKeyShares-C.POLYTLS_SET_KEY_SHARES]
	_ = [1]struct{}{}[optSignatureSchemes-C.POLYTLS_SET_SIGNATURE_SCHEMES]
	_ = [1]struct{}{}[optSecurityPolicy-C.POLYTLS_SET_SECURITY_POLICY]
	_ = [1]struct{}{}[optALPN-C.POLYTLS_SET_ALPN]
	_ = [1]struct{}{}[optALPNStrict-C.POLYTLS_SET_ALPN_STRICT]
	_ = [1]struct{}{}[optTrustAnchor-C.POLYTLS_SET_TRUST_ANCHOR]
	_ = [1]struct{}{}[optVerifyMode-C.POLYTLS_SET_VERIFY_MODE]
	_ = [1]struct{}{}[optCertificate-C.POLYTLS_SET_CERTIFICATE]
	_ = [1]struct{}{}[optSessionTickets-C.POLYTLS_SET_SESSION_TICKETS]
	_ = [1]struct{}{}[optCAName-C.POLYTLS_SET_CA_NAME]
	_ = [1]struct{}{}[optKeyLog-C.POLYTLS_SET_KEY_LOG]
	_ = [1]struct{}{}[optPSK-C.POLYTLS_SET_PSK]
	_ = [1]struct{}{}[optRequirePSK-C.POLYTLS_SET_REQUIRE_PSK]
	_ = [1]struct{}{}[optTicketKey-C.POLYTLS_SET_TICKET_KEY]
	_ = [1]struct{}{}[optOCSPResponse-C.POLYTLS_SET_OCSP_RESPONSE]
	_ = [1]struct{}{}[optRevocationList-C.POLYTLS_SET_REVOCATION_LIST]
	_ = [1]struct{}{}[optCertificateSchemes-C.POLYTLS_SET_CERTIFICATE_SCHEMES]
	_ = [1]struct{}{}[optTimestamps-C.POLYTLS_SET_TIMESTAMPS]
	_ = [1]struct{}{}[AbilityTimestamps-C.POLYTLS_ABILITY_TIMESTAMPS]
	_ = [1]struct{}{}[connAskCertificate-C.POLYTLS_SET_ASK_CERTIFICATE]
	_ = [1]struct{}{}[connChosenCertificate-C.POLYTLS_SET_CHOSEN_CERTIFICATE]
	_ = [1]struct{}{}[choiceFail-C.POLYTLS_CHOICE_FAIL]
	_ = [1]struct{}{}[choiceNone-C.POLYTLS_CHOICE_NONE]
	_ = [1]struct{}{}[choiceSend-C.POLYTLS_CHOICE_SEND]
	_ = [1]struct{}{}[choiceKeep-C.POLYTLS_CHOICE_KEEP]
	_ = [1]struct{}{}[connSession-C.POLYTLS_SET_SESSION]
	_ = [1]struct{}{}[connSignature-C.POLYTLS_SET_SIGNATURE]
	_ = [1]struct{}{}[tlsapi.PSKExternal-C.POLYTLS_PSK_EXTERNAL]
	_ = [1]struct{}{}[tlsapi.PSKSHA384-C.POLYTLS_PSK_SHA384]
	_ = [1]struct{}{}[connServerName-C.POLYTLS_SET_SERVER_NAME]
	_ = [1]struct{}{}[connVerifyDNS-C.POLYTLS_SET_VERIFY_DNS]
	_ = [1]struct{}{}[connVerifyIP-C.POLYTLS_SET_VERIFY_IP]
	_ = [1]struct{}{}[connSkipHostname-C.POLYTLS_SET_SKIP_HOSTNAME]
	_ = [1]struct{}{}[verifyNone-C.POLYTLS_VERIFY_NONE]
	_ = [1]struct{}{}[verifyRequireAndVerify-C.POLYTLS_VERIFY_REQUIRE_AND_VERIFY]
	_ = [1]struct{}{}[AbilityMLKEM-C.POLYTLS_ABILITY_MLKEM]
	_ = [1]struct{}{}[AbilityHalfClose-C.POLYTLS_ABILITY_HALF_CLOSE]
	_ = [1]struct{}{}[AbilityVerdict-C.POLYTLS_ABILITY_VERDICT]
	_ = [1]struct{}{}[connAskVerdict-C.POLYTLS_SET_ASK_VERDICT]
	_ = [1]struct{}{}[engine.WantVerdict-C.POLYTLS_WANT_VERDICT]
	_ = [1]struct{}{}[engine.WantWork-C.POLYTLS_WANT_SIGNATURE]
	_ = [1]struct{}{}[engine.FailBadRecord-C.POLYTLS_FAIL_BAD_RECORD]
	_ = [1]struct{}{}[engine.FailBadPSK-C.POLYTLS_FAIL_BAD_PSK]
	_ = [1]struct{}{}[engine.FlagHandshakeDone-C.POLYTLS_FLAG_HANDSHAKE_DONE]
	_ = [1]struct{}{}[engine.VerifyRevocationUnknown-C.POLYTLS_VERIFY_REVOCATION_UNKNOWN]
)
