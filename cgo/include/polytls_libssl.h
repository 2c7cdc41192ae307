/*
 * The step contract of polytls_native.h over the libssl family: OpenSSL 3.0 and
 * later, and BoringSSL. Exactly one .c file per library includes it, after
 * defining
 *
 *   POLYTLS_LIBSSL_FUNCTION   the exported function that returns the table
 *   POLYTLS_LIBSSL_NAME       the provider's name, a string
 *   POLYTLS_LIBSSL_SOURCE_VERSION  BoringSSL: the version of the sources, which
 *                             the library itself does not know, a string
 *   POLYTLS_LIBSSL_KEY, POLYTLS_LIBSSL_NATIVE_KEY()  optional: the key of the
 *                             build whose headers these are, and the call that
 *                             asks the archive for its own
 *   POLYTLS_LIBSSL_SYSTEM     optional: the library is the system's, its policy
 *                             stays as the distribution made it
 *
 * Ownership: a context is counted; its creator and every connection hold one
 * reference. A connection owns its SSL object, which owns the BIO, which points
 * back to the connection and never outlives it.
 */
#ifndef POLYTLS_LIBSSL_H
#define POLYTLS_LIBSSL_H

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#ifdef OPENSSL_IS_BORINGSSL
#include <openssl/aead.h>
#include <openssl/hmac.h>
#include <openssl/pool.h>
#else
#include <openssl/core_names.h>
#include <openssl/opensslv.h>
#endif
#include <openssl/rand.h>

#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "polytls_buffer.h"
#include "polytls_native.h"
#include "polytls_verify.h"

/* What this version of the library can do. BoringSSL has no numbers for its
 * features but the constants that came with them. */
#ifdef OPENSSL_IS_BORINGSSL
#ifdef SSL_GROUP_X25519_MLKEM768
#define LIBSSL_HAS_GROUP_IDS 1
#else
#define LIBSSL_HAS_GROUP_IDS 0
#endif
#define LIBSSL_HAS_KEY_SHARE_SYNTAX 0
#else
/* Key shares by '*' and groups of equal rank by '/' in a list of groups. */
#if defined(HAVE_GROUP_KEYSHARE_SYNTAX) && defined(HAVE_GROUP_TUPLE_SYNTAX)
#define LIBSSL_HAS_KEY_SHARE_SYNTAX 1
#else
#define LIBSSL_HAS_KEY_SHARE_SYNTAX 0
#endif
#endif

/* The capability matrix is made from these: enum polytls_ability. */
#ifdef HAVE_X25519MLKEM768
#define LIBSSL_ABILITY_MLKEM POLYTLS_ABILITY_MLKEM
#else
#define LIBSSL_ABILITY_MLKEM 0
#endif
#if LIBSSL_HAS_KEY_SHARE_SYNTAX || defined(HAVE_SSL_SET1_CLIENT_KEY_SHARES)
#define LIBSSL_ABILITY_KEY_SHARES POLYTLS_ABILITY_KEY_SHARES
#else
#define LIBSSL_ABILITY_KEY_SHARES 0
#endif
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
#define LIBSSL_ABILITY_IMPORTED_PSKS POLYTLS_ABILITY_IMPORTED_PSKS
#else
#define LIBSSL_ABILITY_IMPORTED_PSKS 0
#endif
#ifdef OPENSSL_IS_BORINGSSL
#define LIBSSL_ABILITY_VERDICT POLYTLS_ABILITY_VERDICT
#else
#define LIBSSL_ABILITY_VERDICT 0
#endif
#ifdef HAVE_SSL_CREDENTIAL
#define LIBSSL_ABILITY_TIMESTAMPS POLYTLS_ABILITY_TIMESTAMPS
#else
#define LIBSSL_ABILITY_TIMESTAMPS 0
#endif
#define LIBSSL_ABILITIES                                                                             \
  (LIBSSL_ABILITY_MLKEM | LIBSSL_ABILITY_KEY_SHARES | LIBSSL_ABILITY_IMPORTED_PSKS | POLYTLS_ABILITY_EXPORTER | \
   POLYTLS_ABILITY_HALF_CLOSE | LIBSSL_ABILITY_VERDICT | LIBSSL_ABILITY_TIMESTAMPS)

/* What a record adds to its plaintext at most (5 header, 16 explicit IV, 48
 * MAC, 256 padding), and a KeyUpdate in front of it. */
#define LIBSSL_RECORD_OVERHEAD 512
#define LIBSSL_MAX_PLAINTEXT 16384
/* OpenSSL sends no more key shares than this. */
#define LIBSSL_MAX_KEY_SHARES 4
/* The longest name of the registry's values, with the value behind it. */
#define LIBSSL_NAME_SIZE 64
/* The most values that a list may have; the registries' useful ones are fewer. */
#define LIBSSL_MAX_IDS 64
/* One per type of key: more than there are types. */
#define LIBSSL_MAX_CERTIFICATES 8
/* What leaves room for the rest of a ClientHello's extensions. */
#define LIBSSL_MAX_PSK_IDENTITY 60000
/* psk_dhe_ke of RFC 8446 section 4.2.9. */
#define LIBSSL_PSK_DHE_KE 1

struct libssl_ids {
  uint16_t *values; /* malloc memory */
  size_t count;
};

/* A PSK. Identity and secret are malloc memory of the context. */
struct libssl_psk {
  enum polytls_psk_kind kind;
  enum polytls_psk_hash hash;
  uint8_t *identity; /* with a zero byte behind it */
  size_t identity_len;
  uint8_t *secret; /* NULL where the credential has it */
  size_t secret_len;
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
  SSL_CREDENTIAL *credential; /* an imported one's */
#endif
};

#ifndef OPENSSL_IS_BORINGSSL
/* What belongs to a certificate but is the status callback's to send. */
struct libssl_staple {
  X509 *leaf;        /* a reference; NULL for no certificate */
  uint8_t *response; /* malloc memory; NULL for none */
  size_t len;
};
#endif

/* The parts of POLYTLS_SET_TICKET_KEY. */
struct libssl_ticket_key {
  uint8_t name[16];
  uint8_t encryption[32];
  uint8_t mac[32];
};

struct libssl_ctx {
  struct polytls_ctx head;
  atomic_size_t references;
  enum polytls_role role;
  SSL_CTX *ssl_ctx;
  X509_STORE *store; /* ssl_ctx's */
  STACK_OF(X509_CRL) *revocation_lists; /* NULL without any */
  uint32_t seen;     /* options set so far, a bit each */
  int ready;         /* ctx_finish has succeeded */
  int verify_mode;
  int tickets;
  struct libssl_ticket_key *ticket_keys; /* malloc memory, wiped; the first encrypts */
  size_t ticket_key_count;
  /* The session id context; servers add the client's SNI to it. A client's
   * session and PSK must have it as well. */
  uint8_t session_context[SSL_MAX_SID_CTX_LENGTH];
  unsigned int session_context_len;
  uint16_t min_version;
  uint16_t max_version;
  struct libssl_ids suites;
  struct libssl_ids groups;
  struct libssl_ids key_shares;
  struct libssl_ids schemes;
  struct libssl_ids certificate_schemes; /* of the only certificate */
  uint8_t *alpn; /* wire form, malloc memory */
  size_t alpn_len;
  int alpn_strict;
  int key_log;
  STACK_OF(X509_NAME) *ca_names; /* until ctx_finish gives it to ssl_ctx */
  EVP_MD_CTX *trust_digest;      /* of all that trust depends on */
  struct libssl_psk *psks; /* malloc memory, in order of preference */
  size_t psk_count;
  size_t psk_kinds[3]; /* how many there are, by enum polytls_psk_kind */
  int require_psk;
#ifndef OPENSSL_IS_BORINGSSL
  /* The enabled TLS 1.3 suites by enum polytls_psk_hash: their values, and
   * their names in the library's notation (NULL for none). */
  struct libssl_ids psk_suites[2];
  char *psk_suite_names[2];
#endif
  size_t certificates;
  int key_types[LIBSSL_MAX_CERTIFICATES]; /* of the certificates */
#ifndef OPENSSL_IS_BORINGSSL
  struct libssl_staple staples[LIBSSL_MAX_CERTIFICATES]; /* of the certificates */
#endif
#ifdef HAVE_SSL_CREDENTIAL
  SSL_CREDENTIAL **credentials; /* until ctx_finish gives them to ssl_ctx */
#endif
};

#ifdef OPENSSL_IS_BORINGSSL
/* The signature that a handshake waits for. All zero when there is none. */
struct libssl_signer {
  uint16_t scheme;
  uint8_t *input; /* malloc memory, as is the signature */
  size_t input_len;
  uint8_t *signature;
  size_t signature_len;
  int wanted;
  int given;
  int failed; /* the last signature was none */
};
#endif

#ifdef OPENSSL_IS_BORINGSSL
/* The stages of POLYTLS_SET_ASK_VERDICT. */
enum libssl_verdict { LIBSSL_VERDICT_UNASKED, LIBSSL_VERDICT_ASKED, LIBSSL_VERDICT_WANTED, LIBSSL_VERDICT_GIVEN };
#endif

/* The stages of POLYTLS_SET_ASK_CERTIFICATE. */
enum libssl_choice { LIBSSL_CHOICE_UNASKED, LIBSSL_CHOICE_ASKED, LIBSSL_CHOICE_WANTED, LIBSSL_CHOICE_MADE, LIBSSL_CHOICE_FAILED };

struct libssl_conn {
  struct polytls_conn head; /* must be first: the caller sees only this */
  struct libssl_ctx *ctx;
  SSL *ssl;
  struct polytls_names names;
  struct polytls_outcome outcome;
  /* What became of the chain in a ticket that a server has decrypted; the
   * connection's outcome once the session is resumed. */
  struct polytls_outcome ticket;
  int ticket_good;
  int ticket_adopted;
#ifndef OPENSSL_IS_BORINGSSL
  uint64_t ticket_since; /* when the ticket's client has shown its key */
  size_t ticket_chains;  /* those of tickets that were looked at */
#endif
  SSL_SESSION *offered; /* what a client offers to resume, or NULL */
  int started;        /* the first step has run */
  int reading;        /* the step may consume `in` */
  int flush_first;    /* the last read wanted room in `out` */
  int accepted;       /* the peer's certificates were accepted */
  int refused;        /* the peer's certificates were refused */
  int handshake_done;
  int hello_retry;
  int closed;         /* the peer's close_notify was read */
  int close_sent;
  int out_of_memory;
  int alert_sent;     /* or -1 */
  /* The context's PSK that was offered, or that is acceptable to the server;
   * libssl_uses_psk says whether it is in use. */
  const struct libssl_psk *psk;
  enum libssl_choice choice;
  int psk_missing;         /* a PSK is required, and there is none */
  int certificate_message; /* a Certificate message was sent or received */
#ifndef OPENSSL_IS_BORINGSSL
  int name_changed;  /* the second ClientHello has another name than the first */
  int hello_seen;    /* a server has seen a ClientHello */
  uint8_t *sni;      /* its server_name extension, malloc memory, until the end of the handshake */
  size_t sni_len;
#endif
#ifdef OPENSSL_IS_BORINGSSL
  struct libssl_signer signer;
  enum libssl_verdict verdict;
  uint8_t verdict_alert; /* 0 to go on */
  uint8_t *certificates; /* body of the peer's Certificate message, for a while */
  size_t certificates_len;
#endif
  /* The failure that every step reports from now on. */
  int failed;
  struct polytls_result failure;
  char *failure_text; /* malloc memory, or NULL: most connections never need it */
  /* Output of a step that failed behind data that it had to return first: it
   * leaves with the failure. */
  uint8_t *held;
  size_t held_len;
};

/* ---- results and errors ---- */

static struct polytls_result libssl_result(enum polytls_status status) {
  struct polytls_result result;
  memset(&result, 0, sizeof(result));
  result.status = status;
  result.alert_sent = -1;
  result.alert_received = -1;
  return result;
}

/* Empties the thread's error queue. Looking first is what makes it cheap: the
 * library's own call walks all the places of the queue, and steps make it
 * twice, nearly always for nothing. */
static void libssl_clear_errors(void) {
  if (ERR_peek_error() != 0) {
    ERR_clear_error();
  }
}

/* The same in front of SSL_read and SSL_write. What others have left in the queue
 * would be taken for the cause of a failure; BoringSSL empties it itself. What
 * these calls leave is read when they fail, and they leave nothing when they
 * succeed, so that no second look is needed after them. */
static void libssl_clear_stale_errors(void) {
#ifndef OPENSSL_IS_BORINGSSL
  libssl_clear_errors();
#endif
}

/* Returns a failure and writes its text, POLYTLS_ERROR_TEXT_SIZE bytes. */
__attribute__((format(printf, 4, 5))) static struct polytls_result libssl_fail(char *text, enum polytls_failure failure,
                                                                               uint64_t code, const char *format, ...) {
  struct polytls_result result = libssl_result(POLYTLS_FAILED);
  result.failure = failure;
  result.code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, POLYTLS_ERROR_TEXT_SIZE, format, arguments);
  va_end(arguments);
  return result;
}

/* Keeps a copy of the text of a failure, for the step that reports it. */
static void libssl_keep_text(struct libssl_conn *conn, const char *text) {
  if (text == conn->failure_text) {
    return;
  }
  size_t size = strlen(text) + 1;
  char *copy = malloc(size);
  if (copy != NULL) {
    memcpy(copy, text, size);
  }
  free(conn->failure_text);
  conn->failure_text = copy;
}

/* What the library's error queue says, in the order in which it was filled. */
struct libssl_error {
  uint64_t code; /* 0: nothing */
  int reason;    /* of the last entry of libssl itself, 0 for none */
  char text[160];
};

/* Reads the error queue and leaves it empty. */
static struct libssl_error libssl_take_error(void) {
  struct libssl_error error;
  memset(&error, 0, sizeof(error));
  for (;;) {
    unsigned long code = ERR_get_error();
    if (code == 0) {
      break;
    }
    int is_ssl = ERR_GET_LIB(code) == ERR_LIB_SSL;
    /* libssl's own word for it says more than what failed underneath. */
    if (error.code != 0 && (!is_ssl || error.reason != 0)) {
      continue;
    }
    error.code = code;
    if (is_ssl) {
      error.reason = ERR_GET_REASON(code);
    }
    const char *text = ERR_reason_error_string(code);
    if (text != NULL) {
      snprintf(error.text, sizeof(error.text), "%s", text);
    } else {
      snprintf(error.text, sizeof(error.text), "error %08lx of the library", code);
    }
  }
  if (error.code == 0) {
    snprintf(error.text, sizeof(error.text), "the library gave no reason");
  }
  return error;
}

