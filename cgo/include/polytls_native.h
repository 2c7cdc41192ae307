/*
 * The contract between the Go engine and a native TLS library.
 *
 * A provider fills one struct polytls_library with its functions; the Go side
 * (internal/native) calls them through that table and knows no type of the
 * library behind it.
 *
 * Rules for every function of the table:
 *   - It is one step: it clears the library's error state, acts, reads the
 *     error state, and returns everything by value in struct polytls_result.
 *     The next call may come on another thread.
 *   - It never blocks, never sleeps and never calls into Go. Ciphertext goes
 *     through the buffers in struct polytls_conn.
 *   - One connection is used by one thread at a time (the caller holds a
 *     lock); a context is used by one thread at a time until ctx_finish has
 *     returned and is read-only and shared by many connections after that.
 *   - Byte arguments belong to the caller and are not kept: what a library
 *     needs longer is copied.
 *   - Sizes are size_t. Integers inside option and query data are big-endian.
 *   - The `_new` functions give the caller one reference; `_free` releases it.
 *     A connection holds its own reference to its context.
 */
#ifndef POLYTLS_NATIVE_H
#define POLYTLS_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#define POLYTLS_ERROR_TEXT_SIZE 256

/* What a step came to. */
enum polytls_status {
  POLYTLS_OK = 0,
  /* More ciphertext from the peer is needed: fill `in`, call again. */
  POLYTLS_WANT_INPUT = 1,
  /* `out` is full: send it, call again with the same arguments. */
  POLYTLS_WANT_OUTPUT = 2,
  /* The peer's close_notify has been read; no data follows. */
  POLYTLS_CLOSED = 3,
  /* The step failed; `failure` and the rest of the result say how. */
  POLYTLS_FAILED = 4,
  /* Handshake only: a signature of an external signer is needed. The request
   * is POLYTLS_GET_SIGNATURE_REQUEST, the answer POLYTLS_SET_SIGNATURE; then
   * call again. */
  POLYTLS_WANT_SIGNATURE = 5,
  /* Handshake only: the peer's certificates are accepted, and whoever asked for
   * it (POLYTLS_SET_ASK_VERDICT) has the last word; the answer is
   * POLYTLS_SET_VERDICT; then call again. */
  POLYTLS_WANT_VERDICT = 6,
  /* Handshake only: the server asks for a certificate, and whoever asked for it
   * (POLYTLS_SET_ASK_CERTIFICATE) chooses one. The request is
   * POLYTLS_GET_CERTIFICATE_REQUEST, the answer POLYTLS_SET_CHOSEN_CERTIFICATE;
   * then call again. */
  POLYTLS_WANT_CERTIFICATE = 7
};

/* Why a step failed. */
enum polytls_failure {
  POLYTLS_FAIL_NONE = 0,
  /* The provider's own or the library's fault: out of memory, misuse. */
  POLYTLS_FAIL_INTERNAL = 1,
  /* An option of a context or connection is malformed or wrong. */
  POLYTLS_FAIL_CONFIG = 2,
  /* The library cannot honour this value of the option. */
  POLYTLS_FAIL_UNSUPPORTED = 3,
  /* The peer broke the protocol, or no parameters in common. */
  POLYTLS_FAIL_PROTOCOL = 4,
  /* The peer sent a fatal alert: alert_received. */
  POLYTLS_FAIL_PEER_ALERT = 5,
  /* The peer's certificate was refused: conn->verify_code. */
  POLYTLS_FAIL_VERIFY = 6,
  /* The peer sent no certificate although one is required. */
  POLYTLS_FAIL_NO_CERTIFICATE = 7,
  /* A record did not decrypt or was malformed. */
  POLYTLS_FAIL_BAD_RECORD = 8,
  /* A PSK is required, and the handshake came to none. */
  POLYTLS_FAIL_NO_PSK = 9,
  /* The peer has the PSK's identity but another secret: its binder (TLS 1.3)
   * or Finished message (TLS 1.2) is wrong. */
  POLYTLS_FAIL_BAD_PSK = 10
};

/* Outcome of the certificate verification: one value for one cause, the same
 * for every library. */
