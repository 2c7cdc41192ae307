// Package engine is the one net.Conn state machine of the native providers:
// handshake, read, write, close, deadlines and the send gate, over a TLS engine
// that does no I/O of its own.
package engine

import (
	"context"

	"github.com/polytls/polytls/tlsapi"
)

// Engine is a TLS state machine without I/O: ciphertext goes through memory
// that it lends. Every method is one step and returns at once. One goroutine at
// a time may use it, except for the memory that InputSpace and TakeOutput lend:
// steps leave that alone. InputSpace and InputReceived may run beside all other
// methods but Handshake, Read, Input and Free.
type Engine interface {
	// Handshake drives the handshake: OK when it is complete, WantInput,
	// WantOutput, WantWork or Failed.
	Handshake() Result
	// Work returns what the handshake waits for after WantWork. It may block
	// and runs outside of all locks, in a goroutine that may outlive the
	// handshake and even the engine; the engine takes its result in the next
	// call of Handshake, and drops it in Free. With adopt it replaces the
	// options of the connection as far as a server's choice of a configuration
	// can, from that moment on. After an error the next call of Handshake
	// returns Failed, with the alert in the output; the error is what the
	// caller of the handshake sees, as KindRejected unless it is a
	// tlsapi.Error.
	Work() func(ctx context.Context, adopt func(*Options)) error
	// Verdict answers Handshake's WantVerdict: with 0 the handshake goes on, with
	// an alert the next step fails and leaves that alert in the output. It returns
	// OK or Failed.
	Verdict(alert uint8) Result
	// Read decrypts into p: OK with N > 0, WantInput, WantOutput, Closed or
	// Failed. After WantInput, and after OK without FlagPending, it is called
	// again when there is more input, or when another step has failed. WantInput
	// with FlagPending asks for another step. FlagFlood, without data only, says
	// that the peer sends much that brings none.
	Read(p []byte) Result
	// EndFlood makes Read fail with the next record, unless that brings data. It is
	// called after a Read with FlagFlood.
	EndFlood()
	// Write encrypts the first N bytes of p: OK, WantOutput or Failed.
	Write(p []byte) Result
	// CloseNotify appends a close_notify alert to the output, once.
	CloseNotify() Result

	// InputSpace lends memory for ciphertext from the peer, valid until
	// InputReceived. Brief says that InputReceived follows without a wait: it
	// may be more then. Nil means that memory ran out.
	InputSpace(brief bool) []byte
	// InputReceived says that the first n bytes of what InputSpace lent hold
	// ciphertext now; with 0 it takes the memory back.
	InputReceived(n int)
	// Input returns what was received and not yet consumed, valid until the
	// next step.
	Input() []byte
	// HasOutput reports whether ciphertext waits to be sent.
	HasOutput() bool
	// TakeOutput lends the ciphertext that waits and takes it out of the
	// engine; it is valid until the next TakeOutput or Free.
	TakeOutput() []byte

	// Verification returns the outcome of the certificate verification.
	Verification() Verification
	// ErrorText is the library's text of the last failure.
	ErrorText() string
	// TakeKeyLog returns the lines for the key log that the last steps have
	// made, each with its line end. The caller wipes them.
	TakeKeyLog() []byte
	// SetSession offers a session of TakeSessions, before the first step; false
	// when the library cannot use it, and the connection goes on without.
	SetSession(session []byte) bool
	// TakeSessions lends a client's new sessions, in the library's own form, until
	// the next step, and takes them out of the engine. The caller wipes them.
	TakeSessions() [][]byte
	// Facts returns what is known of the connection so far.
	Facts() Facts
	// Export derives keying material.
	Export(label string, context []byte, length int) ([]byte, Result)
	// Free releases everything. Nothing may be called after it.
	Free()
}

// Status is what a step came to; the values are those of enum polytls_status.
// POLYTLS_WANT_SIGNATURE is WantWork.
type Status int32

const (
	OK Status = iota
	WantInput
	WantOutput
	Closed
	Failed
	// WantWork is an answer of Handshake only: Work says what is to be done
	// before it is called again.
	WantWork
	// WantVerdict is an answer of Handshake only: the peer's certificates are
	// accepted, nothing of this end's next flight exists, and Verdict says whether
	// it shall. Engines whose library cannot wait there never answer it.
	WantVerdict
)

// Failure is why a step failed; the values are those of enum polytls_failure.
type Failure int32

const (
	FailNone Failure = iota
	FailInternal
	FailConfig
	FailUnsupported
	FailProtocol
	FailPeerAlert
	FailVerify
	FailNoCertificate
	FailBadRecord
	FailNoPSK
	FailBadPSK
)

// Flags are bits of a result; the values are those of enum polytls_flag.
type Flags uint32

const (
	FlagPending Flags = 1 << iota
	FlagPeerCertificates
	FlagHandshakeDone
	FlagFlood
)

// Result is the outcome of a step. It has four words in no more than four fields:
// a larger one the compiler keeps in memory and copies, which every Read and Write
// would pay for several times.
type Result struct {
	Status Status
	Flags  Flags
	N      int
	Fault
}

// Fault is why a step failed.
type Fault struct {
	Failure       Failure
	AlertSent     int16 // -1 for none
	AlertReceived int16 // -1 for none
	Code          uint64
}

// NoFault is that of a step that has not failed, and what a failure starts from
// that no alert belongs to.
var NoFault = Fault{AlertSent: -1, AlertReceived: -1}

// VerifyCode is the outcome of the certificate verification; the values are
// those of enum polytls_verify_code.
type VerifyCode int32

const (
	VerifyOK VerifyCode = iota
	VerifyHostname
	VerifyUntrusted
	VerifyExpired
	VerifyNotYetValid
	VerifySelfSigned
	VerifyKeyUsage
	VerifyWeakKey
	VerifyWeakSignature
	VerifyRevoked
	VerifyBadSignature
	VerifyInvalidCA
	VerifyNameConstraint
	VerifyMalformed
	VerifyOther
	VerifyRevocationUnknown
)

// Verification is the outcome of the certificate verification.
type Verification struct {
	Code        VerifyCode
	Depth       int
	LibraryCode int64
}

// Facts are what a connection has negotiated. Absent facts have their zero
// value.
type Facts struct {
	Version         uint16
	CipherSuite     uint16
	Group           tlsapi.CurveID
	SignatureScheme uint16
	Resumed         bool
	HelloRetry      bool
	// Incomplete says that the library could not tell for want of memory: what
	// is zero may not be absent.
	Incomplete    bool
	ALPN          string
	ServerName    string
	PeerChain     [][]byte // DER, leaf first, as sent
	VerifiedChain [][]byte // DER, leaf to anchor
	OCSPResponse  []byte
	PSKIdentity   []byte
	TLSUnique     []byte
	Timestamps    [][]byte // SCTs
}