static struct polytls_result libssl_out_of_memory(char *text) {
  ERR_clear_error();
  return libssl_fail(text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
}

static struct polytls_result libssl_ctx_out_of_memory(struct libssl_ctx *ctx) {
  return libssl_out_of_memory(ctx->head.error_text);
}

/* A failure of the library that says what went wrong. */
static struct polytls_result libssl_library_failure(char *text, enum polytls_failure failure, const char *what) {
  struct libssl_error error = libssl_take_error();
  return libssl_fail(text, failure, error.code, "%s: %s", what, error.text);
}

static struct polytls_result libssl_ctx_library_failure(struct libssl_ctx *ctx, enum polytls_failure failure,
                                                        const char *what) {
  return libssl_library_failure(ctx->head.error_text, failure, what);
}

/* ---- the transport ---- */

/* Made once per process by libssl_init, constant after that. */
static BIO_METHOD *libssl_bio_method;

static int libssl_bio_read(BIO *bio, char *bytes, int len) {
  struct libssl_conn *conn = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (conn == NULL || len <= 0) {
    return -1;
  }
  size_t n = conn->reading ? polytls_conn_in_take(&conn->head, (uint8_t *)bytes, (size_t)len) : 0;
  if (n == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  return (int)n;
}

static int libssl_bio_write(BIO *bio, const char *bytes, int len) {
  struct libssl_conn *conn = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (conn == NULL || len <= 0) {
    return -1;
  }
  ptrdiff_t n = polytls_conn_out_append(&conn->head, (const uint8_t *)bytes, (size_t)len);
  if (n < 0) {
    conn->out_of_memory = 1;
    return -1;
  }
  if (n == 0) {
    BIO_set_retry_write(bio);
    return -1;
  }
  return (int)n;
}

static long libssl_bio_ctrl(BIO *bio, int command, long number, void *pointer) {
  (void)bio;
  (void)number;
  (void)pointer;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

/* ---- the library as a whole ---- */

static const char *libssl_version(void) {
#ifdef OPENSSL_IS_BORINGSSL
  /* BoringSSL says no more than its name. */
  return strcmp(OpenSSL_version(OPENSSL_VERSION), "BoringSSL") == 0 ? POLYTLS_LIBSSL_SOURCE_VERSION
                                                                   : OpenSSL_version(OPENSSL_VERSION);
#else
  return OpenSSL_version(OPENSSL_VERSION_STRING);
#endif
}

static void libssl_init_once(void) {
  int type = BIO_get_new_index();
  if (type == -1) {
    return;
  }
  BIO_METHOD *method = BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "polytls buffers");
  if (method == NULL) {
    return;
  }
  if (!BIO_meth_set_read(method, libssl_bio_read) || !BIO_meth_set_write(method, libssl_bio_write) ||
      !BIO_meth_set_ctrl(method, libssl_bio_ctrl)) {
    BIO_meth_free(method);
    return;
  }
  libssl_bio_method = method;
}

/* Refuses a library that is not the one that the headers describe. */
static struct polytls_result libssl_check_version(char *error_text) {
#ifdef OPENSSL_IS_BORINGSSL
  if (strcmp(OpenSSL_version(OPENSSL_VERSION), "BoringSSL") != 0) {
    return libssl_fail(error_text, POLYTLS_FAIL_INTERNAL, 0,
                       "compiled against BoringSSL but running with \"%s\": link the library whose headers were used",
                       OpenSSL_version(OPENSSL_VERSION));
  }
#else
  /* Within one minor version the ABI is stable; an older patch may lack a
   * function or a fix that the headers promise. */
  if (OPENSSL_version_major() != OPENSSL_VERSION_MAJOR || OPENSSL_version_minor() != OPENSSL_VERSION_MINOR ||
      OPENSSL_version_patch() < OPENSSL_VERSION_PATCH) {
    return libssl_fail(error_text, POLYTLS_FAIL_INTERNAL, 0,
                       "compiled against OpenSSL %s but running with %s: build again with the headers of that library",
                       OPENSSL_VERSION_STR, OpenSSL_version(OPENSSL_VERSION_STRING));
  }
#endif
#ifdef POLYTLS_LIBSSL_KEY
  if (strcmp(POLYTLS_LIBSSL_NATIVE_KEY(), POLYTLS_LIBSSL_KEY) != 0) {
    return libssl_fail(error_text, POLYTLS_FAIL_INTERNAL, 0,
                       "compiled against build %s of %s but linked with build %s: run `make native` and build again",
                       POLYTLS_LIBSSL_KEY, POLYTLS_LIBSSL_NAME, POLYTLS_LIBSSL_NATIVE_KEY());
  }
#endif
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_init(char *error_text) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  error_text[0] = 0;
  struct polytls_result result = libssl_check_version(error_text);
  if (result.status != POLYTLS_OK) {
    return result;
  }
  ERR_clear_error();
#ifndef OPENSSL_IS_BORINGSSL
  /* Other threads may still be in the library when the process ends, so it must
   * not tear itself down. */
  if (OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL) != 1) {
    struct libssl_error error = libssl_take_error();
    return libssl_fail(error_text, POLYTLS_FAIL_INTERNAL, error.code,
                       "the library does not start: %s (is OPENSSL_CONF or the system's openssl.cnf broken?)",
                       error.text);
  }
#endif
  pthread_once(&once, libssl_init_once);
  ERR_clear_error();
  if (libssl_bio_method == NULL) {
    return libssl_fail(error_text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
  }
  return result;
}

/* ---- names of the registry's values ---- */

struct libssl_group {
  uint16_t id;
  int tls13_only;
  int post_quantum;
  /* How errors and OpenSSL's lists call it. */
  const char *name;
};

static const struct libssl_group libssl_groups[] = {
    {23, 0, 0, "P-256"},
    {24, 0, 0, "P-384"},
    {25, 0, 0, "P-521"},
    {29, 0, 0, "X25519"},
    {30, 0, 0, "X448"},
    {4587, 1, 1, "SecP256r1MLKEM768"},
    {4588, 1, 1, "X25519MLKEM768"},
    {4589, 1, 1, "SecP384r1MLKEM1024"},
    {514, 1, 1, "MLKEM1024"},
    /* Not to be named by options, but in OpenSSL's default list. */
    {256, 1, 0, "ffdhe2048"},
    {257, 1, 0, "ffdhe3072"},
    {258, 1, 0, "ffdhe4096"},
    {259, 1, 0, "ffdhe6144"},
    {260, 1, 0, "ffdhe8192"},
};

static const struct libssl_group *libssl_find_group(uint16_t id) {
  for (size_t i = 0; i < sizeof(libssl_groups) / sizeof(libssl_groups[0]); i++) {
    if (libssl_groups[i].id == id) {
      return &libssl_groups[i];
    }
  }
  return NULL;
}

struct libssl_named_id {
  uint16_t id;
  const char *name;
};

/* The schemes that an option may name; none with SHA-1. */
static const struct libssl_named_id libssl_schemes[] = {
    {0x0403, "ecdsa_secp256r1_sha256"}, {0x0503, "ecdsa_secp384r1_sha384"}, {0x0603, "ecdsa_secp521r1_sha512"},
    {0x0807, "ed25519"},                {0x0808, "ed448"},                  {0x0804, "rsa_pss_rsae_sha256"},
    {0x0805, "rsa_pss_rsae_sha384"},    {0x0806, "rsa_pss_rsae_sha512"},    {0x0809, "rsa_pss_pss_sha256"},
    {0x080a, "rsa_pss_pss_sha384"},     {0x080b, "rsa_pss_pss_sha512"},     {0x0401, "rsa_pkcs1_sha256"},
    {0x0501, "rsa_pkcs1_sha384"},       {0x0601, "rsa_pkcs1_sha512"},
};

static const char *libssl_scheme_name(uint16_t id) {
  for (size_t i = 0; i < sizeof(libssl_schemes) / sizeof(libssl_schemes[0]); i++) {
    if (libssl_schemes[i].id == id) {
      return libssl_schemes[i].name;
    }
  }
  return NULL;
}

/* The names of the suites that options may name, for errors: a library has none
 * for a suite that it does not know. */
static const struct libssl_named_id libssl_suites[] = {
    {0x1301, "TLS_AES_128_GCM_SHA256"},
    {0x1302, "TLS_AES_256_GCM_SHA384"},
    {0x1303, "TLS_CHACHA20_POLY1305_SHA256"},
    {0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
    {0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
    {0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
    {0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
    {0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"},
    {0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
};

/* Writes "name (0x1234)", or the number alone without a name, and returns
 * text. */
static const char *libssl_label(char text[LIBSSL_NAME_SIZE], const char *name, uint16_t id) {
  if (name == NULL) {
    snprintf(text, LIBSSL_NAME_SIZE, "0x%04x", id);
  } else {
    snprintf(text, LIBSSL_NAME_SIZE, "%s (0x%04x)", name, id);
  }
  return text;
}

static const char *libssl_suite_label(char text[LIBSSL_NAME_SIZE], uint16_t id) {
  const char *name = NULL;
  for (size_t i = 0; i < sizeof(libssl_suites) / sizeof(libssl_suites[0]); i++) {
    if (libssl_suites[i].id == id) {
      name = libssl_suites[i].name;
    }
  }
  return libssl_label(text, name, id);
}

static int libssl_ids_contain(const struct libssl_ids *ids, uint16_t id) {
  for (size_t i = 0; i < ids->count; i++) {
    if (ids->values[i] == id) {
      return 1;
    }
  }
  return 0;
}

static uint16_t libssl_uint16(const uint8_t *bytes) { return (uint16_t)((uint16_t)bytes[0] << 8 | bytes[1]); }

static uint32_t libssl_uint32(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* A list of names with separators; malloc memory, freed by the caller with
 * free(text). All zero is the empty list. */
struct libssl_list {
  char *text;
  size_t len;
};

/* Appends separator (unless the list is empty) and prefix and name. Returns 1,
 * or 0 when memory ran out. */
static int libssl_list_append(struct libssl_list *list, char separator, const char *prefix, const char *name) {
  size_t prefix_len = strlen(prefix);
  size_t name_len = strlen(name);
  char *text = realloc(list->text, list->len + 1 + prefix_len + name_len + 1);
  if (text == NULL) {
    return 0;
  }
  list->text = text;
  if (list->len > 0) {
    text[list->len++] = separator;
  }
  memcpy(text + list->len, prefix, prefix_len);
  memcpy(text + list->len + prefix_len, name, name_len + 1);
  list->len += prefix_len + name_len;
  return 1;
}

/* Parses one certificate that takes up all of the bytes. The caller frees it. */
static X509 *libssl_parse_certificate(const uint8_t *data, size_t len) {
  if (len == 0 || len > LONG_MAX) {
    return NULL;
  }
  const uint8_t *p = data;
  X509 *certificate = d2i_X509(NULL, &p, (long)len);
  if (certificate != NULL && p != data + len) {
    X509_free(certificate);
    return NULL;
  }
  return certificate;
}

/* ---- callbacks of the library; none of them leaves C ---- */

/* Returns an error of X509_V_ERR_… for which both libraries send the alert. */
static int libssl_error_for_alert(int alert) {
  switch (alert) {
    case 43:
      return X509_V_ERR_INVALID_PURPOSE;
    case 44:
      return X509_V_ERR_CERT_REVOKED;
    case 45:
      return X509_V_ERR_CERT_HAS_EXPIRED;
    case 46:
      return X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION;
    case 48:
      return X509_V_ERR_INVALID_CA;
    default:
      return X509_V_ERR_CERT_REJECTED; /* 42 */
  }
}

/* Decides about the peer's certificate. Returns 1 or 0. */
static int libssl_verify(X509_STORE_CTX *store_ctx, void *argument) {
  (void)argument;
  SSL *ssl = X509_STORE_CTX_get_ex_data(store_ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
  struct libssl_conn *conn = ssl == NULL ? NULL : SSL_get_app_data(ssl);
  if (conn == NULL) {
    X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_UNSPECIFIED);
    return 0;
  }
  conn->accepted = 0;
  polytls_outcome_free(&conn->outcome);

  if (conn->ctx->require_psk) {
    /* Whatever the certificate is: it stands where the PSK should. The error
     * makes the library send handshake_failure. */
    conn->psk_missing = 1;
    X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
  }
  int mode = conn->ctx->verify_mode;
  if (mode == POLYTLS_VERIFY_NONE || mode == POLYTLS_VERIFY_REQUEST || mode == POLYTLS_VERIFY_REQUIRE_ANY) {
    conn->outcome.sent = polytls_chain_sent(store_ctx);
    if (conn->outcome.sent == NULL) {
      conn->out_of_memory = 1;
      X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_OUT_OF_MEM);
      return 0;
    }
    X509_STORE_CTX_set_error(store_ctx, X509_V_OK);
    conn->accepted = 1;
    return 1;
  }

  enum polytls_role peer = conn->ctx->role == POLYTLS_CLIENT ? POLYTLS_SERVER : POLYTLS_CLIENT;
  int verified = polytls_verify(store_ctx, peer, &conn->names, conn->ctx->revocation_lists, &conn->outcome) == 1;
  conn->head.verify_code = conn->outcome.code;
  conn->head.verify_depth = conn->outcome.depth;
  conn->head.verify_library_code = conn->outcome.library_code;
  if (!verified) {
    conn->refused = 1;
    X509_STORE_CTX_set_error(store_ctx, libssl_error_for_alert(polytls_verify_alert(conn->outcome.code)));
    return 0;
  }
  /* A forged revocation list leaves an error, which would make a failure of a
   * step that waits for input. */
  libssl_clear_errors();
  conn->accepted = 1;
  return 1;
}

#ifdef OPENSSL_IS_BORINGSSL
/* Decides about the peer's chain as BoringSSL would let libssl_verify decide.
 * Returns 1, or 0 with *alert. */
static int libssl_verify_sent_chain(struct libssl_conn *conn, uint8_t *alert) {
  STACK_OF(X509) *sent = SSL_get_peer_full_cert_chain(conn->ssl);
  X509_STORE_CTX *store_ctx = X509_STORE_CTX_new();
  int ok = sent != NULL && sk_X509_num(sent) > 0 && store_ctx != NULL &&
           X509_STORE_CTX_init(store_ctx, SSL_CTX_get_cert_store(conn->ctx->ssl_ctx), sk_X509_value(sent, 0), sent) == 1 &&
           X509_STORE_CTX_set_ex_data(store_ctx, SSL_get_ex_data_X509_STORE_CTX_idx(), conn->ssl) == 1;
  if (!ok) {
    conn->out_of_memory = 1;
    *alert = SSL_AD_INTERNAL_ERROR;
  } else if (libssl_verify(store_ctx, NULL) != 1) {
    ok = 0;
    *alert = (uint8_t)SSL_alert_from_verify_result(X509_STORE_CTX_get_error(store_ctx));
  }
  X509_STORE_CTX_free(store_ctx);
  return ok;
}

/* Decides about the peer's certificates, and stops the handshake for the verdict
 * of whoever asked for that. A session that a client resumes was verified when it
 * was made: the verdict is about the connection. */
static enum ssl_verify_result_t libssl_custom_verify(SSL *ssl, uint8_t *alert) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL) {
    return ssl_verify_invalid;
  }
  switch (conn->verdict) {
    case LIBSSL_VERDICT_WANTED:
      return ssl_verify_retry;
    case LIBSSL_VERDICT_GIVEN:
      *alert = conn->verdict_alert;
      return conn->verdict_alert == 0 ? ssl_verify_ok : ssl_verify_invalid;
    default:
      break;
  }
  if (!SSL_session_reused(ssl) && !libssl_verify_sent_chain(conn, alert)) {
    return ssl_verify_invalid;
  }
  if (conn->verdict == LIBSSL_VERDICT_ASKED) {
    conn->verdict = LIBSSL_VERDICT_WANTED;
    return ssl_verify_retry;
  }
  return ssl_verify_ok;
}
#endif

/* Remembers the alert that was sent. close_notify is none. */
static void libssl_info(const SSL *ssl, int type, int value) {
  if ((type & SSL_CB_ALERT) && (type & SSL_CB_WRITE) && (value & 0xff) != 0) {
    struct libssl_conn *conn = SSL_get_app_data(ssl);
    if (conn != NULL) {
      conn->alert_sent = value & 0xff;
    }
  }
}

#ifndef OPENSSL_IS_BORINGSSL
/* Looks for the HelloRetryRequest, of which OpenSSL does not tell: a ServerHello
 * with the random value of RFC 8446 section 4.1.3, sent or received. */
static void libssl_message(int write, int version, int type, const void *bytes, size_t len, SSL *ssl, void *argument) {
  static const uint8_t retry[32] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
                                    0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
                                    0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
  (void)write;
  (void)version;
  (void)ssl;
  struct libssl_conn *conn = argument;
  const uint8_t *message = bytes;
  /* Type and length (4 bytes), version (2), random. */
  if (type == SSL3_RT_HANDSHAKE && len >= 6 + sizeof(retry) && message[0] == SSL3_MT_SERVER_HELLO &&
      memcmp(message + 6, retry, sizeof(retry)) == 0) {
    conn->hello_retry = 1;
  }
  if (type == SSL3_RT_HANDSHAKE && len >= 1 && message[0] == SSL3_MT_CERTIFICATE) {
    conn->certificate_message = 1;
  }
}
#endif

#ifdef OPENSSL_IS_BORINGSSL
static void libssl_note_psk(struct libssl_conn *conn);

static void libssl_forget_certificates(struct libssl_conn *conn) {
  free(conn->certificates);
  conn->certificates = NULL;
  conn->certificates_len = 0;
}

/* Keeps the peer's Certificate message until the chain is verified: in TLS 1.3
 * BoringSSL refuses a leaf for its key usage before anybody can see it. */
static void libssl_message(int write, int version, int type, const void *bytes, size_t len, SSL *ssl, void *argument) {
  (void)version;
  (void)ssl;
  struct libssl_conn *conn = argument;
  const uint8_t *message = bytes;
  libssl_note_psk(conn);
  if (type == SSL3_RT_HANDSHAKE && len >= 1 && message[0] == SSL3_MT_CERTIFICATE) {
    conn->certificate_message = 1;
  }
  if (write || type != SSL3_RT_HANDSHAKE || len < 4 || message[0] != SSL3_MT_CERTIFICATE || conn->accepted) {
    return;
  }
  libssl_forget_certificates(conn);
  conn->certificates = malloc(len - 4 + 1);
  if (conn->certificates != NULL) {
    memcpy(conn->certificates, message + 4, len - 4);
    conn->certificates_len = len - 4;
  }
}

/* Makes the chain as sent from the Certificate message of TLS 1.3 (RFC 8446
 * section 4.4.2). What does not parse ends it. */
static void libssl_recover_chain(struct libssl_conn *conn) {
  const uint8_t *bytes = conn->certificates;
  size_t len = conn->certificates_len;
  if (conn->outcome.sent != NULL || bytes == NULL || len < 1 || SSL_version(conn->ssl) < TLS1_3_VERSION) {
    return;
  }
  conn->outcome.sent = sk_X509_new_null();
  /* The context and the length of the list; then length, certificate, length,
   * extensions. */
  size_t at = 1 + (size_t)bytes[0] + 3;
  while (conn->outcome.sent != NULL && at < len && len - at >= 3) {
    size_t size = (size_t)bytes[at] << 16 | (size_t)bytes[at + 1] << 8 | bytes[at + 2];
    at += 3;
    X509 *certificate = size > len - at ? NULL : libssl_parse_certificate(bytes + at, size);
    if (certificate == NULL) {
      return;
    }
    if (!sk_X509_push(conn->outcome.sent, certificate)) {
      X509_free(certificate);
      return;
    }
    at += size;
    if (len - at < 2) {
      return;
    }
    at += 2 + (size_t)libssl_uint16(bytes + at);
  }
}
#endif

/* Selects the server's first protocol that the client offers. */
static int libssl_select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *offered,
                              unsigned int offered_len, void *argument) {
  (void)ssl;
  const struct libssl_ctx *ctx = argument;
  for (size_t own = 0; own < ctx->alpn_len; own += 1 + (size_t)ctx->alpn[own]) {
    size_t len = ctx->alpn[own];
    for (size_t theirs = 0; theirs < offered_len; theirs += 1 + (size_t)offered[theirs]) {
      if (offered[theirs] == len && len <= offered_len - theirs - 1 &&
          memcmp(ctx->alpn + own + 1, offered + theirs + 1, len) == 0) {
        *out = ctx->alpn + own + 1;
        *out_len = (unsigned char)len;
        return SSL_TLSEXT_ERR_OK;
      }
    }
  }
  return ctx->alpn_strict ? SSL_TLSEXT_ERR_ALERT_FATAL : SSL_TLSEXT_ERR_NOACK;
}

/* Gives a server's connection its session id context: that of the context with
 * the server_name extension, in which names have no case. A ticket for one name
 * is then none for another. Returns 1 or 0. */
static int libssl_bind_sessions(SSL *ssl, const struct libssl_ctx *ctx, const uint8_t *server_name, size_t len) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned int digest_len = 0;
  uint8_t *bytes = malloc(ctx->session_context_len + len);
  if (bytes == NULL) {
    return 0;
  }
  memcpy(bytes, ctx->session_context, ctx->session_context_len);
  for (size_t i = 0; i < len; i++) {
    uint8_t c = server_name[i];
    bytes[ctx->session_context_len + i] = c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c;
  }
  int ok = EVP_Digest(bytes, ctx->session_context_len + len, digest, &digest_len, EVP_sha256(), NULL) == 1 &&
           SSL_set_session_id_context(ssl, digest, digest_len) == 1;
  free(bytes);
  return ok;
}

/* ---- contexts ---- */

static void libssl_free_ticket_keys(struct libssl_ctx *ctx) {
  if (ctx->ticket_keys != NULL) {
    OPENSSL_cleanse(ctx->ticket_keys, ctx->ticket_key_count * sizeof(*ctx->ticket_keys));
    free(ctx->ticket_keys);
  }
  ctx->ticket_keys = NULL;
}

static void libssl_psks_free(struct libssl_ctx *ctx);

static void libssl_ctx_release(struct libssl_ctx *ctx) {
  if (atomic_fetch_sub(&ctx->references, 1) != 1) {
    return;
  }
#ifdef HAVE_SSL_CREDENTIAL
  for (size_t i = 0; ctx->credentials != NULL && i < ctx->certificates; i++) {
    SSL_CREDENTIAL_free(ctx->credentials[i]);
  }
  free(ctx->credentials);
#endif
#ifndef OPENSSL_IS_BORINGSSL
  for (size_t i = 0; i < ctx->certificates; i++) {
    X509_free(ctx->staples[i].leaf);
    free(ctx->staples[i].response);
  }
#endif
  libssl_psks_free(ctx);
  sk_X509_CRL_pop_free(ctx->revocation_lists, X509_CRL_free);
  sk_X509_NAME_pop_free(ctx->ca_names, X509_NAME_free);
  EVP_MD_CTX_free(ctx->trust_digest);
  SSL_CTX_free(ctx->ssl_ctx);
  libssl_free_ticket_keys(ctx);
  free(ctx->suites.values);
  free(ctx->groups.values);
  free(ctx->key_shares.values);
  free(ctx->schemes.values);
  free(ctx->certificate_schemes.values);
  free(ctx->alpn);
  free(ctx);
}

/* Releases the caller's reference; NULL is allowed. */
static void libssl_ctx_free(struct polytls_ctx *head) {
  if (head != NULL) {
    libssl_ctx_release((struct libssl_ctx *)head);
    ERR_clear_error();
  }
}

/* Sets what does not depend on options: nothing here lowers what the library or
 * the system's configuration has decided. */
static void libssl_ctx_defaults(struct libssl_ctx *ctx) {
  SSL_CTX *ssl_ctx = ctx->ssl_ctx;
#ifdef OPENSSL_IS_BORINGSSL
  SSL_CTX_set_options(ssl_ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_early_data_enabled(ssl_ctx, 0);
  if (ctx->role == POLYTLS_CLIENT) {
    SSL_CTX_enable_ocsp_stapling(ssl_ctx);
    SSL_CTX_enable_signed_cert_timestamps(ssl_ctx);
  }
#else
  if (SSL_CTX_get_security_level(ssl_ctx) < 2) {
    SSL_CTX_set_security_level(ssl_ctx, 2);
  }
  SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
#ifdef SSL_OP_NO_TX_CERTIFICATE_COMPRESSION
  SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_TX_CERTIFICATE_COMPRESSION | SSL_OP_NO_RX_CERTIFICATE_COMPRESSION);
#endif
  /* A cut connection must not look like a closed one; the kernel cannot encrypt
   * what goes through memory. */
  SSL_CTX_clear_options(ssl_ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION |
                                     SSL_OP_LEGACY_SERVER_CONNECT | SSL_OP_ENABLE_KTLS);
  SSL_CTX_set_max_early_data(ssl_ctx, 0);
  SSL_CTX_set_recv_max_early_data(ssl_ctx, 0);
  if (ctx->role == POLYTLS_CLIENT) {
    SSL_CTX_set_tlsext_status_type(ssl_ctx, TLSEXT_STATUSTYPE_ocsp);
  }
#endif
  /* The chain is what the user gave, never completed from the anchors. One call
   * of SSL_read goes on past records without data, or input would stay
   * behind. */
  SSL_CTX_set_mode(ssl_ctx, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_AUTO_RETRY | SSL_MODE_RELEASE_BUFFERS |
                                SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(ssl_ctx, 0);
  SSL_CTX_set_session_cache_mode(ssl_ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_quiet_shutdown(ssl_ctx, 0);
  SSL_CTX_set_info_callback(ssl_ctx, libssl_info);
  SSL_CTX_set_cert_verify_callback(ssl_ctx, libssl_verify, NULL);
}

static struct polytls_result libssl_ctx_new(enum polytls_role role, struct polytls_ctx **out) {
  *out = NULL;
  struct libssl_ctx *ctx = calloc(1, sizeof(*ctx));
  if (ctx == NULL) {
    struct polytls_result result = libssl_result(POLYTLS_FAILED);
    result.failure = POLYTLS_FAIL_INTERNAL;
    return result;
  }
  ERR_clear_error();
  atomic_init(&ctx->references, 1);
  ctx->role = role;
  ctx->verify_mode = role == POLYTLS_CLIENT ? POLYTLS_VERIFY_REQUIRE_AND_VERIFY : POLYTLS_VERIFY_NONE;
  ctx->min_version = TLS1_2_VERSION;
  ctx->max_version = TLS1_3_VERSION;
  ctx->ssl_ctx = SSL_CTX_new(TLS_method());
  ctx->store = X509_STORE_new();
  ctx->trust_digest = EVP_MD_CTX_new();
  if (ctx->ssl_ctx != NULL && ctx->store != NULL) {
    SSL_CTX_set_cert_store(ctx->ssl_ctx, ctx->store);
  } else {
    X509_STORE_free(ctx->store);
    ctx->store = NULL;
  }
  if (ctx->store == NULL || ctx->trust_digest == NULL || !EVP_DigestInit_ex(ctx->trust_digest, EVP_sha256(), NULL)) {
    struct libssl_error error = libssl_take_error();
    libssl_ctx_release(ctx);
    struct polytls_result result = libssl_result(POLYTLS_FAILED);
    result.failure = POLYTLS_FAIL_INTERNAL;
    result.code = error.code;
    return result;
  }
  libssl_ctx_defaults(ctx);
  ERR_clear_error();
  *out = &ctx->head;
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_malformed(struct libssl_ctx *ctx, const char *option) {
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "%s: the value is malformed", option);
}

/* Takes a list of uint16 values, not empty and without duplicates. */
static struct polytls_result libssl_set_ids(struct libssl_ctx *ctx, const char *option, struct libssl_ids *ids,
                                            const uint8_t *data, size_t len) {
  if (len == 0 || len % 2 != 0 || len > 2 * LIBSSL_MAX_IDS) {
    return libssl_malformed(ctx, option);
  }
  ids->values = calloc(len / 2, sizeof(*ids->values));
  if (ids->values == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  for (size_t i = 0; i < len / 2; i++) {
    uint16_t id = libssl_uint16(data + 2 * i);
    if (libssl_ids_contain(ids, id)) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "%s: 0x%04x is listed twice", option, id);
    }
    ids->values[ids->count++] = id;
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_set_alpn(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  if (len == 0 || len > 65533) {
    return libssl_malformed(ctx, "ALPN");
  }
  for (size_t i = 0; i < len; i += 1 + (size_t)data[i]) {
    if (data[i] == 0 || data[i] > len - i - 1) {
      return libssl_malformed(ctx, "ALPN");
    }
  }
  ctx->alpn = malloc(len);
  if (ctx->alpn == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  memcpy(ctx->alpn, data, len);
  ctx->alpn_len = len;
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_add_anchor(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  X509 *certificate = libssl_parse_certificate(data, len);
  if (certificate == NULL) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "a trust anchor does not parse");
  }
  int ok = X509_STORE_add_cert(ctx->store, certificate) == 1 && EVP_DigestUpdate(ctx->trust_digest, data, len) == 1;
  X509_free(certificate);
  if (!ok) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "a trust anchor cannot be added");
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_add_revocation_list(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  switch (polytls_revocation_add(&ctx->revocation_lists, data, len)) {
    case 1:
      return EVP_DigestUpdate(ctx->trust_digest, data, len) == 1 ? libssl_result(POLYTLS_OK)
                                                                 : libssl_ctx_out_of_memory(ctx);
    case 0:
      return libssl_ctx_out_of_memory(ctx);
    default:
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "a revocation list does not parse");
  }
}

static struct polytls_result libssl_add_ca_name(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  const uint8_t *p = data;
  X509_NAME *name = len == 0 || len > LONG_MAX ? NULL : d2i_X509_NAME(NULL, &p, (long)len);
  if (name == NULL || p != data + len) {
    X509_NAME_free(name);
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the name of a CA does not parse");
  }
  if (ctx->ca_names == NULL) {
    ctx->ca_names = sk_X509_NAME_new_null();
  }
  if (ctx->ca_names == NULL || !sk_X509_NAME_push(ctx->ca_names, name)) {
    X509_NAME_free(name);
    return libssl_ctx_out_of_memory(ctx);
  }
  return libssl_result(POLYTLS_OK);
}

/* A certificate with its key while it is being read. All members are owned. */
struct libssl_identity {
  EVP_PKEY *key; /* the public one where the private is an external signer's */
  int external;
  X509 *leaf;
  STACK_OF(X509) *issuers; /* without the leaf */
#ifdef HAVE_SSL_CREDENTIAL
  CRYPTO_BUFFER **buffers; /* leaf first */
  size_t count;
#endif
};

static void libssl_identity_free(struct libssl_identity *identity) {
  EVP_PKEY_free(identity->key);
  X509_free(identity->leaf);
  sk_X509_pop_free(identity->issuers, X509_free);
#ifdef HAVE_SSL_CREDENTIAL
  for (size_t i = 0; i < identity->count; i++) {
    CRYPTO_BUFFER_free(identity->buffers[i]);
  }
  free(identity->buffers);
#endif
}

/* Parses a PKCS #8 key that takes up all of the bytes. The caller frees it. */
static EVP_PKEY *libssl_parse_key(const uint8_t *data, size_t len) {
  if (len == 0 || len > LONG_MAX) {
    return NULL;
  }
  const uint8_t *p = data;
  PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, (long)len);
  EVP_PKEY *key = info != NULL && p == data + len ? EVP_PKCS82PKEY(info) : NULL;
  PKCS8_PRIV_KEY_INFO_free(info); /* wipes the key in it */
  return key;
}

#include "polytls_libssl_signer.h"

/* Reads the value of POLYTLS_SET_CERTIFICATE into identity, which the caller
 * frees in any case. The text of a failure goes to text. */
static struct polytls_result libssl_read_identity(char *text, const uint8_t *data, size_t len,
                                                  struct libssl_identity *identity) {
  if (len < 4 || libssl_uint32(data) > len - 4) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "certificate: the value is malformed");
  }
  size_t key_len = libssl_uint32(data);
  identity->external = key_len == 0;
#ifndef OPENSSL_IS_BORINGSSL
  if (identity->external) {
    return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "OpenSSL cannot wait for an external signer: the private key must be in memory");
  }
#endif
  identity->key = identity->external ? NULL : libssl_parse_key(data + 4, key_len);
  if (identity->key == NULL && !identity->external) {
    /* The library's reason is left out: nothing of a key may get into texts. */
    ERR_clear_error();
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0,
                       "the private key does not parse, or is of a type that %s does not have", POLYTLS_LIBSSL_NAME);
  }
  identity->issuers = sk_X509_new_null();
  if (identity->issuers == NULL) {
    return libssl_out_of_memory(text);
  }
  for (size_t at = 4 + key_len; at < len;) {
    if (len - at < 4 || libssl_uint32(data + at) > len - at - 4) {
      return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "certificate: the value is malformed");
    }
    const uint8_t *der = data + at + 4;
    size_t der_len = libssl_uint32(data + at);
    at += 4 + der_len;
    X509 *certificate = libssl_parse_certificate(der, der_len);
    if (certificate == NULL) {
      return libssl_library_failure(text, POLYTLS_FAIL_CONFIG, "a certificate of the chain does not parse");
    }
    if (identity->leaf == NULL) {
      identity->leaf = certificate;
    } else if (!sk_X509_push(identity->issuers, certificate)) {
      X509_free(certificate);
      return libssl_out_of_memory(text);
    }
#ifdef HAVE_SSL_CREDENTIAL
    CRYPTO_BUFFER **buffers = realloc(identity->buffers, (identity->count + 1) * sizeof(*buffers));
    if (buffers == NULL) {
      return libssl_out_of_memory(text);
    }
    identity->buffers = buffers;
    buffers[identity->count] = CRYPTO_BUFFER_new(der, der_len, NULL);
    if (buffers[identity->count] == NULL) {
      return libssl_out_of_memory(text);
    }
    identity->count++;
#endif
  }
  if (identity->leaf == NULL) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "there is a private key but no certificate");
  }
  if (identity->external) {
    identity->key = X509_get_pubkey(identity->leaf);
    if (identity->key == NULL) {
      return libssl_library_failure(text, POLYTLS_FAIL_CONFIG, "the public key of the certificate cannot be read");
    }
  } else if (X509_check_private_key(identity->leaf, identity->key) != 1) {
    ERR_clear_error();
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0,
                       "the private key does not belong to the certificate");
  }
  if (polytls_key_strength(identity->leaf) != POLYTLS_VERIFY_OK) {
    ERR_clear_error();
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0,
                       "the key of the certificate is too weak: RSA keys need %d bits, elliptic curves %d",
                       POLYTLS_MIN_RSA_BITS, POLYTLS_MIN_EC_BITS);
  }
  return libssl_result(POLYTLS_OK);
}