enum polytls_verify_code {
  POLYTLS_VERIFY_OK = 0,
  POLYTLS_VERIFY_HOSTNAME = 1,      /* no name matches */
  POLYTLS_VERIFY_UNTRUSTED = 2,     /* no path to a trust anchor */
  POLYTLS_VERIFY_EXPIRED = 3,
  POLYTLS_VERIFY_NOT_YET_VALID = 4,
  POLYTLS_VERIFY_SELF_SIGNED = 5,   /* the leaf is self-signed, no anchor */
  POLYTLS_VERIFY_KEY_USAGE = 6,     /* key usage or extended key usage */
  POLYTLS_VERIFY_WEAK_KEY = 7,      /* RSA under 2048 bits and the like */
  POLYTLS_VERIFY_WEAK_SIGNATURE = 8,/* SHA-1, MD5 */
  POLYTLS_VERIFY_REVOKED = 9,
  POLYTLS_VERIFY_BAD_SIGNATURE = 10,
  POLYTLS_VERIFY_INVALID_CA = 11,   /* an issuer that may not issue, path length */
  POLYTLS_VERIFY_NAME_CONSTRAINT = 12,
  POLYTLS_VERIFY_MALFORMED = 13,
  POLYTLS_VERIFY_OTHER = 14,
  POLYTLS_VERIFY_REVOCATION_UNKNOWN = 15 /* no current revocation list of an
                                            issuer among the configured ones */
};

/* Bits of polytls_result.flags. */
enum polytls_flag {
  /* Decrypted bytes are waiting: the next read needs no input. */
  POLYTLS_FLAG_PENDING = 1,
  /* The peer's certificates have been processed (verified, or accepted by a
   * mode that does not verify): queries of the peer's chain work from now
   * on, also in the middle of a handshake. */
  POLYTLS_FLAG_PEER_CERTIFICATES = 2,
  /* The handshake is complete. */
  POLYTLS_FLAG_HANDSHAKE_DONE = 4,
  /* The peer sends many records in a row that bring no data. */
  POLYTLS_FLAG_FLOOD = 8
};

/* The outcome of a step, in the order of engine.Result. */
struct polytls_result {
  int32_t status;         /* enum polytls_status */
  uint32_t flags;         /* enum polytls_flag */
  size_t n;               /* bytes of plaintext consumed or produced; for a
                             query: the size of the answer */
  int32_t failure;        /* enum polytls_failure */
  int16_t alert_sent;     /* description, or -1; with POLYTLS_FAILED */
  int16_t alert_received; /* description, or -1; with POLYTLS_FAILED */
  uint64_t code;          /* the library's own error code, 0 for none */
};

/*
 * The head of every provider's connection object. Go reads and writes these
 * fields directly (no C call) while it holds the connection's lock.
 *
 * in:  ciphertext from the peer at [in_start, in_end). Go appends at in_end
 *      (also while the lock is free: nobody else writes behind in_end, and
 *      steps other than handshake and read do not touch `in` at all); the
 *      step consumes at in_start and sets both to 0 when they meet.
 * out: ciphertext for the peer at [0, out_end). The step appends (growing
 *      `out` up to out_limit bytes by polytls_conn_out_append); Go takes the
 *      whole buffer away and leaves another one or NULL with capacity 0.
 * Both buffers are malloc memory and belong to the connection; conn_free
 * frees what is there.
 */
struct polytls_conn {
  uint8_t *in;
  size_t in_start;
  size_t in_end;
  size_t in_cap;
  uint8_t *out;
  size_t out_end;
  size_t out_cap;
  size_t out_limit;
  /* Records that were taken since the last one with data, see
   * polytls_conn_in_take: counted when idle_limit is not 0. A step of read stops
   * at idle_pause of them, when that is not 0, or somewhat later at idle_until, in
   * nanoseconds, and idle_turn of them set POLYTLS_FLAG_FLOOD the next time.
   * header_seen and record_left say where in a record the library is. */
  uint64_t idle_until;
  uint32_t idle_limit;
  uint32_t idle_records;
  uint32_t idle_pause;
  uint32_t idle_turn;
  uint16_t record_left;
  uint8_t header_seen;
  int32_t verify_code;         /* enum polytls_verify_code */
  int32_t verify_depth;        /* certificate that caused it, 0 the leaf */
  int64_t verify_library_code; /* the library's own X509_V_ERR_… */
  /* Lines for the key log at [0, key_log_end), each with its line end; malloc
   * memory with secrets. Go takes and wipes them after each step; what it has
   * not taken, conn_free wipes. */
  uint8_t *key_log;
  size_t key_log_end;
  size_t key_log_cap;
  /* New sessions of a client at [0, sessions_end): (uint32 length, session in
   * the library's own form)…; malloc memory with secrets. Go takes and wipes
   * them as it does key_log. */
  uint8_t *sessions;
  size_t sessions_end;
  size_t sessions_cap;
  /* Text of the last failure, NUL-terminated, never a secret. */
  char error_text[POLYTLS_ERROR_TEXT_SIZE];
};