#ifdef HAVE_SSL_CREDENTIAL
/* Makes the credential, which the caller frees; NULL when it cannot be used. */
static SSL_CREDENTIAL *libssl_credential(const struct libssl_identity *identity) {
  SSL_CREDENTIAL *credential = SSL_CREDENTIAL_new_x509();
  if (credential == NULL || !SSL_CREDENTIAL_set1_cert_chain(credential, identity->buffers, identity->count) ||
      !(identity->external ? SSL_CREDENTIAL_set_private_key_method(credential, &libssl_signer_method)
                           : SSL_CREDENTIAL_set1_private_key(credential, identity->key))) {
    SSL_CREDENTIAL_free(credential);
    return NULL;
  }
  return credential;
}
#endif

/* Reports whether the context takes another certificate with this type of key. */
static struct polytls_result libssl_has_room(struct libssl_ctx *ctx, int key_type) {
  for (size_t i = 0; i < ctx->certificates; i++) {
    if (ctx->key_types[i] == key_type) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "there are two certificates for one type of key");
    }
  }
  if (ctx->certificates == LIBSSL_MAX_CERTIFICATES) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "there are more than %d certificates",
                       LIBSSL_MAX_CERTIFICATES);
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_add_certificate(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  struct libssl_identity identity;
  memset(&identity, 0, sizeof(identity));
  struct polytls_result result = libssl_read_identity(ctx->head.error_text, data, len, &identity);
  if (result.status == POLYTLS_OK) {
    result = libssl_has_room(ctx, EVP_PKEY_id(identity.key));
  }
  if (result.status != POLYTLS_OK) {
    libssl_identity_free(&identity);
    return result;
  }
#if defined(HAVE_SSL_CREDENTIAL)
  SSL_CREDENTIAL *credential = libssl_credential(&identity);
  SSL_CREDENTIAL **credentials = realloc(ctx->credentials, (ctx->certificates + 1) * sizeof(*credentials));
  if (credentials != NULL) {
    ctx->credentials = credentials;
  }
  if (credential == NULL || credentials == NULL) {
    SSL_CREDENTIAL_free(credential);
    result = libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the certificate cannot be used");
  } else {
    credentials[ctx->certificates] = credential;
  }
#elif defined(OPENSSL_IS_BORINGSSL)
  if (ctx->certificates > 0) {
    result = libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                         "this version of BoringSSL takes one certificate only");
  } else if (!SSL_CTX_use_certificate(ctx->ssl_ctx, identity.leaf) ||
             (!identity.external && !SSL_CTX_use_PrivateKey(ctx->ssl_ctx, identity.key)) ||
             !SSL_CTX_set1_chain(ctx->ssl_ctx, identity.issuers)) {
    result = libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the certificate cannot be used");
  } else if (identity.external) {
    SSL_CTX_set_private_key_method(ctx->ssl_ctx, &libssl_signer_method);
  }
#else
  /* The last argument forbids to replace a certificate of the same key type. */
  if (SSL_CTX_use_cert_and_key(ctx->ssl_ctx, identity.leaf, identity.key, identity.issuers, 0) != 1) {
    result = libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the certificate cannot be used");
  }
#endif
  if (result.status == POLYTLS_OK) {
#ifndef OPENSSL_IS_BORINGSSL
    X509_up_ref(identity.leaf);
    ctx->staples[ctx->certificates].leaf = identity.leaf;
#endif
    ctx->key_types[ctx->certificates++] = EVP_PKEY_id(identity.key);
  }
  libssl_identity_free(&identity);
  return result;
}

#ifndef OPENSSL_IS_BORINGSSL
/* Staples the response of the certificate in use to the handshake. */
static int libssl_send_staple(SSL *ssl, void *argument) {
  const struct libssl_ctx *ctx = argument;
  X509 *leaf = SSL_get_certificate(ssl);
  for (size_t i = 0; leaf != NULL && i < ctx->certificates; i++) {
    const struct libssl_staple *staple = &ctx->staples[i];
    if (staple->leaf != leaf || staple->response == NULL) {
      continue;
    }
    unsigned char *copy = OPENSSL_memdup(staple->response, staple->len);
    if (copy == NULL) {
      return SSL_TLSEXT_ERR_NOACK; /* clients do without a response */
    }
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)staple->len); /* takes the copy */
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_NOACK;
}
#endif

/* Copies the OCSP response for the certificate that was added last. */
static struct polytls_result libssl_staple(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  /* The protocol has 3 bytes for its length. */
  if (ctx->role != POLYTLS_SERVER || ctx->certificates == 0 || len == 0 || len >= (1 << 24)) {
    return libssl_malformed(ctx, "OCSP response");
  }
#if defined(HAVE_SSL_CREDENTIAL)
  CRYPTO_BUFFER *response = CRYPTO_BUFFER_new(data, len, NULL);
  int ok = response != NULL && SSL_CREDENTIAL_set1_ocsp_response(ctx->credentials[ctx->certificates - 1], response) == 1;
  CRYPTO_BUFFER_free(response);
#elif defined(OPENSSL_IS_BORINGSSL)
  int ok = SSL_CTX_set_ocsp_response(ctx->ssl_ctx, data, len) == 1;
#else
  struct libssl_staple *staple = &ctx->staples[ctx->certificates - 1];
  int ok = staple->response == NULL && (staple->response = malloc(len)) != NULL;
  if (ok) {
    memcpy(staple->response, data, len);
    staple->len = len;
    SSL_CTX_set_tlsext_status_cb(ctx->ssl_ctx, libssl_send_staple);
    SSL_CTX_set_tlsext_status_arg(ctx->ssl_ctx, ctx);
  }
#endif
  return ok ? libssl_result(POLYTLS_OK)
            : libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the OCSP response cannot be stapled");
}

/* Copies the signed certificate timestamps for the certificate that was added last. */
static struct polytls_result libssl_set_timestamps(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  if (ctx->certificates == 0 || len == 0) {
    return libssl_malformed(ctx, "signed certificate timestamps");
  }
#ifdef HAVE_SSL_CREDENTIAL
  CRYPTO_BUFFER *list = CRYPTO_BUFFER_new(data, len, NULL);
  int ok = list != NULL &&
           SSL_CREDENTIAL_set1_signed_cert_timestamp_list(ctx->credentials[ctx->certificates - 1], list) == 1;
  CRYPTO_BUFFER_free(list);
  return ok ? libssl_result(POLYTLS_OK)
            : libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the signed certificate timestamps cannot be sent");
#else
  (void)data;
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                     "%s does not send signed certificate timestamps beside a certificate", POLYTLS_LIBSSL_NAME);
#endif
}

static struct polytls_result libssl_set_version(struct libssl_ctx *ctx, uint16_t *version, const uint8_t *data,
                                                size_t len) {
  if (len != 2 || (libssl_uint16(data) != TLS1_2_VERSION && libssl_uint16(data) != TLS1_3_VERSION)) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "a version must be TLS 1.2 or TLS 1.3");
  }
  *version = libssl_uint16(data);
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_set_switch(struct libssl_ctx *ctx, const char *option, int most, int *value,
                                               const uint8_t *data, size_t len) {
  if (len != 1 || data[0] > most) {
    return libssl_malformed(ctx, option);
  }
  *value = data[0];
  return libssl_result(POLYTLS_OK);
}

static void libssl_key_log(const SSL *ssl, const char *line) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn != NULL && !polytls_conn_key_log_append(&conn->head, line, strlen(line))) {
    conn->out_of_memory = 1;
  }
}