/* The head of every provider's context object. */
struct polytls_ctx {
  char error_text[POLYTLS_ERROR_TEXT_SIZE];
};

enum polytls_role { POLYTLS_CLIENT = 0, POLYTLS_SERVER = 1 };

/* Verification by the context: POLYTLS_SET_VERIFY_MODE. The numbers of the
 * server's modes are those of crypto/tls.ClientAuthType. */
enum polytls_verify_mode {
  POLYTLS_VERIFY_NONE = 0,               /* client: skip; server: ask none */
  POLYTLS_VERIFY_REQUEST = 1,            /* server: ask, accept any or none */
  POLYTLS_VERIFY_REQUIRE_ANY = 2,        /* server: ask, accept any */
  POLYTLS_VERIFY_IF_GIVEN = 3,           /* server: verify when there is one */
  POLYTLS_VERIFY_REQUIRE_AND_VERIFY = 4  /* both roles */
};

/* Kinds and hashes of POLYTLS_SET_PSK. */
enum polytls_psk_kind { POLYTLS_PSK_EXTERNAL = 0, POLYTLS_PSK_IMPORTED = 1, POLYTLS_PSK_TLS12 = 2 };
enum polytls_psk_hash { POLYTLS_PSK_SHA256 = 0, POLYTLS_PSK_SHA384 = 1 };

/* Options of a context (ctx_set). Each is set at most once unless it says
 * "repeats". What is not set has the library's secure default, as far as the
 * Go side does not always set it (it always sets versions, verify mode and
 * session tickets). */
enum polytls_ctx_option {
  POLYTLS_SET_MIN_VERSION = 1,       /* uint16: 0x0303, 0x0304 */
  POLYTLS_SET_MAX_VERSION = 2,       /* uint16 */
  POLYTLS_SET_CIPHER_SUITES = 3,     /* uint16…: IANA values, TLS 1.2 and 1.3
                                        mixed, in order of preference */
  POLYTLS_SET_GROUPS = 4,            /* uint16…: IANA named groups, in order */
  POLYTLS_SET_KEY_SHARES = 5,        /* uint16…: client: exactly these groups
                                        have a share in the first ClientHello */
  POLYTLS_SET_SIGNATURE_SCHEMES = 6, /* uint16…: IANA, for signing and
                                        verifying, in order */
  POLYTLS_SET_SECURITY_POLICY = 7,   /* s2n: name of the policy, no NUL */
  POLYTLS_SET_ALPN = 8,              /* wire form: (length byte, name)… ;
                                        client: offered, server: preference */
  POLYTLS_SET_ALPN_STRICT = 9,       /* uint8: server: alert 120 without
                                        overlap */
  POLYTLS_SET_TRUST_ANCHOR = 10,     /* repeats; one DER certificate. No
                                        anchor at all: nothing is trusted. */
  POLYTLS_SET_VERIFY_MODE = 11,      /* uint8: enum polytls_verify_mode */
  POLYTLS_SET_CERTIFICATE = 12,      /* repeats (one per key type): uint32
                                        length, PKCS#8 DER key; then (uint32
                                        length, DER certificate)…, leaf first.
                                        A key that does not fit the leaf is
                                        POLYTLS_FAIL_CONFIG. A key of length 0
                                        is an external signer's: the handshake
                                        step asks with POLYTLS_WANT_SIGNATURE */
  POLYTLS_SET_SESSION_TICKETS = 13,  /* uint8: 0 off: no ticket is issued,
                                        accepted or offered, and no session
                                        cached. 1 on: a client fills `sessions`
                                        and offers POLYTLS_SET_SESSION's, a
                                        server uses POLYTLS_SET_TICKET_KEY's */
  POLYTLS_SET_CA_NAME = 14,          /* repeats; server: DER subject name for
                                        the CertificateRequest */
  POLYTLS_SET_KEY_LOG = 17,          /* uint8: 1: connections fill key_log */
  POLYTLS_SET_PSK = 15,              /* repeats, in order of preference: uint8
                                        enum polytls_psk_kind, uint8 enum
                                        polytls_psk_hash, uint16 length,
                                        identity, uint16 length, context (of
                                        POLYTLS_PSK_IMPORTED), secret */
  POLYTLS_SET_REQUIRE_PSK = 16,      /* uint8: 1: a handshake without one of the
                                        PSKs is POLYTLS_FAIL_NO_PSK, before
                                        this end's last flight */
  POLYTLS_SET_TICKET_KEY = 18,       /* repeats; server: POLYTLS_TICKET_KEY_SIZE
                                        bytes: name (16), encryption key (32),
                                        authentication key (32). The first
                                        encrypts, all decrypt. They are already
                                        derived from what a ticket must not
                                        cross (trust, client authentication,
                                        certificates) */
  POLYTLS_SET_OCSP_RESPONSE = 19,    /* repeats; server: the DER response to
                                        staple to the last POLYTLS_SET_CERTIFICATE */
  POLYTLS_SET_REVOCATION_LIST = 20,  /* repeats; one DER CRL. With any, every
                                        certificate of a chain but the anchor
                                        needs a current list of its issuer */
  POLYTLS_SET_CERTIFICATE_SCHEMES = 21, /* uint16…: the schemes that the only
                                        POLYTLS_SET_CERTIFICATE signs with, in
                                        order; before ctx_finish */
  POLYTLS_SET_TIMESTAMPS = 22        /* repeats; the SignedCertificateTimestampList
                                        (RFC 6962) to send beside the last
                                        POLYTLS_SET_CERTIFICATE, for libraries
                                        with POLYTLS_ABILITY_TIMESTAMPS */
};

#define POLYTLS_TICKET_KEY_SIZE 80

/* Options of a connection (conn_set), before its first step. */
enum polytls_conn_option {
  POLYTLS_SET_SERVER_NAME = 1,   /* client: SNI, a DNS name, no NUL */
  POLYTLS_SET_VERIFY_DNS = 2,    /* repeats; client: an accepted DNS name */
  POLYTLS_SET_VERIFY_IP = 3,     /* repeats; client: an accepted address, 4 or
                                    16 bytes */
  POLYTLS_SET_SKIP_HOSTNAME = 4, /* uint8: client: 1 for no check of names. A
                                    verifying client with neither a name nor
                                    this switch refuses every certificate. */
  POLYTLS_SET_SESSION = 5,       /* client: the session to offer, in the
                                    library's own form. One that the library
                                    cannot use any more is POLYTLS_FAIL_CONFIG;
                                    the connection goes on without. */
  POLYTLS_SET_ASK_VERDICT = 7,   /* uint8, both roles: 1: the handshake step stops
                                    with POLYTLS_WANT_VERDICT once the peer's
                                    certificates, or those of the session that
                                    a client resumes, are accepted, before its
                                    next flight; for libraries with
                                    POLYTLS_ABILITY_VERDICT */
  POLYTLS_SET_VERDICT = 8,       /* in the handshake, after POLYTLS_WANT_VERDICT:
                                    uint8 0 to go on, else the alert to fail
                                    with */
  POLYTLS_SET_SIGNATURE = 6,     /* in the handshake, after
                                    POLYTLS_WANT_SIGNATURE: the signature; empty
                                    when the signer has failed */
  POLYTLS_SET_ASK_CERTIFICATE = 9, /* uint8, client: 1: the handshake step stops
                                    with POLYTLS_WANT_CERTIFICATE when the
                                    server asks for a certificate */
  POLYTLS_SET_CHOSEN_CERTIFICATE = 10 /* in the handshake, after
                                    POLYTLS_WANT_CERTIFICATE: uint8 enum
                                    polytls_choice; for POLYTLS_CHOICE_SEND
                                    behind it uint16 length, uint16 scheme… (that
                                    it signs with; none: all), and the value of
                                    POLYTLS_SET_CERTIFICATE */
};