/* Copies the key. */
static struct polytls_result libssl_add_ticket_key(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  if (len != POLYTLS_TICKET_KEY_SIZE || ctx->role != POLYTLS_SERVER) {
    return libssl_malformed(ctx, "ticket key");
  }
  /* No realloc: it would leave a copy behind. */
  struct libssl_ticket_key *keys = calloc(ctx->ticket_key_count + 1, sizeof(*keys));
  if (keys == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  size_t count = ctx->ticket_key_count;
  if (count > 0) {
    memcpy(keys, ctx->ticket_keys, count * sizeof(*keys));
  }
  libssl_free_ticket_keys(ctx);
  memcpy(keys[count].name, data, sizeof(keys[count].name));
  memcpy(keys[count].encryption, data + 16, sizeof(keys[count].encryption));
  memcpy(keys[count].mac, data + 48, sizeof(keys[count].mac));
  ctx->ticket_keys = keys;
  ctx->ticket_key_count = count + 1;
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_add_psk(struct libssl_ctx *ctx, const uint8_t *data, size_t len);

static struct polytls_result libssl_ctx_set_option(struct libssl_ctx *ctx, int option, const uint8_t *data,
                                                   size_t len) {
  switch (option) {
    case POLYTLS_SET_MIN_VERSION:
      return libssl_set_version(ctx, &ctx->min_version, data, len);
    case POLYTLS_SET_MAX_VERSION:
      return libssl_set_version(ctx, &ctx->max_version, data, len);
    case POLYTLS_SET_CIPHER_SUITES:
      return libssl_set_ids(ctx, "cipher suites", &ctx->suites, data, len);
    case POLYTLS_SET_GROUPS:
      return libssl_set_ids(ctx, "groups", &ctx->groups, data, len);
    case POLYTLS_SET_KEY_SHARES:
      return libssl_set_ids(ctx, "key shares", &ctx->key_shares, data, len);
    case POLYTLS_SET_SIGNATURE_SCHEMES:
      return libssl_set_ids(ctx, "signature schemes", &ctx->schemes, data, len);
    case POLYTLS_SET_CERTIFICATE_SCHEMES:
      return libssl_set_ids(ctx, "signature schemes of the certificate", &ctx->certificate_schemes, data, len);
    case POLYTLS_SET_SECURITY_POLICY:
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "%s has no named security policies",
                         POLYTLS_LIBSSL_NAME);
    case POLYTLS_SET_ALPN:
      return libssl_set_alpn(ctx, data, len);
    case POLYTLS_SET_ALPN_STRICT:
      return libssl_set_switch(ctx, "strict ALPN", 1, &ctx->alpn_strict, data, len);
    case POLYTLS_SET_TRUST_ANCHOR:
      return libssl_add_anchor(ctx, data, len);
    case POLYTLS_SET_VERIFY_MODE:
      return libssl_set_switch(ctx, "verify mode", POLYTLS_VERIFY_REQUIRE_AND_VERIFY, &ctx->verify_mode, data, len);
    case POLYTLS_SET_CERTIFICATE:
      return libssl_add_certificate(ctx, data, len);
    case POLYTLS_SET_SESSION_TICKETS:
      return libssl_set_switch(ctx, "session tickets", 1, &ctx->tickets, data, len);
    case POLYTLS_SET_KEY_LOG: {
      struct polytls_result result = libssl_set_switch(ctx, "key log", 1, &ctx->key_log, data, len);
      if (ctx->key_log) {
        SSL_CTX_set_keylog_callback(ctx->ssl_ctx, libssl_key_log);
      }
      return result;
    }
    case POLYTLS_SET_CA_NAME:
      return libssl_add_ca_name(ctx, data, len);
    case POLYTLS_SET_TICKET_KEY:
      return libssl_add_ticket_key(ctx, data, len);
    case POLYTLS_SET_REVOCATION_LIST:
      return libssl_add_revocation_list(ctx, data, len);
    case POLYTLS_SET_OCSP_RESPONSE:
      return libssl_staple(ctx, data, len);
    case POLYTLS_SET_TIMESTAMPS:
      return libssl_set_timestamps(ctx, data, len);
    case POLYTLS_SET_PSK:
      return libssl_add_psk(ctx, data, len);
    case POLYTLS_SET_REQUIRE_PSK:
      return libssl_set_switch(ctx, "require PSK", 1, &ctx->require_psk, data, len);
    default:
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "unknown option %d of a context", option);
  }
}

/* data stays the caller's. A failure leaves a context that cannot be finished. */
static struct polytls_result libssl_ctx_set(struct polytls_ctx *head, int option, const uint8_t *data, size_t len) {
  struct libssl_ctx *ctx = (struct libssl_ctx *)head;
  ERR_clear_error();
  ctx->head.error_text[0] = 0;
  struct polytls_result result;
  int repeats = option == POLYTLS_SET_TRUST_ANCHOR || option == POLYTLS_SET_CERTIFICATE || option == POLYTLS_SET_CA_NAME ||
                option == POLYTLS_SET_PSK || option == POLYTLS_SET_TICKET_KEY ||
                option == POLYTLS_SET_OCSP_RESPONSE || option == POLYTLS_SET_TIMESTAMPS || option == POLYTLS_SET_REVOCATION_LIST;
  if (ctx->ready) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "the context is finished and in use");
  }
  if (option > 0 && option < 31 && !repeats && (ctx->seen & (UINT32_C(1) << option))) {
    result = libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "option %d is set twice", option);
  } else {
    result = libssl_ctx_set_option(ctx, option, data, len);
  }
  if (option > 0 && option < 31) {
    ctx->seen |= UINT32_C(1) << option;
  }
  if (result.status != POLYTLS_OK) {
    ctx->seen |= UINT32_C(1) << 31;
  }
  ERR_clear_error();
  return result;
}

/* ---- the end of a context's configuration ---- */

static struct polytls_result libssl_finish_versions(struct libssl_ctx *ctx) {
  int minimum = ctx->min_version;
  int maximum = ctx->max_version;
  if (minimum > maximum) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "the least version is above the greatest");
  }
#ifndef OPENSSL_IS_BORINGSSL
  /* The system's policy may be narrower; it stays in force. */
  int system_minimum = (int)SSL_CTX_get_min_proto_version(ctx->ssl_ctx);
  int system_maximum = (int)SSL_CTX_get_max_proto_version(ctx->ssl_ctx);
  if (system_minimum > minimum) {
    minimum = system_minimum;
  }
  if (system_maximum != 0 && system_maximum < maximum) {
    maximum = system_maximum;
  }
  if (minimum > maximum) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "the system's OpenSSL configuration allows none of the versions");
  }
  ctx->min_version = (uint16_t)minimum;
  ctx->max_version = (uint16_t)maximum;
#endif
  if (SSL_CTX_set_min_proto_version(ctx->ssl_ctx, (uint16_t)minimum) != 1 ||
      SSL_CTX_set_max_proto_version(ctx->ssl_ctx, (uint16_t)maximum) != 1) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the versions cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}

static int libssl_suite_is_tls13(uint16_t id) { return id >> 8 == 0x13; }

/* The library's own name of a suite, or NULL. ssl is any connection of the
 * context. */
static const char *libssl_suite_name(SSL *ssl, uint16_t id) {
#ifdef OPENSSL_IS_BORINGSSL
  (void)ssl;
  const SSL_CIPHER *cipher = SSL_get_cipher_by_value(id);
#else
  const uint8_t wire[2] = {(uint8_t)(id >> 8), (uint8_t)id};
  const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, wire);
#endif
  return cipher == NULL ? NULL : SSL_CIPHER_get_name(cipher);
}

#ifdef OPENSSL_IS_BORINGSSL
/* The groups that BoringSSL has by itself. */
static const uint16_t libssl_own_groups[3] = {29, 23, 24};

static int libssl_give_groups(SSL_CTX *ssl_ctx, const uint16_t *ids, size_t count);

/* BoringSSL's TLS 1.3 suites are all three, or those of a compliance policy,
 * which is set for its suites alone: everything else of it is replaced, here or
 * by what is set after the suites. Their order in the ClientHello is one of two,
 * by the processor; either is accepted on every machine, so that a configuration
 * does not depend on where it runs. */
static struct polytls_result libssl_set_tls13_suites(struct libssl_ctx *ctx) {
  static const struct {
    size_t count;
    uint16_t suites[3];
    enum ssl_compliance_policy_t policy;
  } choices[] = {
      {3, {0x1301, 0x1302, 0x1303}, ssl_compliance_policy_none},
      {3, {0x1303, 0x1301, 0x1302}, ssl_compliance_policy_none},
      {2, {0x1301, 0x1302}, ssl_compliance_policy_fips_202205},
      {1, {0x1302}, ssl_compliance_policy_wpa3_192_202304},
  };
  uint16_t suites[3] = {0, 0, 0};
  size_t n = 0;
  for (size_t i = 0; i < ctx->suites.count; i++) {
    if (libssl_suite_is_tls13(ctx->suites.values[i])) {
      suites[n < 3 ? n : 2] = ctx->suites.values[i];
      n++;
    }
  }
  size_t at = 0;
  while (at < sizeof(choices) / sizeof(choices[0]) &&
         (n != choices[at].count || memcmp(suites, choices[at].suites, sizeof(suites)) != 0)) {
    at++;
  }
  if (at == sizeof(choices) / sizeof(choices[0])) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "BoringSSL cannot choose or order TLS 1.3 suites so; name all three as %s, or as %s, or %s",
                       "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256",
                       "TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384",
                       "the first two of the former, or TLS_AES_256_GCM_SHA384 alone");
  }
  if (choices[at].policy == ssl_compliance_policy_none) {
    return libssl_result(POLYTLS_OK);
  }
  if (SSL_CTX_set_compliance_policy(ctx->ssl_ctx, choices[at].policy) != 1 ||
      SSL_CTX_set_min_proto_version(ctx->ssl_ctx, ctx->min_version) != 1 ||
      SSL_CTX_set_max_proto_version(ctx->ssl_ctx, ctx->max_version) != 1 ||
      (ctx->groups.count == 0 && !libssl_give_groups(ctx->ssl_ctx, libssl_own_groups, 3))) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the TLS 1.3 suites cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}
#endif

/* Gives the lists of suites to the library; ssl is a connection for look-ups. */
static struct polytls_result libssl_set_suites(struct libssl_ctx *ctx, SSL *ssl, struct libssl_list *tls12,
                                               struct libssl_list *tls13) {
  for (size_t i = 0; i < ctx->suites.count; i++) {
    uint16_t id = ctx->suites.values[i];
    const char *name = libssl_suite_name(ssl, id);
    if (name == NULL) {
      char label[LIBSSL_NAME_SIZE];
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "%s %s has no cipher suite %s",
                         POLYTLS_LIBSSL_NAME, libssl_version(), libssl_suite_label(label, id));
    }
    if (!libssl_list_append(libssl_suite_is_tls13(id) ? tls13 : tls12, ':', "", name)) {
      return libssl_ctx_out_of_memory(ctx);
    }
  }
  if (ctx->min_version <= TLS1_2_VERSION && tls12->len == 0) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "TLS 1.2 is enabled without a cipher suite");
  }
  if (ctx->max_version >= TLS1_3_VERSION && tls13->len == 0) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "TLS 1.3 is enabled without a cipher suite");
  }
#ifdef OPENSSL_IS_BORINGSSL
  if (ctx->max_version >= TLS1_3_VERSION) {
    struct polytls_result result = libssl_set_tls13_suites(ctx);
    if (result.status != POLYTLS_OK) {
      return result;
    }
  }
  if (tls12->len > 0 && SSL_CTX_set_strict_cipher_list(ctx->ssl_ctx, tls12->text) != 1) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the cipher suites cannot be set");
  }
#else
  if ((tls12->len > 0 && SSL_CTX_set_cipher_list(ctx->ssl_ctx, tls12->text) != 1) ||
      (tls13->len > 0 && SSL_CTX_set_ciphersuites(ctx->ssl_ctx, tls13->text) != 1)) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the cipher suites cannot be set");
  }
  SSL_CTX_clear_options(ctx->ssl_ctx, SSL_OP_PRIORITIZE_CHACHA);
  for (size_t i = 0; i < ctx->suites.count; i++) {
    /* 0x009e, 0x009f and 0xccaa are what can be asked for with DHE. */
    uint16_t id = ctx->suites.values[i];
    if (ctx->role == POLYTLS_SERVER && (id == 0x009e || id == 0x009f || id == 0xccaa)) {
      SSL_CTX_set_dh_auto(ctx->ssl_ctx, 1);
    }
  }
#endif
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_finish_suites(struct libssl_ctx *ctx) {
  if (ctx->suites.count == 0) {
    /* Without forward secrecy a stolen key opens what was recorded before. The
     * system's library keeps the distribution's list. */
#if defined(OPENSSL_IS_BORINGSSL)
    if (SSL_CTX_set_cipher_list(ctx->ssl_ctx, "ALL:!kRSA:!PSK:!3DES") != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the default cipher suites cannot be set");
    }
#elif !defined(POLYTLS_LIBSSL_SYSTEM)
    if (SSL_CTX_set_cipher_list(ctx->ssl_ctx, "DEFAULT:!kRSA:!PSK:!SRP:!aNULL") != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the default cipher suites cannot be set");
    }
#endif
    return libssl_result(POLYTLS_OK);
  }
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  if (ssl == NULL) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the cipher suites cannot be looked up");
  }
  struct libssl_list tls12 = {NULL, 0};
  struct libssl_list tls13 = {NULL, 0};
  struct polytls_result result = libssl_set_suites(ctx, ssl, &tls12, &tls13);
  free(tls12.text);
  free(tls13.text);
  SSL_free(ssl);
  return result;
}

/* Reads back what would go over the wire: OpenSSL drops suites silently that its
 * security level, the system's policy or the signature schemes rule out. */
static struct polytls_result libssl_check_suites(struct libssl_ctx *ctx) {
#ifndef OPENSSL_IS_BORINGSSL
  if (ctx->suites.count == 0) {
    return libssl_result(POLYTLS_OK);
  }
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  STACK_OF(SSL_CIPHER) *enabled = ssl == NULL ? NULL : SSL_get1_supported_ciphers(ssl);
  struct polytls_result result = libssl_result(POLYTLS_OK);
  int at = 0;
  /* TLS 1.3 suites come first in the library's list. */
  for (int tls13 = 1; tls13 >= 0; tls13--) {
    if (tls13 ? ctx->max_version < TLS1_3_VERSION : ctx->min_version > TLS1_2_VERSION) {
      continue;
    }
    for (size_t i = 0; i < ctx->suites.count; i++) {
      uint16_t id = ctx->suites.values[i];
      if (libssl_suite_is_tls13(id) != tls13) {
        continue;
      }
      const SSL_CIPHER *cipher = enabled != NULL && at < sk_SSL_CIPHER_num(enabled) ? sk_SSL_CIPHER_value(enabled, at) : NULL;
      if (result.status == POLYTLS_OK && (cipher == NULL || SSL_CIPHER_get_protocol_id(cipher) != id)) {
        char label[LIBSSL_NAME_SIZE];
        result = libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                             "cipher suite %s cannot be used: the library's policy or the signature schemes rule it out",
                             libssl_suite_label(label, id));
      }
      at++;
    }
  }
  if (result.status == POLYTLS_OK && at != sk_SSL_CIPHER_num(enabled)) {
    result = libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                         "the library would offer cipher suites that were not asked for");
  }
  sk_SSL_CIPHER_free(enabled);
  SSL_free(ssl);
  return result;
#else
  (void)ctx;
  return libssl_result(POLYTLS_OK);
#endif
}

#include "polytls_libssl_psk.h"

static struct polytls_result libssl_no_group(struct libssl_ctx *ctx, uint16_t id) {
  const struct libssl_group *group = libssl_find_group(id);
  char label[LIBSSL_NAME_SIZE];
  ERR_clear_error();
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "%s %s has no group %s", POLYTLS_LIBSSL_NAME,
                     libssl_version(), libssl_label(label, group == NULL ? NULL : group->name, id));
}

#if defined(OPENSSL_IS_BORINGSSL) || LIBSSL_HAS_KEY_SHARE_SYNTAX
static int libssl_is_post_quantum(uint16_t id) {
  const struct libssl_group *group = libssl_find_group(id);
  return group != NULL && group->post_quantum;
}
#endif

#ifdef OPENSSL_IS_BORINGSSL

#if !LIBSSL_HAS_GROUP_IDS
/* Translates for versions that take NIDs. Returns 1, or 0 for unknown groups or
 * more than LIBSSL_MAX_IDS. */
static int libssl_group_nids(int nids[LIBSSL_MAX_IDS], const uint16_t *ids, size_t count) {
  for (size_t i = 0; i < count; i++) {
    nids[i < LIBSSL_MAX_IDS ? i : 0] = ids[i] == 23   ? NID_X9_62_prime256v1
                                       : ids[i] == 24 ? NID_secp384r1
                                       : ids[i] == 25 ? NID_secp521r1
                                       : ids[i] == 29 ? NID_X25519
                                                      : NID_undef;
    if (i >= LIBSSL_MAX_IDS || nids[i] == NID_undef) {
      return 0;
    }
  }
  return 1;
}
#endif

/* Reports whether a list of uint16 values with a length in front of it, of
 * length_size bytes, contains the value. Malformed lists are the library's to
 * refuse. */
static int libssl_wire_list_contains(const uint8_t *bytes, size_t len, size_t length_size, uint16_t value) {
  for (size_t at = length_size; at + 2 <= len; at += 2) {
    if (libssl_uint16(bytes + at) == value) {
      return 1;
    }
  }
  return 0;
}

/* Reports whether the key_share extension has a share of the group. */
static int libssl_has_share(const uint8_t *bytes, size_t len, uint16_t group) {
  for (size_t at = 2; at + 4 <= len; at += 4 + (size_t)libssl_uint16(bytes + at + 2)) {
    if (libssl_uint16(bytes + at) == group) {
      return 1;
    }
  }
  return 0;
}

/* Binds the sessions of the connection to the name that the client asks for.
 * Returns 1 or 0. */
static int libssl_bind_client_hello(struct libssl_conn *conn, const SSL_CLIENT_HELLO *hello) {
  const uint8_t *name = NULL;
  size_t len = 0;
  if (!SSL_early_callback_ctx_extension_get(hello, TLSEXT_TYPE_server_name, &name, &len)) {
    len = 0;
  }
  return libssl_bind_sessions(conn->ssl, conn->ctx, name, len);
}

/* In TLS 1.3 BoringSSL takes the
 * server's first group that the client has, even at the price of a
 * HelloRetryRequest. Here a share that has come is taken first; only to get to a
 * post-quantum group that stands further ahead another one is asked for. */
static enum ssl_select_cert_result_t libssl_order_groups(struct libssl_conn *conn, const SSL_CLIENT_HELLO *hello) {
  const uint8_t *versions = NULL;
  const uint8_t *shares = NULL;
  size_t versions_len = 0;
  size_t shares_len = 0;
  if (conn->ctx->max_version < TLS1_3_VERSION ||
      !SSL_early_callback_ctx_extension_get(hello, TLSEXT_TYPE_supported_versions, &versions, &versions_len) ||
      !libssl_wire_list_contains(versions, versions_len, 1, TLS1_3_VERSION) ||
      !SSL_early_callback_ctx_extension_get(hello, TLSEXT_TYPE_key_share, &shares, &shares_len)) {
    return ssl_select_cert_success;
  }
  const uint16_t *own = conn->ctx->groups.count > 0 ? conn->ctx->groups.values : libssl_own_groups;
  size_t count = conn->ctx->groups.count > 0 ? conn->ctx->groups.count : 3;
  uint16_t order[LIBSSL_MAX_IDS];
  size_t n = 0;
  for (size_t first = 0; first < count && count <= LIBSSL_MAX_IDS;) {
    /* One rank: up to where a classical group follows a post-quantum one. */
    size_t end = first + 1;
    while (end < count && !(libssl_is_post_quantum(own[end - 1]) && !libssl_is_post_quantum(own[end]))) {
      end++;
    }
    for (int with_share = 1; with_share >= 0; with_share--) {
      for (size_t i = first; i < end; i++) {
        if (libssl_has_share(shares, shares_len, own[i]) == with_share) {
          order[n++] = own[i];
        }
      }
    }
    first = end;
  }
#if LIBSSL_HAS_GROUP_IDS
  return n == count && SSL_set1_group_ids(hello->ssl, order, n) == 1 ? ssl_select_cert_success : ssl_select_cert_error;
#else
  int nids[LIBSSL_MAX_IDS];
  return n == count && libssl_group_nids(nids, order, n) && SSL_set1_curves(hello->ssl, nids, n) == 1
             ? ssl_select_cert_success
             : ssl_select_cert_error;
#endif
}