/* The answers to POLYTLS_WANT_CERTIFICATE. */
enum polytls_choice {
  POLYTLS_CHOICE_FAIL = 0, /* the handshake fails, with the alert of the next byte
                              where the library can, else internal_error */
  POLYTLS_CHOICE_NONE = 1, /* the client has no certificate to send */
  POLYTLS_CHOICE_SEND = 2,
  POLYTLS_CHOICE_KEEP = 3  /* the context's certificate, if there is one */
};

/* Queries of a connection. The answer is written to buf when it fits; result.n
 * is its full size either way. An absent answer has size 0. */
enum polytls_query {
  POLYTLS_GET_VERSION = 1,          /* uint16 wire value */
  POLYTLS_GET_CIPHER_SUITE = 2,     /* uint16 IANA value */
  POLYTLS_GET_GROUP = 3,            /* uint16 IANA value of the key exchange
                                       group; absent when unknown (RSA key
                                       exchange, resumed TLS 1.2) */
  POLYTLS_GET_ALPN = 4,             /* the protocol */
  POLYTLS_GET_SERVER_NAME = 5,      /* server: what the client's SNI said */
  POLYTLS_GET_PEER_CHAIN = 6,       /* (uint32 length, DER)… as sent, leaf
                                       first, also after a failed verification */
  POLYTLS_GET_VERIFIED_CHAIN = 7,   /* the same form, leaf to anchor; absent
                                       when not verified */
  POLYTLS_GET_SIGNATURE_SCHEME = 8, /* uint16: what the peer signed the
                                       handshake with */
  POLYTLS_GET_RESUMED = 9,          /* uint8 */
  POLYTLS_GET_HELLO_RETRY = 10,     /* uint8: a HelloRetryRequest was sent or
                                       seen; absent when the library cannot
                                       tell (Go then looks at the records) */
  POLYTLS_GET_OCSP_RESPONSE = 11,   /* bytes */
  POLYTLS_GET_PSK_IDENTITY = 13,    /* the identity of the PSK in use */
  POLYTLS_GET_SIGNATURE_REQUEST = 14, /* uint16 signature scheme, uint8 1 when
                                       what follows is a digest, 0 when it is
                                       the message; the bytes to sign; absent
                                       when no signature is wanted */
  POLYTLS_GET_CERTIFICATE_REQUEST = 15, /* what the server asks for, in the
                                       handshake: uint16 version, uint16 length
                                       and uint16 signature scheme…, uint8
                                       length and uint8 certificate type… (TLS
                                       1.2), (uint32 length, DER name)… */
  POLYTLS_GET_TLS_UNIQUE = 16,      /* the channel binding of RFC 5929; absent in
                                       TLS 1.3, and in resumed sessions without
                                       extended master secret */
  POLYTLS_GET_TIMESTAMPS = 17,      /* client: the server's
                                       SignedCertificateTimestampList */
  POLYTLS_GET_FACTS = 18,           /* everything that is known of a connection:
                                       (uint32 length, answer)… to the queries of
                                       polytls_answer_facts, in their order */
  POLYTLS_GET_EXPORTER = 12         /* in: buf holds uint16 label length,
                                       label, uint8 has-context, uint16
                                       context length, context, uint16 wanted
                                       length; out: that many bytes */
};

/* Answers POLYTLS_GET_FACTS with the answers that `answer` has to the queries of
 * this list. A step of its own for each would look at the error queue twice. */
static inline struct polytls_result polytls_answer_facts(struct polytls_result (*answer)(struct polytls_conn *conn, int what,
                                                                                         uint8_t *buf, size_t len),
                                                         struct polytls_conn *conn, uint8_t *buf, size_t len) {
  static const uint8_t all[] = {POLYTLS_GET_VERSION, POLYTLS_GET_CIPHER_SUITE, POLYTLS_GET_GROUP, POLYTLS_GET_ALPN,
    POLYTLS_GET_SERVER_NAME, POLYTLS_GET_PEER_CHAIN, POLYTLS_GET_VERIFIED_CHAIN, POLYTLS_GET_SIGNATURE_SCHEME,
    POLYTLS_GET_RESUMED, POLYTLS_GET_HELLO_RETRY, POLYTLS_GET_OCSP_RESPONSE, POLYTLS_GET_PSK_IDENTITY,
    POLYTLS_GET_TLS_UNIQUE, POLYTLS_GET_TIMESTAMPS};
  struct polytls_result result;
  size_t used = 0;
  for (size_t i = 0; i < sizeof(all); i++) {
    size_t room = used + 4 < len ? len - used - 4 : 0;
    result = answer(conn, all[i], room > 0 ? buf + used + 4 : NULL, room);
    if (result.status != POLYTLS_OK) {
      return result;
    }
    size_t size = result.n;
    if (used + 4 <= len) {
      buf[used] = (uint8_t)(size >> 24);
      buf[used + 1] = (uint8_t)(size >> 16);
      buf[used + 2] = (uint8_t)(size >> 8);
      buf[used + 3] = (uint8_t)size;
    }
    used += 4 + size;
  }
  result.n = used;
  return result;
}