/* Looks at a ClientHello before the library does. */
static enum ssl_select_cert_result_t libssl_client_hello(const SSL_CLIENT_HELLO *hello) {
  struct libssl_conn *conn = SSL_get_app_data(hello->ssl);
  if (conn == NULL || (conn->ctx->tickets && !libssl_bind_client_hello(conn, hello))) {
    return ssl_select_cert_error;
  }
  if (!libssl_choose_psk(conn, hello)) {
    if (conn->psk_missing) {
      /* The first alert counts: the library's own comes too late. */
      (void)SSL_send_fatal_alert(conn->ssl, SSL_AD_UNKNOWN_PSK_IDENTITY);
    }
    return ssl_select_cert_error;
  }
  return libssl_order_groups(conn, hello);
}

/* Gives a list of groups to a context; ssl_ctx is any. Returns 1 or 0. */
static int libssl_give_groups(SSL_CTX *ssl_ctx, const uint16_t *ids, size_t count) {
#if LIBSSL_HAS_GROUP_IDS
  return SSL_CTX_set1_group_ids(ssl_ctx, ids, count) == 1;
#else
  int nids[LIBSSL_MAX_IDS];
  return libssl_group_nids(nids, ids, count) && SSL_CTX_set1_curves(ssl_ctx, nids, count) == 1;
#endif
}

static struct polytls_result libssl_apply_groups(struct libssl_ctx *ctx) {
  if (ctx->groups.count > 0 && !libssl_give_groups(ctx->ssl_ctx, ctx->groups.values, ctx->groups.count)) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the groups cannot be set");
  }
  if (ctx->role == POLYTLS_SERVER) {
    SSL_CTX_set_select_certificate_cb(ctx->ssl_ctx, libssl_client_hello);
  }
  if (ctx->key_shares.count == 0) {
    return libssl_result(POLYTLS_OK);
  }
#ifdef HAVE_SSL_SET1_CLIENT_KEY_SHARES
  /* They belong to connections; one here finds mistakes before the first. */
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  int ok = ssl != NULL && SSL_set1_client_key_shares(ssl, ctx->key_shares.values, ctx->key_shares.count) == 1;
  SSL_free(ssl);
  if (!ok) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED,
                                      "the key shares cannot be set; they must be some of the groups, in their order");
  }
  return libssl_result(POLYTLS_OK);
#else
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                     "this version of BoringSSL chooses the key shares itself");
#endif
}

#else /* OpenSSL */

static int libssl_give_groups(SSL_CTX *ssl_ctx, const uint16_t *ids, size_t count) {
  struct libssl_list list = {NULL, 0};
  int ok = 1;
  for (size_t i = 0; ok && i < count; i++) {
    const struct libssl_group *group = libssl_find_group(ids[i]);
    ok = group != NULL && libssl_list_append(&list, ':', "", group->name);
  }
  ok = ok && list.text != NULL && SSL_CTX_set1_groups_list(ssl_ctx, list.text) == 1;
  free(list.text);
  return ok;
}

#if LIBSSL_HAS_KEY_SHARE_SYNTAX
/* Copies the supported_groups of a ClientHello into the ids. bytes is the
 * handshake message. Returns 1 or 0. */
static int libssl_hello_groups(const uint8_t *bytes, size_t len, struct libssl_ids *ids) {
  /* Type and length, version, random; then session, suites, compression. */
  size_t at = 4 + 2 + 32;
  if (at >= len || (at += 1 + (size_t)bytes[at]) + 2 > len || (at += 2 + (size_t)libssl_uint16(bytes + at)) >= len ||
      (at += 1 + (size_t)bytes[at]) + 2 > len) {
    return 0;
  }
  for (at += 2; len - at >= 4;) {
    size_t type = libssl_uint16(bytes + at);
    size_t size = libssl_uint16(bytes + at + 2);
    at += 4;
    if (size > len - at) {
      return 0;
    }
    if (type == TLSEXT_TYPE_supported_groups && size > 2 && size % 2 == 0) {
      ids->values = calloc(size / 2, sizeof(*ids->values));
      for (size_t i = 2; ids->values != NULL && i < size; i += 2) {
        ids->values[ids->count++] = libssl_uint16(bytes + at + i);
      }
      return ids->count > 0;
    }
    at += size;
  }
  return 0;
}

static void libssl_capture_groups(int write, int version, int type, const void *bytes, size_t len, SSL *ssl,
                                  void *argument) {
  (void)version;
  (void)ssl;
  struct libssl_ids *ids = argument;
  if (write && type == SSL3_RT_HANDSHAKE && ids->count == 0) {
    (void)libssl_hello_groups(bytes, len, ids);
  }
}

/* Fills ctx->groups with the groups that the library offers by itself, which key
 * shares are to be chosen from. No call tells them; a ClientHello that goes
 * nowhere does. */
static struct polytls_result libssl_default_groups(struct libssl_ctx *ctx) {
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  BIO *nowhere = BIO_new(BIO_s_mem());
  if (ssl == NULL || nowhere == NULL) {
    SSL_free(ssl);
    BIO_free(nowhere);
    return libssl_ctx_out_of_memory(ctx);
  }
  SSL_set_bio(ssl, nowhere, nowhere);
  SSL_set_msg_callback(ssl, libssl_capture_groups);
  SSL_set_msg_callback_arg(ssl, &ctx->groups);
  SSL_set_connect_state(ssl);
  (void)SSL_do_handshake(ssl);
  SSL_free(ssl);
  int known = ctx->groups.count > 0;
  for (size_t i = 0; known && i < ctx->groups.count; i++) {
    known = libssl_find_group(ctx->groups.values[i]) != NULL;
  }
  ERR_clear_error();
  if (!known) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "the library's default groups cannot be named; name the groups together with the key shares");
  }
  return libssl_result(POLYTLS_OK);
}
#endif

/* Writes the list of groups in OpenSSL's notation. */
static struct polytls_result libssl_group_list(struct libssl_ctx *ctx, struct libssl_list *list) {
  for (size_t i = 0; i < ctx->groups.count; i++) {
    char separator = ':';
    const char *prefix = libssl_ids_contain(&ctx->key_shares, ctx->groups.values[i]) ? "*" : "";
#if LIBSSL_HAS_KEY_SHARE_SYNTAX
    /* A server takes a share of its first rank, and asks for another one only
     * to get to a higher rank: post-quantum groups are one of their own. */
    if (ctx->role == POLYTLS_SERVER && i > 0 && libssl_is_post_quantum(ctx->groups.values[i - 1]) &&
        !libssl_is_post_quantum(ctx->groups.values[i])) {
      separator = '/';
    }
#endif
    if (!libssl_list_append(list, separator, prefix, libssl_find_group(ctx->groups.values[i])->name)) {
      return libssl_ctx_out_of_memory(ctx);
    }
  }
  if (SSL_CTX_set1_groups_list(ctx->ssl_ctx, list->text) != 1) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the groups cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_apply_groups(struct libssl_ctx *ctx) {
  if (ctx->key_shares.count > 0) {
#if LIBSSL_HAS_KEY_SHARE_SYNTAX
    if (ctx->key_shares.count > LIBSSL_MAX_KEY_SHARES) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "OpenSSL sends at most %d key shares",
                         LIBSSL_MAX_KEY_SHARES);
    }
    if (ctx->groups.count == 0) {
      struct polytls_result result = libssl_default_groups(ctx);
      if (result.status != POLYTLS_OK) {
        return result;
      }
    }
    for (size_t i = 0; i < ctx->key_shares.count; i++) {
      if (!libssl_ids_contain(&ctx->groups, ctx->key_shares.values[i])) {
        return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "key share 0x%04x is not one of the groups",
                           ctx->key_shares.values[i]);
      }
    }
#else
    /* OpenSSL before 3.5 sends one share, that of the first group. */
    if (ctx->key_shares.count != 1 || ctx->groups.count == 0 || ctx->key_shares.values[0] != ctx->groups.values[0]) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                         "OpenSSL %s sends one key share, that of the first group; choosing them needs 3.5",
                         libssl_version());
    }
    ctx->key_shares.count = 0;
#endif
  }
  if (ctx->groups.count == 0) {
    return libssl_result(POLYTLS_OK);
  }
  struct libssl_list list = {NULL, 0};
  struct polytls_result result = libssl_group_list(ctx, &list);
  free(list.text);
  return result;
}

#endif

static struct polytls_result libssl_finish_groups(struct libssl_ctx *ctx) {
  int chosen = ctx->key_shares.count > 0;
  if (ctx->key_shares.count > 0 && ctx->role != POLYTLS_CLIENT) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "only clients choose key shares");
  }
  for (size_t i = 0; i < ctx->groups.count; i++) {
    const struct libssl_group *group = libssl_find_group(ctx->groups.values[i]);
    /* One by one first, to name the one that is missing. */
    if (group == NULL || !libssl_give_groups(ctx->ssl_ctx, &ctx->groups.values[i], 1)) {
      return libssl_no_group(ctx, ctx->groups.values[i]);
    }
    if (group->tls13_only && ctx->role == POLYTLS_CLIENT && ctx->max_version < TLS1_3_VERSION) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0,
                         "group %s needs TLS 1.3, which is not enabled", group->name);
    }
  }
  struct polytls_result result = libssl_apply_groups(ctx);
  /* The groups themselves are right by now, one by one. */
  if (result.status != POLYTLS_OK && chosen) {
    result.n = POLYTLS_SET_KEY_SHARES;
  }
  return result;
}

static struct polytls_result libssl_no_scheme(struct libssl_ctx *ctx, uint16_t id) {
  char label[LIBSSL_NAME_SIZE];
  ERR_clear_error();
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0, "%s %s has no signature scheme %s",
                     POLYTLS_LIBSSL_NAME, libssl_version(), libssl_label(label, libssl_scheme_name(id), id));
}

static struct polytls_result libssl_no_signing_scheme(struct libssl_ctx *ctx) {
  return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0,
                     "the certificate's SupportedSignatureAlgorithms have none of the signature schemes");
}

#ifdef OPENSSL_IS_BORINGSSL

/* BoringSSL's defaults leave Ed25519 out when verifying and SHA-1 in. */
static const uint16_t libssl_default_schemes[] = {0x0403, 0x0807, 0x0804, 0x0401, 0x0503, 0x0805,
                                                  0x0501, 0x0603, 0x0806, 0x0601};

/* Writes what a certificate signs with into schemes, LIBSSL_MAX_IDS of them, and
 * returns how many there are: its own list as far as the context's has it, or all
 * of the context's where it has none. */
static size_t libssl_signing_schemes(const struct libssl_ctx *ctx, const struct libssl_ids *own, uint16_t *schemes) {
  struct libssl_ids all = ctx->schemes;
  if (all.count == 0) {
    all.values = (uint16_t *)libssl_default_schemes; /* not written to */
    all.count = sizeof(libssl_default_schemes) / sizeof(libssl_default_schemes[0]);
  }
  const struct libssl_ids *from = own->count > 0 ? own : &all;
  size_t count = 0;
  for (size_t i = 0; i < from->count; i++) {
    if (libssl_ids_contain(&all, from->values[i])) {
      schemes[count++] = from->values[i];
    }
  }
  return count;
}

static struct polytls_result libssl_finish_schemes(struct libssl_ctx *ctx) {
  const struct libssl_ids none = {NULL, 0};
  uint16_t schemes[LIBSSL_MAX_IDS];
  size_t count = libssl_signing_schemes(ctx, &none, schemes);
  for (size_t i = 0; i < count; i++) {
    if (libssl_scheme_name(schemes[i]) == NULL || SSL_get_signature_algorithm_key_type(schemes[i]) == EVP_PKEY_NONE) {
      return libssl_no_scheme(ctx, schemes[i]);
    }
  }
  int ok = SSL_CTX_set_verify_algorithm_prefs(ctx->ssl_ctx, schemes, count) == 1;
  count = libssl_signing_schemes(ctx, &ctx->certificate_schemes, schemes);
  if (count == 0) {
    return libssl_no_signing_scheme(ctx);
  }
#ifdef HAVE_SSL_CREDENTIAL
  for (size_t i = 0; ok && i < ctx->certificates; i++) {
    ok = SSL_CREDENTIAL_set1_signing_algorithm_prefs(ctx->credentials[i], schemes, count) == 1 &&
         SSL_CTX_add1_credential(ctx->ssl_ctx, ctx->credentials[i]) == 1;
  }
#else
  ok = ok && SSL_CTX_set_signing_algorithm_prefs(ctx->ssl_ctx, schemes, count) == 1;
#endif
  if (!ok) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the signature schemes cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}

#else /* OpenSSL */

/* Makes a list of the schemes in the library's notation; the caller frees it. */
static struct polytls_result libssl_scheme_list(struct libssl_ctx *ctx, const struct libssl_ids *schemes,
                                                struct libssl_list *list) {
  for (size_t i = 0; i < schemes->count; i++) {
    const char *name = libssl_scheme_name(schemes->values[i]);
    /* One by one first, to name the one that is missing. */
    if (name == NULL || SSL_CTX_set1_client_sigalgs_list(ctx->ssl_ctx, name) != 1) {
      return libssl_no_scheme(ctx, schemes->values[i]);
    }
    if (!libssl_list_append(list, ':', "", name)) {
      return libssl_ctx_out_of_memory(ctx);
    }
  }
  return libssl_result(POLYTLS_OK);
}

/* Sets what the library verifies with, which it says in its ClientHello or
 * CertificateRequest, and what it signs with; NULL for its defaults, or the
 * system's: SHA-1 is below security level 2. Returns 1 or 0. */
static int libssl_give_schemes(struct libssl_ctx *ctx, const char *verifying, const char *signing) {
  int client = ctx->role == POLYTLS_CLIENT;
  /* A client's "client sigalgs" are those that it signs with, a server's those
   * that it verifies with. */
  const char *sigalgs = client ? verifying : signing;
  const char *client_sigalgs = client ? signing : verifying;
  return (sigalgs == NULL || SSL_CTX_set1_sigalgs_list(ctx->ssl_ctx, sigalgs) == 1) &&
         (client_sigalgs == NULL || SSL_CTX_set1_client_sigalgs_list(ctx->ssl_ctx, client_sigalgs) == 1);
}

static struct polytls_result libssl_finish_schemes(struct libssl_ctx *ctx) {
  struct libssl_list verifying = {NULL, 0};
  struct libssl_list signing = {NULL, 0};
  uint16_t values[LIBSSL_MAX_IDS];
  struct libssl_ids own = {values, 0};
  for (size_t i = 0; i < ctx->certificate_schemes.count; i++) {
    uint16_t scheme = ctx->certificate_schemes.values[i];
    if (ctx->schemes.count == 0 || libssl_ids_contain(&ctx->schemes, scheme)) {
      values[own.count++] = scheme;
    }
  }
  if (own.count == 0 && ctx->certificate_schemes.count > 0) {
    return libssl_no_signing_scheme(ctx);
  }
  struct libssl_ids all = ctx->schemes;
  uint16_t known[sizeof(libssl_schemes) / sizeof(libssl_schemes[0])];
  if (all.count == 0 && own.count > 0 && ctx->role == POLYTLS_SERVER) {
    /* Otherwise the server would verify with the certificate's only. */
    all.values = known;
    for (; all.count < sizeof(known) / sizeof(known[0]); all.count++) {
      known[all.count] = libssl_schemes[all.count].id;
    }
  }
  /* Schemes are tried as the context's client sigalgs, which the lists then
   * replace. */
  struct polytls_result result = libssl_scheme_list(ctx, &own, &signing);
  if (result.status == POLYTLS_OK) {
    result = libssl_scheme_list(ctx, &all, &verifying);
  }
  if (result.status == POLYTLS_OK &&
      !libssl_give_schemes(ctx, verifying.text, signing.text != NULL ? signing.text : verifying.text)) {
    result = libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "the signature schemes cannot be set");
  }
  free(verifying.text);
  free(signing.text);
  return result;
}

#endif

/* Acknowledges the client's server name, as RFC 6066 section 3 wants of a server
 * that heeds it, unless a session is resumed. Borrows everything. */
static int libssl_acknowledge_name(SSL *ssl, int *alert, void *argument) {
  (void)alert;
  (void)argument;
  int heeded = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) != NULL && !SSL_session_reused(ssl);
  return heeded ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static struct polytls_result libssl_finish_alpn(struct libssl_ctx *ctx) {
  if (ctx->role == POLYTLS_SERVER) {
    SSL_CTX_set_tlsext_servername_callback(ctx->ssl_ctx, libssl_acknowledge_name);
  }
  if (ctx->alpn_len == 0) {
    if (ctx->alpn_strict) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "strict ALPN needs a list of protocols");
    }
    return libssl_result(POLYTLS_OK);
  }
  if (ctx->role == POLYTLS_SERVER) {
    SSL_CTX_set_alpn_select_cb(ctx->ssl_ctx, libssl_select_alpn, ctx);
  } else if (SSL_CTX_set_alpn_protos(ctx->ssl_ctx, ctx->alpn, (unsigned int)ctx->alpn_len) != 0) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_CONFIG, "the ALPN protocols cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}

#ifndef OPENSSL_IS_BORINGSSL
/* Reports whether a ClientHello asks for the same name as the one before the
 * HelloRetryRequest (RFC 8446 section 4.1.2), by which configuration, certificate
 * and session id context were chosen: OpenSSL would take the second name for the
 * connection's. Returns 1; 0 for another name; -1 when memory ran out. */
static int libssl_keeps_name(struct libssl_conn *conn, const uint8_t *name, size_t len) {
  if (conn->hello_seen) {
    return len == conn->sni_len && (len == 0 || memcmp(name, conn->sni, len) == 0);
  }
  if (len > 0) {
    conn->sni = malloc(len);
    if (conn->sni == NULL) {
      return -1;
    }
    memcpy(conn->sni, name, len);
  }
  conn->sni_len = len;
  conn->hello_seen = 1;
  return 1;
}

static void libssl_forget_name(struct libssl_conn *conn) {
  free(conn->sni);
  conn->sni = NULL;
  conn->sni_len = 0;
}

/* Looks at a ClientHello before the library does. */
static int libssl_client_hello(SSL *ssl, int *alert, void *argument) {
  (void)argument;
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  const unsigned char *name = NULL;
  size_t len = 0;
  *alert = SSL_AD_INTERNAL_ERROR;
  if (conn == NULL) {
    return SSL_CLIENT_HELLO_ERROR;
  }
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &name, &len) != 1) {
    len = 0;
  }
  int kept = libssl_keeps_name(conn, name, len);
  if (kept != 1) {
    if (kept == 0) {
      *alert = SSL_AD_ILLEGAL_PARAMETER;
      conn->name_changed = 1;
    }
    return SSL_CLIENT_HELLO_ERROR;
  }
  if (conn->ctx->tickets && !libssl_bind_sessions(ssl, conn->ctx, name, len)) {
    return SSL_CLIENT_HELLO_ERROR;
  }
  if (!libssl_choose_psk(conn, ssl)) {
    if (conn->psk_missing) {
      *alert = SSL_AD_UNKNOWN_PSK_IDENTITY;
    }
    return SSL_CLIENT_HELLO_ERROR;
  }
  return SSL_CLIENT_HELLO_SUCCESS;
}
#endif

static struct polytls_result libssl_finish_verification(struct libssl_ctx *ctx) {
  int mode = SSL_VERIFY_PEER;
  if (ctx->role == POLYTLS_CLIENT) {
    if (ctx->verify_mode != POLYTLS_VERIFY_NONE && ctx->verify_mode != POLYTLS_VERIFY_REQUIRE_AND_VERIFY) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "verify mode %d is one of servers",
                         ctx->verify_mode);
    }
  } else if (ctx->verify_mode == POLYTLS_VERIFY_NONE) {
    mode = SSL_VERIFY_NONE;
  } else if (ctx->verify_mode == POLYTLS_VERIFY_REQUIRE_ANY || ctx->verify_mode == POLYTLS_VERIFY_REQUIRE_AND_VERIFY) {
    mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  }
  /* The second argument is no callback: libssl_verify decides, also for a client
   * that verifies nothing. */
  SSL_CTX_set_verify(ctx->ssl_ctx, mode, NULL);
#ifdef OPENSSL_IS_BORINGSSL
  SSL_CTX_set_custom_verify(ctx->ssl_ctx, mode, libssl_custom_verify);
  SSL_CTX_set_reverify_on_resume(ctx->ssl_ctx, 1);
#else
  if (ctx->role == POLYTLS_SERVER) {
    SSL_CTX_set_client_hello_cb(ctx->ssl_ctx, libssl_client_hello, NULL);
  }
#endif
  if (ctx->ca_names != NULL) {
    if (ctx->role != POLYTLS_SERVER) {
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "only servers send the names of CAs");
    }
    SSL_CTX_set_client_CA_list(ctx->ssl_ctx, ctx->ca_names);
    ctx->ca_names = NULL;
  }
  return libssl_result(POLYTLS_OK);
}

/* Finds the key for a ticket and says with which result the callback of either
 * library ends: 0 no key, 1 use the ticket, 2 use it and issue a new one, -1 a
 * failure. For a new ticket it writes name and iv. Keys stay the context's. */
static int libssl_choose_ticket_key(SSL *ssl, uint8_t *name, uint8_t *iv, size_t iv_len, int encrypt,
                                    const struct libssl_ticket_key **key) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL || conn->ctx->ticket_key_count == 0) {
    return -1;
  }
  const struct libssl_ticket_key *keys = conn->ctx->ticket_keys;
  if (encrypt) {
    *key = &keys[0];
    memcpy(name, keys[0].name, sizeof(keys[0].name));
    return RAND_bytes(iv, iv_len) == 1 ? 1 : -1;
  }
  for (size_t i = 0; i < conn->ctx->ticket_key_count; i++) {
    if (CRYPTO_memcmp(keys[i].name, name, sizeof(keys[i].name)) == 0) {
      *key = &keys[i];
      /* A ticket of TLS 1.3 is for one use (RFC 8446 appendix C.4): the client
       * gets another one. */
      return i > 0 || SSL_version(ssl) >= TLS1_3_VERSION ? 2 : 1;
    }
  }
  return 0;
}

/* The libraries' way to protect tickets: the cipher of the key, encrypt then MAC. */
#ifdef OPENSSL_IS_BORINGSSL
static int libssl_ticket_key_callback(SSL *ssl, uint8_t *name, uint8_t *iv, EVP_CIPHER_CTX *cipher, HMAC_CTX *mac,
                                      int encrypt) {
  const struct libssl_ticket_key *key = NULL;
  int chosen = libssl_choose_ticket_key(ssl, name, iv, EVP_CIPHER_iv_length(EVP_aes_256_cbc()), encrypt, &key);
  if (chosen <= 0) {
    return chosen;
  }
  if (HMAC_Init_ex(mac, key->mac, sizeof(key->mac), EVP_sha256(), NULL) != 1) {
    return -1;
  }
#else
static int libssl_ticket_key_callback(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                                      EVP_MAC_CTX *mac, int encrypt) {
  const struct libssl_ticket_key *key = NULL;
  char digest[] = "SHA256";
  int chosen = libssl_choose_ticket_key(ssl, name, iv, (size_t)EVP_CIPHER_get_iv_length(EVP_aes_256_cbc()), encrypt, &key);
  if (chosen <= 0) {
    return chosen;
  }
  /* The parameters are read only; the type knows no const. */
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)key->mac, sizeof(key->mac)),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};
  if (EVP_MAC_CTX_set_params(mac, parameters) != 1) {
    return -1;
  }
#endif
  int ok = encrypt ? EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->encryption, iv)
                   : EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->encryption, iv);
  return ok == 1 ? chosen : -1;
}

/* The tags of the peer's certificates in an encoded session: the leaf and, of
 * BoringSSL, what came behind it. OpenSSL has the group of the key exchange there. */
#define LIBSSL_SESSION_PEER 0xa3
#ifdef OPENSSL_IS_BORINGSSL
#define LIBSSL_SESSION_CHAIN 0xb3
#endif

/* Reads the tag and the length of a DER value of len bytes. Returns the size of
 * both, and the value's in *content; 0 for anything else. */
static size_t libssl_der_header(const uint8_t *der, size_t len, size_t *content) {
  size_t n = 1;
  if (len > 0 && (der[0] & 0x1f) == 0x1f) {
    while (n < len && (der[n] & 0x80) != 0) {
      n++;
    }
    n++;
  }
  if (n >= len) {
    return 0;
  }
  size_t size = der[n++];
  if (size >= 0x80) {
    size_t bytes = size & 0x7f;
    if (bytes == 0 || bytes > 4 || bytes > len - n) {
      return 0;
    }
    for (size = 0; bytes > 0; bytes--) {
      size = size << 8 | der[n++];
    }
  }
  if (size > len - n) {
    return 0;
  }
  *content = size;
  return n;
}

static int libssl_is_peer(uint8_t tag) {
#ifdef OPENSSL_IS_BORINGSSL
  if (tag == LIBSSL_SESSION_CHAIN) {
    return 1;
  }
#endif
  return tag == LIBSSL_SESSION_PEER;
}

/* Takes the peer's certificates out of an encoded session, in place: who keeps the
 * session has them, and to parse them again is most of the work of offering it.
 * Returns the new length. What cannot be read stays as it is. */
static size_t libssl_drop_peer(uint8_t *session, size_t len) {
  size_t size = 0, kept = 0;
  size_t header = libssl_der_header(session, len, &size);
  if (header == 0 || size != len - header) {
    return len;
  }
  for (size_t at = header; at < len;) {
    size_t n = libssl_der_header(session + at, len - at, &size);
    if (n == 0) {
      return len;
    }
    n += size;
    kept += libssl_is_peer(session[at]) ? 0 : n;
    at += n;
  }
  /* A smaller length takes no more bytes: nothing is written that is still to be
   * read. */
  uint8_t *to = session + 1;
  if (kept < 0x80) {
    *to++ = (uint8_t)kept;
  } else {
    unsigned int bytes = kept > 0xffffff ? 4 : kept > 0xffff ? 3 : kept > 0xff ? 2 : 1;
    *to++ = (uint8_t)(0x80 | bytes);
    while (bytes-- > 0) {
      *to++ = (uint8_t)(kept >> (8 * bytes));
    }
  }
  for (size_t at = header; at < len;) {
    size_t n = libssl_der_header(session + at, len - at, &size) + size;
    if (!libssl_is_peer(session[at])) {
      memmove(to, session + at, n);
      to += n;
    }
    at += n;
  }
  return (size_t)(to - session);
}

/* Copies a session that a client may resume into conn->sessions. One that cannot
 * be copied is not kept: the connection does not need it. */
static void libssl_keep_session(struct libssl_conn *conn, SSL_SESSION *session) {
  uint8_t *bytes = NULL;
  size_t len = 0;
  if (!SSL_SESSION_is_resumable(session)) {
    return;
  }
#ifdef OPENSSL_IS_BORINGSSL
  int ok = SSL_SESSION_to_bytes(session, &bytes, &len) == 1;
#else
  int size = i2d_SSL_SESSION(session, &bytes);
  int ok = size > 0;
  len = ok ? (size_t)size : 0;
#endif
  if (ok) {
    (void)polytls_conn_sessions_append(&conn->head, bytes, libssl_drop_peer(bytes, len));
    OPENSSL_cleanse(bytes, len);
  } else {
    ERR_clear_error();
  }
  OPENSSL_free(bytes);
}

/* The session stays the library's. */
static int libssl_new_session(SSL *ssl, SSL_SESSION *session) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn != NULL) {
    libssl_keep_session(conn, session);
  }
  return 0;
}

#include "polytls_libssl_resume.h"

static struct polytls_result libssl_finish_tickets(struct libssl_ctx *ctx) {
  /* With PSKs, what OpenSSL calls a reused session is an external PSK and
   * nothing else. */
  int without = !ctx->tickets || ctx->psk_count > 0;
  /* A session of another trust or another mode is not one of this context. */
  const uint8_t mode = (uint8_t)ctx->verify_mode;
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned int digest_len = 0;
  if (EVP_DigestUpdate(ctx->trust_digest, &mode, 1) != 1 ||
      EVP_DigestFinal_ex(ctx->trust_digest, digest, &digest_len) != 1 || digest_len > SSL_MAX_SID_CTX_LENGTH ||
      SSL_CTX_set_session_id_context(ctx->ssl_ctx, digest, digest_len) != 1) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "sessions cannot be bound to the trust policy");
  }
  memcpy(ctx->session_context, digest, digest_len);
  ctx->session_context_len = digest_len;

  if (without) {
    ctx->tickets = 0;
    SSL_CTX_set_options(ctx->ssl_ctx, SSL_OP_NO_TICKET);
    if (SSL_CTX_set_num_tickets(ctx->ssl_ctx, 0) != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "session tickets cannot be turned off");
    }
    return libssl_result(POLYTLS_OK);
  }
  /* The system's configuration may have turned them off. */
  SSL_CTX_clear_options(ctx->ssl_ctx, SSL_OP_NO_TICKET);
  if (ctx->role == POLYTLS_CLIENT) {
    SSL_CTX_set_session_cache_mode(ctx->ssl_ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx->ssl_ctx, libssl_new_session);
    return libssl_result(POLYTLS_OK);
  }
  if (ctx->ticket_key_count == 0) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "a server with session tickets needs a ticket key");
  }
  /* Sessions are bound in libssl_client_hello. */
#ifdef OPENSSL_IS_BORINGSSL
  int ok = SSL_CTX_set_tlsext_ticket_key_cb(ctx->ssl_ctx, libssl_ticket_key_callback) == 1;
#else
  int ok = SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx->ssl_ctx, libssl_ticket_key_callback) == 1;
#endif
  ok = ok && (!libssl_server_asks(ctx) || libssl_verify_tickets(ctx));
  if (!ok) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the ticket keys cannot be set");
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_finish_all(struct libssl_ctx *ctx) {
  static const struct {
    struct polytls_result (*finish)(struct libssl_ctx *);
    size_t option; /* the one that its failures are about */
  } parts[] = {
      {libssl_finish_versions, POLYTLS_SET_MIN_VERSION},
      {libssl_finish_psk_versions, POLYTLS_SET_PSK},
      {libssl_finish_suites, POLYTLS_SET_CIPHER_SUITES},
      {libssl_finish_groups, POLYTLS_SET_GROUPS},
#ifdef OPENSSL_IS_BORINGSSL
      {libssl_finish_imported_psks, POLYTLS_SET_PSK},
#endif
      {libssl_finish_schemes, POLYTLS_SET_SIGNATURE_SCHEMES},
      {libssl_finish_alpn, POLYTLS_SET_ALPN},
      {libssl_finish_tickets, POLYTLS_SET_SESSION_TICKETS},
      {libssl_finish_verification, POLYTLS_SET_VERIFY_MODE},
      {libssl_check_suites, POLYTLS_SET_CIPHER_SUITES},
      {libssl_finish_psks, POLYTLS_SET_PSK},
  };
  if (ctx->seen & (UINT32_C(1) << 31)) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "an option of the context was refused");
  }
  if (ctx->role == POLYTLS_SERVER && ctx->certificates == 0 && ctx->psk_count == 0) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_CONFIG, 0, "a server needs a certificate");
  }
  for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
    struct polytls_result result = parts[i].finish(ctx);
    if (result.status != POLYTLS_OK) {
      if (result.n == 0) {
        result.n = parts[i].option;
      }
      return result;
    }
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_ctx_finish(struct polytls_ctx *head) {
  struct libssl_ctx *ctx = (struct libssl_ctx *)head;
  if (ctx->ready) {
    return libssl_result(POLYTLS_OK);
  }
  ERR_clear_error();
  ctx->head.error_text[0] = 0;
  struct polytls_result result = libssl_finish_all(ctx);
  if (result.status == POLYTLS_OK) {
    ctx->ready = 1;
  } else {
    ctx->seen |= UINT32_C(1) << 31;
  }
  ERR_clear_error();
  return result;
}

/* ---- connections ---- */

static void libssl_conn_free(struct polytls_conn *head) {
  if (head == NULL) {
    return;
  }
  struct libssl_conn *conn = (struct libssl_conn *)head;
  SSL_SESSION_free(conn->offered);
  SSL_free(conn->ssl);
  polytls_names_free(&conn->names);
  polytls_outcome_free(&conn->outcome);
  polytls_outcome_free(&conn->ticket);
  libssl_ctx_release(conn->ctx);
#ifdef OPENSSL_IS_BORINGSSL
  libssl_forget_certificates(conn);
  libssl_signer_free(&conn->signer);
#else
  libssl_forget_name(conn);
#endif
  polytls_conn_secrets_free(&conn->head);
  free(conn->held);
  free(conn->failure_text);
  free(conn->head.in);
  free(conn->head.out);
  free(conn);
  libssl_clear_errors();
}

/* Makes the SSL object with its transport. Returns 1 or 0. */
static int libssl_conn_attach(struct libssl_conn *conn) {
  conn->ssl = SSL_new(conn->ctx->ssl_ctx);
  if (conn->ssl == NULL || SSL_set_app_data(conn->ssl, conn) != 1) {
    return 0;
  }
  BIO *bio = BIO_new(libssl_bio_method);
  if (bio == NULL) {
    return 0;
  }
  BIO_set_data(bio, conn);
  BIO_set_init(bio, 1);
  SSL_set_bio(conn->ssl, bio, bio); /* takes the one reference */
#ifdef HAVE_SSL_SET1_CLIENT_KEY_SHARES
  if (conn->ctx->key_shares.count > 0 &&
      SSL_set1_client_key_shares(conn->ssl, conn->ctx->key_shares.values, conn->ctx->key_shares.count) != 1) {
    return 0;
  }
#endif
  SSL_set_msg_callback(conn->ssl, libssl_message);
  SSL_set_msg_callback_arg(conn->ssl, conn);
  if (conn->ctx->role == POLYTLS_CLIENT) {
    SSL_set_connect_state(conn->ssl);
  } else {
    SSL_set_accept_state(conn->ssl);
  }
  return 1;
}

/* The new connection holds a reference of its own to the context. */
static struct polytls_result libssl_conn_new(struct polytls_ctx *head, struct polytls_conn **out) {
  struct libssl_ctx *ctx = (struct libssl_ctx *)head;
  struct polytls_result failure = libssl_result(POLYTLS_FAILED);
  *out = NULL;
  if (!ctx->ready) {
    failure.failure = POLYTLS_FAIL_CONFIG;
    return failure;
  }
  failure.failure = POLYTLS_FAIL_INTERNAL;
  struct libssl_conn *conn = calloc(1, sizeof(*conn));
  if (conn == NULL) {
    return failure;
  }
  libssl_clear_errors();
  atomic_fetch_add(&ctx->references, 1);
  conn->ctx = ctx;
  conn->alert_sent = -1;
  conn->head.out_limit = POLYTLS_DEFAULT_OUT_LIMIT;
  if (!libssl_conn_attach(conn)) {
    failure.code = libssl_take_error().code;
    libssl_conn_free(&conn->head);
    return failure;
  }
  *out = &conn->head;
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_set_server_name(struct libssl_conn *conn, const uint8_t *data, size_t len) {
  char name[TLSEXT_MAXLEN_host_name + 1];
  if (len > 0 && data[len - 1] == '.') {
    len--; /* RFC 6066 section 3 */
  }
  if (len == 0 || len > TLSEXT_MAXLEN_host_name || memchr(data, 0, len) != NULL) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0,
                       "the server name is empty, longer than %d bytes or holds a NUL", TLSEXT_MAXLEN_host_name);
  }
  memcpy(name, data, len);
  name[len] = 0;
  if (SSL_set_tlsext_host_name(conn->ssl, name) != 1) {
    struct libssl_error error = libssl_take_error();
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, error.code, "the server name cannot be sent: %s",
                       error.text);
  }
  return libssl_result(POLYTLS_OK);
}

/* Parses a session that takes up all of the bytes. The caller frees it. */
static SSL_SESSION *libssl_parse_session(const struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  if (len == 0 || len > LONG_MAX) {
    return NULL;
  }
#ifdef OPENSSL_IS_BORINGSSL
  return SSL_SESSION_from_bytes(data, len, ctx->ssl_ctx);
#else
  (void)ctx;
  const uint8_t *p = data;
  SSL_SESSION *session = d2i_SSL_SESSION(NULL, &p, (long)len);
  if (session != NULL && p != data + len) {
    SSL_SESSION_free(session);
    return NULL;
  }
  return session;
#endif
}

/* Reports whether the session may be offered on a connection of the context. */
static int libssl_session_fits(const struct libssl_ctx *ctx, const SSL_SESSION *session) {
  unsigned int len = 0;
  const uint8_t *bound_to = SSL_SESSION_get0_id_context(session, &len);
  int version = (int)SSL_SESSION_get_protocol_version(session);
  return SSL_SESSION_is_resumable(session) && version >= ctx->min_version && version <= ctx->max_version &&
         len == ctx->session_context_len && memcmp(bound_to, ctx->session_context, len) == 0;
}

/* Offers a session, whose bytes stay the caller's. */
static struct polytls_result libssl_offer_session(struct libssl_conn *conn, const uint8_t *data, size_t len) {
  SSL_SESSION *session = conn->ctx->tickets && conn->offered == NULL ? libssl_parse_session(conn->ctx, data, len) : NULL;
  if (session == NULL || !libssl_session_fits(conn->ctx, session) || SSL_set_session(conn->ssl, session) != 1) {
    SSL_SESSION_free(session);
    ERR_clear_error();
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "the session cannot be offered on this connection");
  }
  conn->offered = session;
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_added_name(struct libssl_conn *conn, int added) {
  if (added == 1) {
    return libssl_result(POLYTLS_OK);
  }
  if (added == 0) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
  }
  return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0,
                     "a name to verify is neither a DNS name nor an address of 4 or 16 bytes");
}