/* What builds of a library differ in: bits of polytls_library.abilities, each
 * from what the build has probed, never from a version. */
enum polytls_ability {
  POLYTLS_ABILITY_MLKEM = 1,         /* the group X25519MLKEM768 */
  POLYTLS_ABILITY_KEY_SHARES = 2,    /* a client's key shares can be chosen */
  POLYTLS_ABILITY_IMPORTED_PSKS = 4, /* PSKs of RFC 9258 */
  POLYTLS_ABILITY_EXPORTER = 8,
  POLYTLS_ABILITY_HALF_CLOSE = 16,   /* reading goes on after close_notify */
  POLYTLS_ABILITY_VERDICT = 32,      /* POLYTLS_SET_ASK_VERDICT */
  POLYTLS_ABILITY_TIMESTAMPS = 64    /* POLYTLS_SET_TIMESTAMPS; a client asks for
                                        those of the server */
};

/* What a provider's one exported function returns. Everything is constant and
 * lives as long as the process. */
struct polytls_library {
  /* NULL when the library is compiled in; else why it is not. All other
   * pointers but `name` are then NULL. */
  const char *unavailable;
  const char *name;           /* "openssl", "boringssl", "s2n" */
  const char *header_version; /* version of the headers compiled against */
  uint32_t abilities;         /* enum polytls_ability */
  /* Version of the library that runs, from the library itself. */
  const char *(*version)(void);
  /* Prepares the library once per process, before anything else. Text of a
   * failure goes to error_text (POLYTLS_ERROR_TEXT_SIZE bytes). */
  struct polytls_result (*init)(char *error_text);

  struct polytls_result (*ctx_new)(enum polytls_role role, struct polytls_ctx **out);
  struct polytls_result (*ctx_set)(struct polytls_ctx *ctx, int option, const uint8_t *data, size_t len);
  /* Ends the configuration: what needs all options is checked here. With a
   * failure, n is the option that it is about, or 0. */
  struct polytls_result (*ctx_finish)(struct polytls_ctx *ctx);
  void (*ctx_free)(struct polytls_ctx *ctx);

  struct polytls_result (*conn_new)(struct polytls_ctx *ctx, struct polytls_conn **out);
  struct polytls_result (*conn_set)(struct polytls_conn *conn, int option, const uint8_t *data, size_t len);
  struct polytls_result (*handshake)(struct polytls_conn *conn);
  /* Decrypts into buf until it is full or input runs out; OK with n > 0 when
   * anything was decrypted (a failure or close behind it is reported by the
   * next call), otherwise WANT_INPUT, CLOSED or FAILED. WANT_INPUT with
   * POLYTLS_FLAG_PENDING is the end of a step that has taken many records
   * without data: the input goes on in the next step. Without data the step sets
   * POLYTLS_FLAG_FLOOD where the peer has sent many such records. */
  struct polytls_result (*read)(struct polytls_conn *conn, uint8_t *buf, size_t len);
  /* Encrypts whole records while `out` has room; n may be less than len: the
   * rest is for the next call. WANT_OUTPUT with n == 0 when there is no room
   * for one record. */
  struct polytls_result (*write)(struct polytls_conn *conn, const uint8_t *buf, size_t len);
  /* Appends a close_notify to `out`, once. */
  struct polytls_result (*close_notify)(struct polytls_conn *conn);
  struct polytls_result (*query)(struct polytls_conn *conn, int what, uint8_t *buf, size_t len);
  void (*conn_free)(struct polytls_conn *conn);
};

/* Upper bound of a TLS record on the wire: header, 2^14 bytes, expansion. */
#define POLYTLS_MAX_RECORD (5 + 16384 + 2048)

#endif /* POLYTLS_NATIVE_H */