static struct polytls_result libssl_set_failure(struct libssl_conn *conn, enum polytls_failure failure, uint64_t code,
                                                const char *text);

#include "polytls_libssl_choice.h"

/* data stays the caller's. */
static struct polytls_result libssl_conn_set(struct polytls_conn *head, int option, const uint8_t *data, size_t len) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  libssl_clear_errors();
  if (option == POLYTLS_SET_SIGNATURE) {
    return libssl_set_signature(conn, data, len);
  }
#ifdef OPENSSL_IS_BORINGSSL
  if (option == POLYTLS_SET_ASK_VERDICT && !conn->started && len == 1) {
    conn->verdict = data[0] != 0 ? LIBSSL_VERDICT_ASKED : LIBSSL_VERDICT_UNASKED;
    return libssl_result(POLYTLS_OK);
  }
  if (option == POLYTLS_SET_VERDICT && conn->verdict == LIBSSL_VERDICT_WANTED && len == 1) {
    conn->verdict = LIBSSL_VERDICT_GIVEN;
    conn->verdict_alert = data[0];
    return libssl_result(POLYTLS_OK);
  }
#endif
  if (option == POLYTLS_SET_CHOSEN_CERTIFICATE) {
    return libssl_set_choice(conn, data, len);
  }
  if (conn->started || conn->ctx->role != POLYTLS_CLIENT) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0,
                       "option %d belongs to clients, before the handshake", option);
  }
  switch (option) {
    case POLYTLS_SET_SERVER_NAME:
      return libssl_set_server_name(conn, data, len);
    case POLYTLS_SET_VERIFY_DNS:
      return libssl_added_name(conn, polytls_names_add_dns(&conn->names, data, len));
    case POLYTLS_SET_VERIFY_IP:
      return libssl_added_name(conn, polytls_names_add_ip(&conn->names, data, len));
    case POLYTLS_SET_SKIP_HOSTNAME:
      if (len != 1 || data[0] > 1) {
        return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "skip host name: the value is malformed");
      }
      conn->names.skip = data[0];
      return libssl_result(POLYTLS_OK);
    case POLYTLS_SET_SESSION:
      return libssl_offer_session(conn, data, len);
    case POLYTLS_SET_ASK_CERTIFICATE:
      return libssl_ask_certificate(conn, data, len);
    default:
      return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "unknown option %d of a connection", option);
  }
}

/* ---- steps ---- */

/* Reports whether a session was resumed. Before the end of the handshake only a
 * server of TLS 1.2 knows: its last flight is its first. */
static int libssl_resumed(const struct libssl_conn *conn) {
  int known = conn->handshake_done || (conn->ctx->role == POLYTLS_SERVER && SSL_version(conn->ssl) == TLS1_2_VERSION);
#ifdef OPENSSL_IS_BORINGSSL
  known = known || conn->verdict == LIBSSL_VERDICT_WANTED;
#endif
  return known && SSL_session_reused(conn->ssl) && !libssl_uses_psk(conn);
}

/* The result of a step that leaves `in` alone. */
static struct polytls_result libssl_step_result(struct libssl_conn *conn, enum polytls_status status, size_t n) {
  struct polytls_result result = libssl_result(status);
  result.n = n;
  if (conn->handshake_done) {
    result.flags |= POLYTLS_FLAG_HANDSHAKE_DONE;
    /* A failure, a close or an answer that waits needs no input either. */
    if (conn->failed || conn->closed || conn->flush_first || SSL_pending(conn->ssl) > 0) {
      result.flags |= POLYTLS_FLAG_PENDING;
    }
  }
  if (conn->accepted || (!conn->handshake_done && libssl_resumed(conn))) {
    result.flags |= POLYTLS_FLAG_PEER_CERTIFICATES;
  }
  return result;
}

/* The result of a step that reads `in`. */
static struct polytls_result libssl_input_result(struct libssl_conn *conn, enum polytls_status status, size_t n) {
  struct polytls_result result = libssl_step_result(conn, status, n);
  if (conn->handshake_done && conn->head.in_start != conn->head.in_end) {
    result.flags |= POLYTLS_FLAG_PENDING;
  }
  return result;
}

static void libssl_show_failure_text(struct libssl_conn *conn) {
  snprintf(conn->head.error_text, sizeof(conn->head.error_text), "%s",
           conn->failure_text != NULL ? conn->failure_text : "out of memory for the text of the failure");
}

/* Makes a failure the connection's last word. */
static struct polytls_result libssl_set_failure(struct libssl_conn *conn, enum polytls_failure failure, uint64_t code,
                                                const char *text) {
  conn->failed = 1;
  conn->failure = libssl_step_result(conn, POLYTLS_FAILED, 0);
  conn->failure.failure = failure;
  conn->failure.code = code;
  conn->failure.alert_sent = conn->alert_sent;
  libssl_keep_text(conn, text);
  libssl_show_failure_text(conn);
  return conn->failure;
}

/* Lets out what was held back with the failure. */
static void libssl_release_held(struct libssl_conn *conn) {
  if (conn->held != NULL) {
    (void)polytls_conn_out_append(&conn->head, conn->held, conn->held_len);
    free(conn->held);
    conn->held = NULL;
    conn->held_len = 0;
  }
}

static struct polytls_result libssl_report_failure(struct libssl_conn *conn) {
  libssl_release_held(conn);
  libssl_show_failure_text(conn);
  return conn->failure;
}

/* Sorts a reason of libssl. */
static enum polytls_failure libssl_failure_of(int reason) {
  switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return POLYTLS_FAIL_NO_CERTIFICATE;
    case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
    case SSL_R_DECRYPTION_FAILED:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_DATA_LENGTH_TOO_LONG:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_RECORD_LENGTH_MISMATCH:
#ifdef OPENSSL_IS_BORINGSSL
    case SSL_R_BAD_PACKET_LENGTH:
    case SSL_R_RECORD_TOO_LARGE:
#ifdef SSL_R_INVALID_OUTER_RECORD_TYPE
    case SSL_R_INVALID_OUTER_RECORD_TYPE:
#endif
#else
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_LENGTH_TOO_SHORT:
#ifdef SSL_R_INVALID_RECORD
    case SSL_R_INVALID_RECORD:
    case SSL_R_RECORD_LAYER_FAILURE:
#endif
#endif
      return POLYTLS_FAIL_BAD_RECORD;
    default:
      return POLYTLS_FAIL_PROTOCOL;
  }
}

/* What SSL_get_error says of the last call. OpenSSL keeps the level of the last
 * warning apart from the close_notify of TLS 1.3: after a user_canceled, which
 * JSSE sends in front of each close_notify, it knows of the close and calls it a
 * failure without a reason. */
static int libssl_ssl_error(const struct libssl_conn *conn, int ret) {
  int error = SSL_get_error(conn->ssl, ret);
  if ((error == SSL_ERROR_SYSCALL || error == SSL_ERROR_SSL) && ERR_peek_error() == 0 &&
      (SSL_get_shutdown(conn->ssl) & SSL_RECEIVED_SHUTDOWN) != 0) {
    return SSL_ERROR_ZERO_RETURN;
  }
  return error;
}

/* Reads what the failed call left in the error queue; ssl_error is what
 * libssl_ssl_error said of it. */
static struct polytls_result libssl_failed(struct libssl_conn *conn, int ssl_error) {
  struct libssl_error error = libssl_take_error();
  if (conn->out_of_memory) {
    return libssl_set_failure(conn, POLYTLS_FAIL_INTERNAL, error.code, "out of memory");
  }
#ifdef OPENSSL_IS_BORINGSSL
  if (conn->verdict == LIBSSL_VERDICT_GIVEN && conn->verdict_alert != 0) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, error.code, "the connection was refused");
  }
  if (conn->signer.failed) {
    return libssl_set_failure(conn, POLYTLS_FAIL_INTERNAL, error.code, "the external signer gave no usable signature");
  }
#endif
#ifndef OPENSSL_IS_BORINGSSL
  if (conn->name_changed) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, error.code,
                              "the client asks for another name in its second ClientHello");
  }
#endif
  if (conn->choice == LIBSSL_CHOICE_FAILED) {
    return libssl_set_failure(conn, POLYTLS_FAIL_INTERNAL, error.code,
                              conn->failure_text != NULL ? conn->failure_text : "no certificate was chosen");
  }
  if (conn->psk_missing) {
    const char *text = conn->failure_text != NULL ? conn->failure_text : "the server answers with a certificate";
    return libssl_set_failure(conn, POLYTLS_FAIL_NO_PSK, error.code, text);
  }
  if (conn->refused) {
    char text[POLYTLS_ERROR_TEXT_SIZE];
    snprintf(text, sizeof(text), "certificate %d of the chain: %s", conn->outcome.depth,
             conn->outcome.text == NULL ? "refused" : conn->outcome.text);
    return libssl_set_failure(conn, POLYTLS_FAIL_VERIFY, error.code, text);
  }
  if (error.code == 0 && conn->alert_sent >= 0 && conn->alert_sent != SSL_AD_INTERNAL_ERROR) {
    /* BoringSSL of 2023 refuses some malformed ClientHellos without a reason;
     * its alert tells whose fault it is. */
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, SSL_alert_desc_string_long(conn->alert_sent));
  }
  if (ssl_error != SSL_ERROR_SSL || error.code == 0) {
    return libssl_set_failure(conn, POLYTLS_FAIL_INTERNAL, error.code, error.text);
  }
  if (error.reason >= SSL_AD_REASON_OFFSET && error.reason < SSL_AD_REASON_OFFSET + 256) {
    libssl_set_failure(conn, POLYTLS_FAIL_PEER_ALERT, error.code, error.text);
    conn->failure.alert_received = error.reason - SSL_AD_REASON_OFFSET;
    return conn->failure;
  }
  if (libssl_is_bad_psk(conn, error.reason)) {
    return libssl_set_failure(conn, POLYTLS_FAIL_BAD_PSK, error.code, "the peer has another secret for the PSK");
  }
  if (error.reason == SSL_R_PSK_IDENTITY_NOT_FOUND && SSL_version(conn->ssl) == TLS1_2_VERSION) {
    return libssl_set_failure(conn, POLYTLS_FAIL_NO_PSK, error.code, "the client's PSK is not one of the configured ones");
  }
#ifdef SSL_R_KEY_USAGE_BIT_INCORRECT
  /* BoringSSL checks the key usage of a certificate that nobody verifies. */
  if (error.reason == SSL_R_KEY_USAGE_BIT_INCORRECT) {
    conn->head.verify_code = POLYTLS_VERIFY_KEY_USAGE;
    conn->head.verify_depth = 0;
    conn->head.verify_library_code = X509_V_ERR_INVALID_PURPOSE;
#ifdef OPENSSL_IS_BORINGSSL
    libssl_recover_chain(conn);
    libssl_forget_certificates(conn);
#endif
    return libssl_set_failure(conn, POLYTLS_FAIL_VERIFY, error.code, error.text);
  }
#endif
  if (error.reason == 0) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, error.code, error.text);
  }
  return libssl_set_failure(conn, libssl_failure_of(error.reason), error.code, error.text);
}

/* Reports whether a session that was resumed may have been: a client has offered
 * it, a server has keys for tickets, and its client's chain was verified again. */
static int libssl_may_resume(const struct libssl_conn *conn) {
  if (conn->ctx->role == POLYTLS_CLIENT) {
    return conn->offered != NULL;
  }
  return conn->ctx->tickets && (!libssl_server_asks(conn->ctx) || conn->ticket_adopted);
}

#ifndef OPENSSL_IS_BORINGSSL
/* Keeps the ticket that a server of TLS 1.2 has put in the place of the one that
 * it has resumed: OpenSSL tells of new sessions only. */
static void libssl_keep_renewed_ticket(struct libssl_conn *conn) {
  SSL_SESSION *session = SSL_get_session(conn->ssl);
  const uint8_t *ticket = NULL;
  const uint8_t *offered = NULL;
  size_t len = 0;
  size_t offered_len = 0;
  if (session == NULL || conn->offered == NULL) {
    return;
  }
  SSL_SESSION_get0_ticket(session, &ticket, &len);
  SSL_SESSION_get0_ticket(conn->offered, &offered, &offered_len);
  if (len > 0 && (len != offered_len || memcmp(ticket, offered, len) != 0)) {
    libssl_keep_session(conn, session);
  }
}
#endif

/* Checks what the library must have done before a handshake counts. */
static struct polytls_result libssl_handshake_complete(struct libssl_conn *conn) {
  int mode = conn->ctx->verify_mode;
  int required = conn->ctx->role == POLYTLS_CLIENT || mode == POLYTLS_VERIFY_REQUIRE_ANY ||
                 mode == POLYTLS_VERIFY_REQUIRE_AND_VERIFY;
  if (conn->ctx->require_psk && !libssl_uses_psk(conn)) {
    return libssl_set_failure(conn, POLYTLS_FAIL_NO_PSK, 0, "the handshake used no PSK");
  }
  int reused = SSL_session_reused(conn->ssl) && !libssl_uses_psk(conn);
  if (reused && conn->ctx->role == POLYTLS_SERVER && !libssl_adopt_ticket(conn)) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, "a session was resumed whose client was not verified");
  }
  if (reused && !libssl_may_resume(conn)) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, "a session was resumed that was not offered");
  }
  if (required && !conn->accepted && !reused && !libssl_uses_psk(conn)) {
    return libssl_set_failure(conn, POLYTLS_FAIL_NO_CERTIFICATE, 0, "the peer sent no certificate");
  }
  if (conn->refused) {
    return libssl_set_failure(conn, POLYTLS_FAIL_VERIFY, 0, "the peer's certificate was refused");
  }
  int version = SSL_version(conn->ssl);
  if (version != TLS1_2_VERSION && version != TLS1_3_VERSION) {
    return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, "a version was negotiated that is not allowed");
  }
  if (conn->ctx->role == POLYTLS_CLIENT) {
    /* OpenSSL 3.0 believes a server that selects what was not offered. */
    const unsigned char *selected = NULL;
    unsigned int selected_len = 0;
    SSL_get0_alpn_selected(conn->ssl, &selected, &selected_len);
    int offered = selected_len == 0;
    for (size_t i = 0; !offered && i < conn->ctx->alpn_len; i += 1 + (size_t)conn->ctx->alpn[i]) {
      offered = conn->ctx->alpn[i] == selected_len && memcmp(conn->ctx->alpn + i + 1, selected, selected_len) == 0;
    }
    if (!offered) {
      return libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0,
                                "the server selected an application protocol that was not offered");
    }
  }
  conn->handshake_done = 1;
  SSL_set_msg_callback(conn->ssl, NULL); /* it has seen all that it looks for */
#ifdef OPENSSL_IS_BORINGSSL
  libssl_forget_certificates(conn);
#else
  conn->head.idle_limit = POLYTLS_MAX_IDLE_RECORDS; /* BoringSSL has bounds of its own */
  libssl_forget_name(conn);
  if (reused && conn->ctx->role == POLYTLS_CLIENT && version == TLS1_2_VERSION) {
    libssl_keep_renewed_ticket(conn);
  }
#endif
  return libssl_input_result(conn, POLYTLS_OK, 0);
}

static struct polytls_result libssl_handshake(struct polytls_conn *head) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  if (conn->failed) {
    return libssl_report_failure(conn);
  }
  if (conn->handshake_done) {
    return libssl_input_result(conn, POLYTLS_OK, 0);
  }
  if (conn->closed) {
    return libssl_input_result(conn, POLYTLS_CLOSED, 0);
  }
  conn->started = 1;
  libssl_clear_errors();
  conn->reading = 1;
  size_t before = conn->head.out_end;
  int ret = SSL_do_handshake(conn->ssl);
  conn->reading = 0;
  struct polytls_result result;
  if (conn->ctx->role == POLYTLS_SERVER && libssl_resumed(conn) && !libssl_adopt_ticket(conn)) {
    conn->head.out_end = before;
    result = libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, "a session was resumed whose client was not verified");
    libssl_clear_errors();
    return result;
  }
  /* The net under the checks that come before a Certificate message: none
   * leaves, and nothing is answered, where a PSK is required. */
  if (conn->ctx->require_psk && conn->certificate_message && !conn->psk_missing) {
    conn->head.out_end = before;
    result = libssl_set_failure(conn, POLYTLS_FAIL_NO_PSK, 0, "the handshake came to certificates");
    libssl_clear_errors();
    return result;
  }
  if (ret == 1) {
    result = libssl_handshake_complete(conn);
  } else {
    int error = libssl_ssl_error(conn, ret);
    switch (error) {
      case SSL_ERROR_WANT_READ:
        result = libssl_input_result(conn, POLYTLS_WANT_INPUT, 0);
        break;
      case SSL_ERROR_WANT_WRITE:
        result = libssl_input_result(conn, POLYTLS_WANT_OUTPUT, 0);
        break;
      case SSL_ERROR_ZERO_RETURN:
        conn->closed = 1;
        result = libssl_input_result(conn, POLYTLS_CLOSED, 0);
        break;
      case SSL_ERROR_WANT_X509_LOOKUP:
        result = libssl_input_result(conn, POLYTLS_WANT_CERTIFICATE, 0);
        break;
#ifdef OPENSSL_IS_BORINGSSL
      case SSL_ERROR_WANT_CERTIFICATE_VERIFY:
        result = libssl_input_result(conn, POLYTLS_WANT_VERDICT, 0);
        break;
      case SSL_ERROR_WANT_PRIVATE_KEY_OPERATION:
        result = libssl_input_result(conn, POLYTLS_WANT_SIGNATURE, 0);
        break;
#endif
      default:
#ifdef OPENSSL_IS_BORINGSSL
        /* The library sends no alert for a signer that has failed. */
        if (conn->alert_sent < 0 && ERR_GET_REASON(ERR_peek_error()) == SSL_R_PRIVATE_KEY_OPERATION_FAILED) {
          (void)SSL_send_fatal_alert(conn->ssl, SSL_AD_INTERNAL_ERROR);
        }
#endif
        result = libssl_failed(conn, error);
        break;
    }
  }
  libssl_clear_errors();
  return result;
}

/* Takes what a failing call has appended behind `before` out of `out`. Where
 * memory is short it stays: the alert then leaves a little early. */
static void libssl_hold_output(struct libssl_conn *conn, size_t before) {
  size_t len = conn->head.out_end - before;
  if (len == 0 || conn->held != NULL) {
    return;
  }
  conn->held = malloc(len);
  if (conn->held != NULL) {
    memcpy(conn->held, conn->head.out + before, len);
    conn->held_len = len;
    conn->head.out_end = before;
  }
}

static struct polytls_result libssl_read(struct polytls_conn *head, uint8_t *buf, size_t len) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  if (conn->failed) {
    return libssl_report_failure(conn);
  }
  if (conn->closed) {
    return libssl_input_result(conn, POLYTLS_CLOSED, 0);
  }
  if (!conn->handshake_done) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_INTERNAL, 0, "read before the handshake");
  }
  enum polytls_status status = POLYTLS_WANT_INPUT;
  size_t n = 0;
  libssl_clear_stale_errors();
  conn->reading = 1;
  polytls_conn_begin_read(&conn->head);
  while (n < len) {
    /* Asking the library when it has nothing costs more than this look. */
    if (conn->head.in_start == conn->head.in_end && !conn->flush_first && SSL_pending(conn->ssl) == 0) {
      break;
    }
    size_t before = conn->head.out_end;
    size_t most = len - n < INT_MAX ? len - n : INT_MAX;
    conn->flush_first = 0;
    int ret = SSL_read(conn->ssl, buf + n, (int)most);
    if (ret > 0) {
      n += (size_t)ret;
      conn->head.idle_records = 0;
      continue;
    }
    int error = libssl_ssl_error(conn, ret);
    if (error == SSL_ERROR_WANT_READ) {
      if (n == 0 && polytls_conn_is_idle(&conn->head)) {
        (void)libssl_set_failure(conn, POLYTLS_FAIL_PROTOCOL, 0, "too many records in a row bring no data");
        status = POLYTLS_FAILED;
      }
      break;
    }
    if (error == SSL_ERROR_WANT_WRITE) {
      /* An answer to a KeyUpdate found no room. */
      conn->flush_first = 1;
      status = POLYTLS_WANT_OUTPUT;
      break;
    }
    if (error == SSL_ERROR_ZERO_RETURN) {
      conn->closed = 1;
      status = POLYTLS_CLOSED;
      break;
    }
    (void)libssl_failed(conn, error);
    status = POLYTLS_FAILED;
    if (n > 0) {
      libssl_hold_output(conn, before);
    }
    break;
  }
  conn->reading = 0;
  polytls_conn_end_read(&conn->head);
  if (n > 0 || len == 0) {
    return libssl_input_result(conn, POLYTLS_OK, n);
  }
  if (status == POLYTLS_FAILED) {
    return libssl_report_failure(conn);
  }
  struct polytls_result result = libssl_input_result(conn, status, 0);
  result.flags |= polytls_conn_flood_flag(&conn->head);
  return result;
}

/* Says how many of len bytes go into the next record so that it fits into `out`
 * as a whole; 0 when it has to be sent first. */
static size_t libssl_record_size(const struct libssl_conn *conn, size_t len) {
  size_t limit = polytls_conn_out_limit(&conn->head, LIBSSL_MAX_PLAINTEXT);
  size_t room = limit > conn->head.out_end ? limit - conn->head.out_end : 0;
  size_t size = len < LIBSSL_MAX_PLAINTEXT ? len : LIBSSL_MAX_PLAINTEXT;
  if (room >= size + LIBSSL_RECORD_OVERHEAD) {
    return size;
  }
  /* A limit below one record: smaller ones, or nothing would ever leave. */
  if (conn->head.out_end == 0 && room > LIBSSL_RECORD_OVERHEAD) {
    return room - LIBSSL_RECORD_OVERHEAD;
  }
  return 0;
}

static struct polytls_result libssl_write(struct polytls_conn *head, const uint8_t *buf, size_t len) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  if (conn->failed) {
    return libssl_report_failure(conn);
  }
  if (!conn->handshake_done || conn->close_sent) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_INTERNAL, 0,
                       conn->close_sent ? "write after close_notify" : "write before the handshake");
  }
  size_t n = 0;
  int full = 0;
  libssl_clear_stale_errors();
  while (n < len && !full) {
    size_t size = libssl_record_size(conn, len - n);
    if (size == 0) {
      full = 1;
      break;
    }
    int ret = SSL_write(conn->ssl, buf + n, (int)size);
    if (ret > 0) {
      n += (size_t)ret;
      continue;
    }
    int error = libssl_ssl_error(conn, ret);
    if (error == SSL_ERROR_WANT_WRITE) {
      full = 1;
      break;
    }
    return libssl_failed(conn, error);
  }
  struct polytls_result result = libssl_result(n == 0 && full ? POLYTLS_WANT_OUTPUT : POLYTLS_OK);
  result.flags = POLYTLS_FLAG_HANDSHAKE_DONE;
  result.n = n;
  return result;
}

static struct polytls_result libssl_close_notify(struct polytls_conn *head) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  if (conn->failed) {
    /* The alert has said it, or says it now. */
    libssl_release_held(conn);
    return libssl_step_result(conn, POLYTLS_OK, 0);
  }
  if (conn->close_sent || !conn->handshake_done) {
    return libssl_step_result(conn, POLYTLS_OK, 0);
  }
  libssl_clear_errors();
  int ret = SSL_shutdown(conn->ssl);
  struct polytls_result result;
  if (ret >= 0) {
    conn->close_sent = 1;
    result = libssl_step_result(conn, POLYTLS_OK, 0);
  } else {
    int error = libssl_ssl_error(conn, ret);
    result = error == SSL_ERROR_WANT_WRITE ? libssl_step_result(conn, POLYTLS_WANT_OUTPUT, 0)
                                           : libssl_failed(conn, error);
  }
  libssl_clear_errors();
  return result;
}

/* ---- queries ---- */

/* Answers with bytes, which stay the caller's. */
static struct polytls_result libssl_answer(const uint8_t *bytes, size_t bytes_len, uint8_t *buf, size_t len) {
  struct polytls_result result = libssl_result(POLYTLS_OK);
  result.n = bytes_len;
  if (bytes_len > 0 && bytes_len <= len && buf != NULL) {
    memcpy(buf, bytes, bytes_len);
  }
  return result;
}

/* Answers with a chain, which stays the caller's. */
static struct polytls_result libssl_answer_chain(struct libssl_conn *conn, STACK_OF(X509) *chain, uint8_t *buf, size_t len) {
  size_t size = polytls_chain_encode(chain, buf, len);
  if (size == SIZE_MAX) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
  }
  struct polytls_result result = libssl_result(POLYTLS_OK);
  result.n = size;
  return result;
}

static struct polytls_result libssl_absent(void) { return libssl_result(POLYTLS_OK); }

/* Answers with a value of a registry, in which 0 is nothing. */
static struct polytls_result libssl_answer_uint16(uint16_t value, uint8_t *buf, size_t len) {
  const uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
  return value == 0 ? libssl_absent() : libssl_answer(bytes, 2, buf, len);
}

static struct polytls_result libssl_answer_uint8(int value, uint8_t *buf, size_t len) {
  const uint8_t byte = value ? 1 : 0;
  return libssl_answer(&byte, 1, buf, len);
}

static uint16_t libssl_negotiated_group(SSL *ssl) {
  if (SSL_version(ssl) < TLS1_3_VERSION && SSL_session_reused(ssl)) {
    return 0;
  }
#ifdef OPENSSL_IS_BORINGSSL
#if LIBSSL_HAS_GROUP_IDS
  return SSL_get_group_id(ssl);
#else
  return SSL_get_curve_id(ssl);
#endif
#else
  int nid = (int)SSL_get_negotiated_group(ssl);
  if (nid <= 0) {
    return 0;
  }
  if (nid & TLSEXT_nid_unknown) {
    return (uint16_t)(nid & 0xffff);
  }
  switch (nid) {
    case NID_X9_62_prime256v1:
      return 23;
    case NID_secp384r1:
      return 24;
    case NID_secp521r1:
      return 25;
    case NID_X25519:
      return 29;
    case NID_X448:
      return 30;
    case NID_ffdhe2048:
      return 256;
    case NID_ffdhe3072:
      return 257;
    case NID_ffdhe4096:
      return 258;
    case NID_ffdhe6144:
      return 259;
    case NID_ffdhe8192:
      return 260;
    default:
      return 0;
  }
#endif
}

static uint16_t libssl_peer_scheme(SSL *ssl) {
#ifdef OPENSSL_IS_BORINGSSL
  return SSL_get_peer_signature_algorithm(ssl);
#else
  int type = NID_undef;
  int hash = NID_undef;
  if (!SSL_get_peer_signature_type_nid(ssl, &type)) {
    return 0;
  }
  (void)SSL_get_peer_signature_nid(ssl, &hash);
  int step = hash == NID_sha256 ? 0 : hash == NID_sha384 ? 1 : hash == NID_sha512 ? 2 : -1;
  switch (type) {
    case NID_ED25519:
      return 0x0807;
    case NID_ED448:
      return 0x0808;
    default:
      break;
  }
  if (step < 0) {
    return 0;
  }
  switch (type) {
    case EVP_PKEY_EC:
      return (uint16_t)(0x0403 + 0x0100 * step);
    case EVP_PKEY_RSA:
      return (uint16_t)(0x0401 + 0x0100 * step);
    case EVP_PKEY_RSA_PSS: {
      /* The code point says which kind of key it was. */
      X509 *certificate = SSL_get1_peer_certificate(ssl);
      EVP_PKEY *key = certificate == NULL ? NULL : X509_get0_pubkey(certificate);
      int pss_key = key != NULL && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA_PSS;
      X509_free(certificate);
      return (uint16_t)((pss_key ? 0x0809 : 0x0804) + step);
    }
    default:
      return 0;
  }
#endif
}

/* RFC 5705 section 4 keeps these to TLS itself; an exporter for them would give
 * the connection's own keys away. */
static int libssl_label_is_reserved(const uint8_t *label, size_t len) {
  static const char *const reserved[] = {"client finished", "server finished", "master secret", "extended master secret",
                                         "key expansion"};
  for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
    if (len == strlen(reserved[i]) && memcmp(label, reserved[i], len) == 0) {
      return 1;
    }
  }
  return 0;
}

/* buf is both question and answer, see POLYTLS_GET_EXPORTER. */
static struct polytls_result libssl_export(struct libssl_conn *conn, uint8_t *buf, size_t len) {
  char *text = conn->head.error_text;
  if (!conn->handshake_done || conn->failed) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "there are no secrets before the handshake or after a failure");
  }
  if (len < 2 || buf == NULL) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "exporter: the request is malformed");
  }
  size_t label_len = libssl_uint16(buf);
  if (len < 2 + label_len + 3) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "exporter: the request is malformed");
  }
  const uint8_t *label = buf + 2;
  int has_context = label[label_len] != 0;
  size_t context_len = libssl_uint16(label + label_len + 1);
  const uint8_t *context = label + label_len + 3;
  if (len < 2 + label_len + 3 + context_len + 2) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "exporter: the request is malformed");
  }
  size_t wanted = libssl_uint16(context + context_len);
  if (wanted == 0 || libssl_label_is_reserved(label, label_len)) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "exporter: the label is reserved, or no bytes are wanted");
  }
  if (wanted > len) {
    struct polytls_result result = libssl_result(POLYTLS_OK);
    result.n = wanted;
    return result;
  }
  if (SSL_version(conn->ssl) < TLS1_3_VERSION && SSL_get_extms_support(conn->ssl) != 1) {
    return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "exporter: this connection is neither TLS 1.3 nor has it an extended master secret");
  }
  uint8_t *secret = malloc(wanted);
  if (secret == NULL) {
    return libssl_fail(text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
  }
  ERR_clear_error();
  struct polytls_result result;
  if (SSL_export_keying_material(conn->ssl, secret, wanted, (const char *)label, label_len, context, context_len,
                                 has_context) == 1) {
    result = libssl_answer(secret, wanted, buf, len);
  } else {
    struct libssl_error error = libssl_take_error();
    result = libssl_fail(text, POLYTLS_FAIL_INTERNAL, error.code, "exporter: %s", error.text);
  }
  OPENSSL_cleanse(secret, wanted);
  free(secret);
  return result;
}

static struct polytls_result libssl_ocsp_response(SSL *ssl, uint8_t *buf, size_t len) {
  const uint8_t *response = NULL;
#ifdef OPENSSL_IS_BORINGSSL
  size_t response_len = 0;
  SSL_get0_ocsp_response(ssl, &response, &response_len);
#else
  uint8_t *pointer = NULL;
  long signed_len = (long)SSL_get_tlsext_status_ocsp_resp(ssl, &pointer);
  size_t response_len = pointer == NULL || signed_len < 0 ? 0 : (size_t)signed_len;
  response = pointer;
#endif
  return libssl_answer(response, response_len, buf, len);
}

/* Nothing is negotiated before there is a suite; the library would answer with
 * what it hopes for. */
static struct polytls_result libssl_query_negotiated(struct libssl_conn *conn, int what, uint8_t *buf, size_t len) {
  SSL *ssl = conn->ssl;
  const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
  if (cipher == NULL) {
    return libssl_absent();
  }
  switch (what) {
    case POLYTLS_GET_VERSION:
      return libssl_answer_uint16((uint16_t)SSL_version(ssl), buf, len);
    case POLYTLS_GET_CIPHER_SUITE:
      return libssl_answer_uint16((uint16_t)SSL_CIPHER_get_protocol_id(cipher), buf, len);
    case POLYTLS_GET_GROUP:
      return libssl_answer_uint16(libssl_negotiated_group(ssl), buf, len);
    default:
      return libssl_answer_uint16(libssl_peer_scheme(ssl), buf, len);
  }
}

/* Answers POLYTLS_GET_TLS_UNIQUE: the first Finished of the handshake, a client's
 * unless the session was resumed. */
static struct polytls_result libssl_tls_unique(struct libssl_conn *conn, uint8_t *buf, size_t len) {
  SSL *ssl = conn->ssl;
  uint8_t unique[EVP_MAX_MD_SIZE];
  if (!conn->handshake_done || SSL_version(ssl) != TLS1_2_VERSION) {
    return libssl_absent();
  }
#ifdef OPENSSL_IS_BORINGSSL
  size_t size = 0;
  if (SSL_get_tls_unique(ssl, unique, &size, sizeof(unique)) != 1) {
    return libssl_absent();
  }
#else
  int resumed = SSL_session_reused(ssl);
  if (resumed && SSL_get_extms_support(ssl) != 1) {
    return libssl_absent();
  }
  int own = (conn->ctx->role == POLYTLS_CLIENT) != (resumed != 0);
  size_t size = own ? SSL_get_finished(ssl, unique, sizeof(unique)) : SSL_get_peer_finished(ssl, unique, sizeof(unique));
  if (size > sizeof(unique)) {
    return libssl_absent();
  }
#endif
  return libssl_answer(unique, size, buf, len);
}

static struct polytls_result libssl_timestamps(struct libssl_conn *conn, uint8_t *buf, size_t len) {
#ifdef HAVE_SSL_CREDENTIAL
  const uint8_t *list = NULL;
  size_t size = 0;
  if (conn->ctx->role == POLYTLS_CLIENT) {
    SSL_get0_signed_cert_timestamp_list(conn->ssl, &list, &size);
  }
  return libssl_answer(list, size, buf, len);
#else
  (void)conn;
  (void)buf;
  (void)len;
  return libssl_absent();
#endif
}

/* Answers one query, as part of libssl_query. */
static struct polytls_result libssl_answer_query(struct polytls_conn *head, int what, uint8_t *buf, size_t len) {
  struct libssl_conn *conn = (struct libssl_conn *)head;
  struct polytls_result result;
  switch (what) {
    case POLYTLS_GET_VERSION:
    case POLYTLS_GET_CIPHER_SUITE:
    case POLYTLS_GET_GROUP:
    case POLYTLS_GET_SIGNATURE_SCHEME:
      result = libssl_query_negotiated(conn, what, buf, len);
      break;
    case POLYTLS_GET_ALPN: {
      const unsigned char *selected = NULL;
      unsigned int selected_len = 0;
      SSL_get0_alpn_selected(conn->ssl, &selected, &selected_len);
      result = libssl_answer(selected, selected_len, buf, len);
      break;
    }
    case POLYTLS_GET_SERVER_NAME: {
      const char *name = conn->ctx->role == POLYTLS_SERVER ? SSL_get_servername(conn->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
      result = libssl_answer((const uint8_t *)name, name == NULL ? 0 : strlen(name), buf, len);
      break;
    }
    case POLYTLS_GET_PEER_CHAIN:
      result = libssl_answer_chain(conn, conn->outcome.sent, buf, len);
      break;
    case POLYTLS_GET_VERIFIED_CHAIN:
      result = libssl_answer_chain(conn, conn->outcome.verified, buf, len);
      break;
    case POLYTLS_GET_RESUMED:
      result = libssl_answer_uint8(libssl_resumed(conn), buf, len);
      break;
    case POLYTLS_GET_HELLO_RETRY:
#ifdef OPENSSL_IS_BORINGSSL
      result = libssl_answer_uint8(SSL_used_hello_retry_request(conn->ssl), buf, len);
#else
      result = libssl_answer_uint8(conn->hello_retry, buf, len);
#endif
      break;
    case POLYTLS_GET_OCSP_RESPONSE:
      result = libssl_ocsp_response(conn->ssl, buf, len);
      break;
    case POLYTLS_GET_PSK_IDENTITY:
      result = libssl_absent();
      if (conn->handshake_done && libssl_uses_psk(conn)) {
        result = libssl_answer(conn->psk->identity, conn->psk->identity_len, buf, len);
      }
      break;
    case POLYTLS_GET_TLS_UNIQUE:
      result = libssl_tls_unique(conn, buf, len);
      break;
    case POLYTLS_GET_TIMESTAMPS:
      result = libssl_timestamps(conn, buf, len);
      break;
    case POLYTLS_GET_CERTIFICATE_REQUEST:
      result = libssl_certificate_request(conn, buf, len);
      break;
    case POLYTLS_GET_SIGNATURE_REQUEST:
      result = libssl_signature_request(conn, buf, len);
      break;
    case POLYTLS_GET_EXPORTER:
      result = libssl_export(conn, buf, len);
      break;
    default:
      result = libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "unknown query %d", what);
      break;
  }
  return result;
}

/* Writes the answer to buf; nothing of the connection changes hands. */
static struct polytls_result libssl_query(struct polytls_conn *head, int what, uint8_t *buf, size_t len) {
  libssl_clear_errors();
  struct polytls_result result = what == POLYTLS_GET_FACTS ? polytls_answer_facts(libssl_answer_query, head, buf, len)
                                                           : libssl_answer_query(head, what, buf, len);
  libssl_clear_errors();
  return result;
}

/* ---- the table ---- */

const struct polytls_library *POLYTLS_LIBSSL_FUNCTION(void);

const struct polytls_library *POLYTLS_LIBSSL_FUNCTION(void) {
  static const struct polytls_library library = {
      .unavailable = NULL,
      .name = POLYTLS_LIBSSL_NAME,
#ifdef OPENSSL_IS_BORINGSSL
      .header_version = POLYTLS_LIBSSL_SOURCE_VERSION,
#else
      .header_version = OPENSSL_VERSION_STR,
#endif
      .abilities = LIBSSL_ABILITIES,
      .version = libssl_version,
      .init = libssl_init,
      .ctx_new = libssl_ctx_new,
      .ctx_set = libssl_ctx_set,
      .ctx_finish = libssl_ctx_finish,
      .ctx_free = libssl_ctx_free,
      .conn_new = libssl_conn_new,
      .conn_set = libssl_conn_set,
      .handshake = libssl_handshake,
      .read = libssl_read,
      .write = libssl_write,
      .close_notify = libssl_close_notify,
      .query = libssl_query,
      .conn_free = libssl_conn_free,
  };
  return &library;
}

#endif /* POLYTLS_LIBSSL_H */
