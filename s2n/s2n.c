/*
 * The native provider over s2n-tls: struct polytls_library of polytls_native.h.
 *
 * Written for s2n-tls 1.3.33 and newer; what only newer ones have is used when
 * the build has found it (HAVE_S2N_… of polytls_s2n_probe.h). The libcrypto
 * inside s2n's archive has renamed symbols, and s2n's one call of
 * X509_verify_cert comes to polytls_s2n_x509_verify_cert below.
 *
 * What s2n leaves to its user, and is settled here:
 *   - It answers errors that it has met once with other things later on
 *     (s2n_recv returns 0, the end of the data, after a fatal error). The first
 *     failure of a connection is kept and returned for ever.
 *   - It accepts SHA-1 in the signatures of TLS 1.2 even when the policy does
 *     not list it. Such handshakes fail here.
 *   - It does not check that a server's ALPN answer was offered.
 *   - It sends nearly no alerts. As long as this end writes plaintext, one is
 *     sent in its place.
 *   - It takes the first PSK whose identity it knows, whatever the hash, and
 *     encrypts tickets with a key at random. Both are decided here.
 */
#if defined(POLYTLS_HAVE_S2N) && defined(__has_include)
#if __has_include("polytls_s2n_probe.h")
#define POLYTLS_S2N_BUILT_IN 1
#endif
#endif

#include "policy_table.h"
#include "polytls_native.h"

const struct polytls_library *polytls_s2n_library(void);

#ifndef POLYTLS_S2N_BUILT_IN

size_t polytls_s2n_policy_count(void) { return 0; }

struct polytls_s2n_policy_row polytls_s2n_policy_at(size_t index) {
  (void)index;
  struct polytls_s2n_policy_row none = {0};
  return none;
}

const struct polytls_library *polytls_s2n_library(void) {
  static const struct polytls_library library = {
      .unavailable = "not built in: run `make native LIBS=s2n` and build again",
      .name = "s2n",
  };
  return &library;
}

#else /* POLYTLS_S2N_BUILT_IN */

/* First of all: the names of the libcrypto inside s2n's archive. */
#include "polytls_s2n_rename.h"

#include "polytls_s2n_probe.h"

#if __has_include("polytls_s2n_policies.h")
#include "polytls_s2n_policies.h"
#define HAVE_POLICIES 1
#endif

#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>

#include <s2n.h>

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client_hello.h"
#include "polytls_buffer.h"
#include "polytls_verify.h"

/* The most plaintext that one record holds, and what a record and a key update
 * before it add at most. */
#define MAX_PLAINTEXT 16384
#define RECORD_OVERHEAD 512
/* As many certificates as other libraries accept in a chain. */
#define MAX_CHAIN_DEPTH 100
/* s2n keeps one certificate of each of its three key types: RSA, ECDSA, RSA-PSS. */
#define MAX_CERTIFICATES 3
#define MAX_POLICY_NAME 128
/* What tells SHA-384 from SHA-256 among the suites of TLS 1.3. */
#define SUITE_AES_256_GCM_SHA384 0x1302
/* psk_dhe_ke of RFC 8446 section 4.2.9: the only mode that s2n has. */
#define PSK_DHE_KE 1
/* s2n keeps no more ticket keys, and chooses among those that it may encrypt
 * with at random. So the first is given such a time of introduction that it
 * encrypts for decades, the others one that lets them only decrypt. The margin
 * is for clocks that are set back. The sum of both is the lifetime that a ticket
 * of TLS 1.2 tells, which clients may take for a signed number of seconds. */
#define MAX_TICKET_KEYS 48
#define TICKET_KEY_NAME_SIZE 16
#define SECONDS_A_DAY 86400
#define TICKET_KEY_ENCRYPTS ((uint64_t)20 * 365 * SECONDS_A_DAY)
#define TICKET_KEY_DECRYPTS ((uint64_t)40 * 365 * SECONDS_A_DAY)
/* The first bytes of a session in our form: when it ends, in seconds (eight
 * bytes). What s2n makes of it follows. */
#define SESSION_HEADER_SIZE 8
/* RFC 8446 section 4.6.1. */
#define MAX_SESSION_LIFETIME (7 * SECONDS_A_DAY)

/* An external PSK. All of it belongs to the context. */
struct psk {
  enum polytls_psk_hash hash;
  uint8_t *identity; /* malloc memory */
  size_t identity_len;
  struct s2n_psk *s2n; /* with a copy of the secret; connections copy it */
};

struct certificate {
  struct s2n_cert_chain_and_key *chain;
  int key_type;
  /* The key is an external signer's: s2n has the public one only. */
  int external;
};

struct context {
  struct polytls_ctx base;
  atomic_uint references;
  enum polytls_role role;
  /* Bit n says that option n was set. */
  uint32_t options_set;
  int finished;
  struct s2n_config *config;
  struct polytls_s2n_policy_row policy;
  struct certificate certificates[MAX_CERTIFICATES];
  size_t certificate_count;
  enum polytls_verify_mode verify_mode;
  int anchors;
  /* A copy of POLYTLS_SET_ALPN. */
  uint8_t *alpn;
  size_t alpn_len;
  int alpn_strict;
  /* malloc memory, in order of preference. */
  struct psk *psks;
  size_t psk_count;
  int require_psk;
  /* What was asked for, and from ctx_finish on whether sessions are resumed. */
  int tickets;
  /* POLYTLS_TICKET_KEY_SIZE bytes each, malloc memory, until ctx_finish. */
  uint8_t *ticket_keys;
  size_t ticket_keys_len;
  STACK_OF(X509_CRL) *crls;
  /* A configuration without tickets, for on_tickets_offered. */
  struct s2n_config *without_tickets;
};

enum verification { NOT_VERIFIED, ACCEPTED, REFUSED };

struct connection {
  struct polytls_conn base;
  struct context *ctx;
  struct s2n_connection *s2n;
  struct polytls_names names;
  /* Room for the identity of the longest PSK: used_psk must not fail. */
  uint8_t *identity;
  size_t identity_size;
  /* What polytls_s2n_x509_verify_cert came to: REFUSED and ACCEPTED say that it
   * has run. */
  enum verification verification;
  struct polytls_outcome outcome;
  /* What the callbacks may do in this step. */
  int may_read;
  int unlimited_output;
  /* A callback has found no memory: s2n says no more than that I/O failed. */
  int out_of_memory;
  /* Bytes of ciphertext made so far. */
  uint64_t produced;
  int alpn_refused;
  /* The alert for a malformed ClientHello, or 0. */
  int hello_alert;
  int done;
  int close_notify_sent;
  /* The client has answered the server's hello, up to its Finished. */
  int second_flight;
  /* The connection's end: status CLOSED or FAILED, 0 before it. It is told by
   * the next step when it came behind data. */
  struct polytls_result end;
  int ended;
  /* What the client's SNI said, kept because s2n's own copy of the ClientHello
   * goes when the handshake is over; a client's own name. */
  char *server_name;
  /* The context's PSK: on a server from the ClientHello on the one to accept,
   * on both ends after the handshake the one in use. */
  const struct psk *psk;
  /* Why the server has refused a ClientHello without an acceptable PSK. */
  const char *psk_missing;
  /* A client has come to the server's certificate although it requires a PSK. */
  int psk_bypassed;
  /* The server's certificate has a key that the cipher suite is not for. */
  int wrong_key_type;
  /* A client has set a session, and has begun. */
  int session_offered;
  int begun;
  /* The server has sent a ticket in a handshake of TLS 1.2. */
  int tls12_ticket;
  int resumed;
  /* The signature that the external signer shall make. It is ours to free. */
  struct s2n_async_pkey_op *signing;
  /* Why no signature came, or is wanted of no signer. */
  const char *signing_problem;
  enum polytls_failure signing_failure;
  /* Where in the peer's records the input is: bytes of the header that were
   * seen, the last four of them, bytes that are left behind it. */
  size_t header_seen;
  uint32_t record_length;
  size_t record_left;
  /* The next record is none that may come. */
  int wrong_record;
  /* malloc memory: s2n's copy goes with the handshake. */
  uint8_t *ocsp_response;
  size_t ocsp_response_len;
};

/* The connection whose s2n_negotiate runs on this thread. s2n hands its
 * X509_verify_cert no more than the store context, through which nothing of the
 * connection can be reached; a step runs on one thread from beginning to end. */
static _Thread_local struct connection *negotiating;

/* ---- results ---- */

static struct polytls_result status_result(enum polytls_status status) {
  struct polytls_result r = {.status = status, .alert_sent = -1, .alert_received = -1};
  return r;
}

/* Writes a text of at most POLYTLS_ERROR_TEXT_SIZE - 1 bytes. */
__attribute__((format(printf, 2, 3))) static void set_text(char *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, POLYTLS_ERROR_TEXT_SIZE, format, arguments);
  va_end(arguments);
}

static struct polytls_result failure_result(enum polytls_failure failure) {
  struct polytls_result r = status_result(POLYTLS_FAILED);
  r.failure = failure;
  return r;
}

/* s2n's error state is one number per thread; its libcrypto has a queue. Emptying
 * that walks all its places, so it is looked at first. */
static void clear_errors(void) {
  *s2n_errno_location() = 0;
  if (ERR_peek_error() != 0) {
    ERR_clear_error();
  }
}

static int is_error(const char *name) { return strcmp(s2n_strerror_name(*s2n_errno_location()), name) == 0; }

/* Puts s2n's error into text, behind what was being done. */
static struct polytls_result library_failure(char *text, enum polytls_failure failure, const char *doing) {
  int error = *s2n_errno_location();
  set_text(text, "%s: %s", doing, s2n_strerror(error, "EN"));
  struct polytls_result r = failure_result(failure);
  r.code = (uint32_t)error;
  return r;
}

/* ---- the process ---- */

/* s2n locks its memory by default, of which a process may have very little.
 * s2n wipes what it frees. */
static int memory_init(void) { return S2N_SUCCESS; }
static int memory_cleanup(void) { return S2N_SUCCESS; }

static int memory_allocate(void **memory, uint32_t requested, uint32_t *allocated) {
  *memory = malloc(requested);
  if (*memory == NULL) {
    return S2N_FAILURE;
  }
  *allocated = requested;
  return S2N_SUCCESS;
}

static int memory_free(void *memory, uint32_t size) {
  (void)size;
  free(memory);
  return S2N_SUCCESS;
}

/* s2n_init belongs to the process and must run once. */
static pthread_once_t start_once = PTHREAD_ONCE_INIT;
static char start_error[POLYTLS_ERROR_TEXT_SIZE];
static char version_text[128];

static void start(void) {
#ifdef POLYTLS_S2N_LIBCRYPTO
  if (strcmp(polytls_s2n_native_key(), POLYTLS_S2N_KEY) != 0) {
    set_text(start_error, "compiled against the headers of build %s, linked with build %s: build again", POLYTLS_S2N_KEY,
             polytls_s2n_native_key());
    return;
  }
#endif
  /* s2n has no call that tells its version: it is the one of the sources that
   * the archive was made from, as the build noted it under the key above. Its
   * libcrypto tells: "OpenSSL 3.5.7 9 Jun 2026". */
  const char *libcrypto = OpenSSL_version(OPENSSL_VERSION);
  size_t length = strcspn(libcrypto, " ");
  if (libcrypto[length] == ' ') {
    length += 1 + strcspn(libcrypto + length + 1, " ");
  }
  snprintf(version_text, sizeof(version_text), "%s (%.*s)", POLYTLS_S2N_VERSION_STRING, (int)length, libcrypto);

  clear_errors();
  /* At exit other threads may still be inside s2n. */
  if (s2n_disable_atexit() != S2N_SUCCESS ||
      s2n_mem_set_callbacks(memory_init, memory_cleanup, memory_allocate, memory_free) != S2N_SUCCESS ||
      s2n_init() != S2N_SUCCESS) {
    set_text(start_error, "starting s2n-tls: %s", s2n_strerror(*s2n_errno_location(), "EN"));
  }
}

static struct polytls_result library_init(char *error_text) {
  error_text[0] = 0;
  pthread_once(&start_once, start);
  if (start_error[0] != 0) {
    set_text(error_text, "%s", start_error);
    return failure_result(POLYTLS_FAIL_INTERNAL);
  }
  return status_result(POLYTLS_OK);
}

static const char *library_version(void) { return version_text; }

/* ---- policies ---- */

size_t polytls_s2n_policy_count(void) {
#ifdef HAVE_POLICIES
  return polytls_s2n_policies_len;
#else
  return 0;
#endif
}

struct polytls_s2n_policy_row polytls_s2n_policy_at(size_t index) {
  struct polytls_s2n_policy_row row = {0};
#ifdef HAVE_POLICIES
  const struct polytls_s2n_policy *policy = &polytls_s2n_policies[index];
  row.name = policy->name;
  row.min_version = (uint16_t)policy->min_version;
  row.max_version = (uint16_t)policy->max_version;
  row.suites = policy->suites;
  row.suites_len = policy->suites_len;
  row.groups = policy->groups;
  row.groups_len = policy->groups_len;
  row.schemes = policy->schemes;
  row.schemes_len = policy->schemes_len;
  row.cert_schemes = policy->cert_schemes;
  row.cert_schemes_len = policy->cert_schemes_len;
  row.test_only = policy->test_only;
#else
  (void)index;
#endif
  return row;
}

/* ---- PEM, the only form in which s2n takes certificates and keys ---- */

/* Appends a PEM block to *pem, a malloc'ed text of *pem_len bytes and a NUL, or
 * NULL. der stays the caller's. Returns 1, or 0 when memory ran out; *pem is
 * the caller's either way. What *pem held before is wiped when it moves. */
static int pem_append(char **pem, size_t *pem_len, const char *label, const uint8_t *der, size_t der_len) {
  enum { LINE = 48 };
  size_t lines = (der_len + LINE - 1) / LINE;
  size_t need = *pem_len + 2 * strlen(label) + 32 + lines * (LINE / 3 * 4 + 1) + 1;
  char *text = malloc(need);
  if (text == NULL) {
    return 0;
  }
  if (*pem != NULL) {
    memcpy(text, *pem, *pem_len);
    OPENSSL_cleanse(*pem, *pem_len);
    free(*pem);
  }
  char *p = text + *pem_len;
  p += sprintf(p, "-----BEGIN %s-----\n", label);
  for (size_t at = 0; at < der_len; at += LINE) {
    size_t n = der_len - at < LINE ? der_len - at : LINE;
    p += EVP_EncodeBlock((unsigned char *)p, der + at, (int)n);
    *p++ = '\n';
  }
  p += sprintf(p, "-----END %s-----\n", label);
  *pem = text;
  *pem_len = (size_t)(p - text);
  return 1;
}

static void pem_free(char *pem, size_t pem_len) {
  if (pem != NULL) {
    OPENSSL_cleanse(pem, pem_len);
    free(pem);
  }
}

/* Parses one certificate that fills der exactly. The caller frees it; NULL when
 * it is none. */
static X509 *parse_certificate(const uint8_t *der, size_t len) {
  if (len > INT32_MAX) {
    return NULL;
  }
  const uint8_t *p = der;
  X509 *certificate = d2i_X509(NULL, &p, (long)len);
  if (certificate != NULL && p != der + len) {
    X509_free(certificate);
    return NULL;
  }
  return certificate;
}

/* ---- contexts ---- */

static struct polytls_result config_error(struct context *ctx, enum polytls_failure failure, const char *text) {
  set_text(ctx->base.error_text, "%s", text);
  return failure_result(failure);
}

static struct polytls_result config_result(struct context *ctx, int result, const char *doing) {
  if (result == S2N_SUCCESS) {
    return status_result(POLYTLS_OK);
  }
  return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, doing);
}

static void psk_free(struct psk *psk) {
  free(psk->identity);
  if (psk->s2n != NULL) {
    (void)s2n_psk_free(&psk->s2n);
  }
}

static void ticket_keys_free(struct context *ctx) {
  if (ctx->ticket_keys != NULL) {
    OPENSSL_cleanse(ctx->ticket_keys, ctx->ticket_keys_len);
    free(ctx->ticket_keys);
  }
  ctx->ticket_keys = NULL;
  ctx->ticket_keys_len = 0;
}

static void context_free(struct context *ctx) {
  if (ctx == NULL || atomic_fetch_sub(&ctx->references, 1) != 1) {
    return;
  }
  if (ctx->config != NULL) {
    s2n_config_free(ctx->config);
  }
  if (ctx->without_tickets != NULL) {
    s2n_config_free(ctx->without_tickets);
  }
  for (size_t i = 0; i < ctx->certificate_count; i++) {
    s2n_cert_chain_and_key_free(ctx->certificates[i].chain);
  }
  for (size_t i = 0; i < ctx->psk_count; i++) {
    psk_free(&ctx->psks[i]);
  }
  free(ctx->psks);
  ticket_keys_free(ctx);
  sk_X509_CRL_pop_free(ctx->crls, X509_CRL_free);
  free(ctx->alpn);
  free(ctx);
}

static void ctx_free(struct polytls_ctx *ctx) { context_free((struct context *)ctx); }

static struct polytls_result ctx_new(enum polytls_role role, struct polytls_ctx **out) {
  clear_errors();
  *out = NULL;
  struct context *ctx = calloc(1, sizeof(*ctx));
  if (ctx == NULL) {
    return failure_result(POLYTLS_FAIL_INTERNAL);
  }
  atomic_init(&ctx->references, 1);
  ctx->role = role;
  ctx->verify_mode = role == POLYTLS_CLIENT ? POLYTLS_VERIFY_REQUIRE_AND_VERIFY : POLYTLS_VERIFY_NONE;
#ifdef HAVE_S2N_CONFIG_NEW_MINIMAL
  ctx->config = s2n_config_new_minimal();
#else
  ctx->config = s2n_config_new();
#endif
  /* s2n_config_new trusts the system's roots: for servers, too. Anchors are
   * those of the options and no others. */
  if (ctx->config == NULL || s2n_config_wipe_trust_store(ctx->config) != S2N_SUCCESS ||
      s2n_config_set_max_cert_chain_depth(ctx->config, MAX_CHAIN_DEPTH) != S2N_SUCCESS ||
      /* Warnings of TLS 1.2 servers (unrecognized_name above all) end no
       * connection with the other libraries. */
      s2n_config_set_alert_behavior(ctx->config, S2N_ALERT_IGNORE_WARNINGS) != S2N_SUCCESS ||
      /* A stapled response is handed over, as with the other libraries: s2n's
       * own check would refuse the connection for responders that it cannot
       * verify, and knows SHA-1 only. */
      s2n_config_set_check_stapled_ocsp_response(ctx->config, 0) != S2N_SUCCESS) {
    struct polytls_result r = failure_result(POLYTLS_FAIL_INTERNAL);
    r.code = (uint32_t)*s2n_errno_location();
    context_free(ctx);
    return r;
  }
  *out = &ctx->base;
  return status_result(POLYTLS_OK);
}

static struct polytls_result set_security_policy(struct context *ctx, const uint8_t *data, size_t len) {
  char name[MAX_POLICY_NAME];
  if (len == 0 || len >= sizeof(name) || memchr(data, 0, len) != NULL) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "this is no name of a security policy");
  }
  memcpy(name, data, len);
  name[len] = 0;
  /* Go has chosen it from this table; nothing else gets through, since s2n
   * itself would take policies for tests and for SSL 3. */
  for (size_t i = 0; i < polytls_s2n_policy_count(); i++) {
    struct polytls_s2n_policy_row row = polytls_s2n_policy_at(i);
    if (strcmp(row.name, name) != 0) {
      continue;
    }
    if (row.test_only || row.min_version < 0x0303) {
      set_text(ctx->base.error_text, "security policy %s is for tests or allows less than TLS 1.2", name);
      return failure_result(POLYTLS_FAIL_CONFIG);
    }
    ctx->policy = row;
    return config_result(ctx, s2n_config_set_cipher_preferences(ctx->config, name), "setting the security policy");
  }
  set_text(ctx->base.error_text, "there is no security policy %s", name);
  return failure_result(POLYTLS_FAIL_CONFIG);
}

/* Calls visit for each protocol of an ALPN list in wire form until it returns
 * other than 0, and returns that. Returns -1 for a malformed list. */
static int alpn_each(const uint8_t *list, size_t len, int (*visit)(void *, const uint8_t *, uint8_t), void *argument) {
  while (len > 0) {
    uint8_t n = list[0];
    if (n == 0 || n > len - 1) {
      return -1;
    }
    int r = visit(argument, list + 1, n);
    if (r != 0) {
      return r;
    }
    list += 1 + n;
    len -= 1 + (size_t)n;
  }
  return 0;
}

static int alpn_append(void *config, const uint8_t *protocol, uint8_t len) {
  /* s2n keeps the one that was selected as a C string, and takes a list with
   * one name of one byte for malformed: its clients would silently go on
   * without what the server selected. */
  if (len == 1 || memchr(protocol, 0, len) != NULL) {
    return 2;
  }
  return s2n_config_append_protocol_preference(config, protocol, len) == S2N_SUCCESS ? 0 : 3;
}

static struct polytls_result set_alpn(struct context *ctx, const uint8_t *data, size_t len) {
  switch (alpn_each(data, len, alpn_append, ctx->config)) {
    case 0:
      break;
    case -1:
      return config_error(ctx, POLYTLS_FAIL_CONFIG, "the list of protocols is malformed");
    case 2:
      return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "s2n-tls cannot negotiate protocols whose name has one byte only or a NUL byte in it");
    default:
      return library_failure(ctx->base.error_text, POLYTLS_FAIL_CONFIG, "setting the protocols");
  }
  ctx->alpn = malloc(len + 1);
  if (ctx->alpn == NULL) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  memcpy(ctx->alpn, data, len);
  ctx->alpn_len = len;
  return status_result(POLYTLS_OK);
}

static struct polytls_result add_trust_anchor(struct context *ctx, const uint8_t *data, size_t len) {
  X509 *certificate = parse_certificate(data, len);
  if (certificate == NULL) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "a trust anchor is no DER certificate");
  }
  X509_free(certificate);
  char *pem = NULL;
  size_t pem_len = 0;
  if (!pem_append(&pem, &pem_len, "CERTIFICATE", data, len)) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  struct polytls_result r = config_result(ctx, s2n_config_add_pem_to_trust_store(ctx->config, pem), "adding a trust anchor");
  free(pem);
  if (r.status == POLYTLS_OK) {
    ctx->anchors = 1;
  }
  return r;
}

/* Parses a PKCS #8 key that fills der exactly. The caller frees it; NULL when
 * it is none. */
static EVP_PKEY *parse_key(const uint8_t *der, size_t len) {
  if (len > INT32_MAX) {
    return NULL;
  }
  const uint8_t *p = der;
  PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, (long)len);
  EVP_PKEY *key = info != NULL && p == der + len ? EVP_PKCS82PKEY(info) : NULL;
  PKCS8_PRIV_KEY_INFO_free(info);
  return key;
}

/* Returns the named curve of an EC certificate's key, NID_undef for another. */
static int certificate_curve(X509 *certificate) {
  X509_ALGOR *algorithm = NULL;
  const ASN1_OBJECT *object = NULL;
  const void *parameter = NULL;
  int type = 0;
  if (!X509_PUBKEY_get0_param(NULL, NULL, NULL, &algorithm, X509_get_X509_PUBKEY(certificate))) {
    return NID_undef;
  }
  X509_ALGOR_get0(&object, &type, &parameter, algorithm);
  return type == V_ASN1_OBJECT ? OBJ_obj2nid(parameter) : NID_undef;
}

/* Says why s2n cannot use a private key with its certificate, or NULL. *failure
 * is the kind then. */
static const char *key_problem(EVP_PKEY *key, X509 *leaf, enum polytls_failure *failure) {
  *failure = POLYTLS_FAIL_UNSUPPORTED;
  switch (EVP_PKEY_id(key)) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
      *failure = POLYTLS_FAIL_CONFIG;
      return EVP_PKEY_bits(key) < POLYTLS_MIN_RSA_BITS ? "the RSA key has fewer than 2048 bits" : NULL;
    case EVP_PKEY_EC:
      switch (certificate_curve(leaf)) {
        case NID_X9_62_prime256v1:
        case NID_secp384r1:
          return NULL;
        default:
          /* s2n takes P-521, but none of its policies for general use has a
           * signature scheme of TLS 1.3 for it: handshakes would fail there. */
          return "s2n-tls has ECDSA keys on P-256 and P-384 only";
      }
    case EVP_PKEY_ED25519:
      return "s2n-tls has no Ed25519 keys; use ECDSA or RSA";
    default:
      return "s2n-tls has RSA and ECDSA keys only";
  }
}

/* Reads a big-endian length and that many bytes from *p. Returns the bytes and
 * moves *p and *len on; NULL when there are too few. */
static const uint8_t *read_field(const uint8_t **p, size_t *len, size_t *field_len) {
  if (*len < 4) {
    return NULL;
  }
  size_t n = (size_t)(*p)[0] << 24 | (size_t)(*p)[1] << 16 | (size_t)(*p)[2] << 8 | (*p)[3];
  if (n > *len - 4) {
    return NULL;
  }
  const uint8_t *field = *p + 4;
  *p += 4 + n;
  *len -= 4 + n;
  *field_len = n;
  return field;
}

static struct polytls_result add_certificate(struct context *ctx, const uint8_t *data, size_t len) {
  struct polytls_result r = status_result(POLYTLS_OK);
  char *key_pem = NULL, *chain_pem = NULL;
  size_t key_pem_len = 0, chain_pem_len = 0, field_len = 0;
  EVP_PKEY *key = NULL, *public_key = NULL;
  X509 *leaf = NULL;
  struct s2n_cert_chain_and_key *chain = NULL;
  enum polytls_failure failure = POLYTLS_FAIL_CONFIG;
  const char *problem = NULL;

  const uint8_t *field = read_field(&data, &len, &field_len);
  int external = field != NULL && field_len == 0;
  key = field == NULL || external ? NULL : parse_key(field, field_len);
  if (key == NULL && !external) {
    r = config_error(ctx, POLYTLS_FAIL_CONFIG, "the private key is no PKCS #8 key, or of an unknown type");
    goto out;
  }
  if (!external && !pem_append(&key_pem, &key_pem_len, "PRIVATE KEY", field, field_len)) {
    r = config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
    goto out;
  }
  for (int i = 0; len > 0; i++) {
    field = read_field(&data, &len, &field_len);
    X509 *certificate = field == NULL ? NULL : parse_certificate(field, field_len);
    if (certificate == NULL) {
      set_text(ctx->base.error_text, "certificate %d of the chain does not parse", i + 1);
      r = failure_result(POLYTLS_FAIL_CONFIG);
      goto out;
    }
    if (i == 0) {
      leaf = certificate;
    } else {
      X509_free(certificate);
    }
    if (!pem_append(&chain_pem, &chain_pem_len, "CERTIFICATE", field, field_len)) {
      r = config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
      goto out;
    }
  }
  if (leaf == NULL) {
    r = config_error(ctx, POLYTLS_FAIL_CONFIG, "there is no certificate with the private key");
    goto out;
  }
  if (!external && X509_check_private_key(leaf, key) != 1) {
    r = config_error(ctx, POLYTLS_FAIL_CONFIG, "the private key does not belong to the certificate");
    goto out;
  }
  public_key = X509_get_pubkey(leaf);
  if (public_key == NULL) {
    r = config_error(ctx, POLYTLS_FAIL_CONFIG, "the certificate's key is of an unknown type");
    goto out;
  }
  problem = key_problem(public_key, leaf, &failure);
  if (problem != NULL) {
    r = config_error(ctx, failure, problem);
    goto out;
  }
  int key_type = EVP_PKEY_id(public_key);
  for (size_t i = 0; i < ctx->certificate_count; i++) {
    if (ctx->role == POLYTLS_CLIENT) {
      r = config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "s2n-tls clients have one certificate");
      goto out;
    }
    if (ctx->certificates[i].key_type == key_type) {
      r = config_error(ctx, POLYTLS_FAIL_CONFIG, "there are two certificates with keys of the same type");
      goto out;
    }
  }
  if (key_pem_len > UINT32_MAX || chain_pem_len > UINT32_MAX || ctx->certificate_count == MAX_CERTIFICATES) {
    r = config_error(ctx, POLYTLS_FAIL_CONFIG, "the certificates are too many or too large");
    goto out;
  }
  chain = s2n_cert_chain_and_key_new();
  if (chain == NULL ||
      (external ? s2n_cert_chain_and_key_load_public_pem_bytes(chain, (uint8_t *)chain_pem, (uint32_t)chain_pem_len)
                : s2n_cert_chain_and_key_load_pem_bytes(chain, (uint8_t *)chain_pem, (uint32_t)chain_pem_len,
                                                        (uint8_t *)key_pem, (uint32_t)key_pem_len)) != S2N_SUCCESS) {
    r = library_failure(ctx->base.error_text, POLYTLS_FAIL_CONFIG, "loading the certificate");
    goto out;
  }
  if (s2n_config_add_cert_chain_and_key_to_store(ctx->config, chain) != S2N_SUCCESS) {
    r = library_failure(ctx->base.error_text, POLYTLS_FAIL_CONFIG, "adding the certificate");
    goto out;
  }
  ctx->certificates[ctx->certificate_count++] = (struct certificate){chain, key_type, external};
  chain = NULL;

out:
  if (chain != NULL) {
    s2n_cert_chain_and_key_free(chain);
  }
  X509_free(leaf);
  EVP_PKEY_free(key);
  EVP_PKEY_free(public_key);
  pem_free(key_pem, key_pem_len);
  pem_free(chain_pem, chain_pem_len);
  return r;
}

static struct polytls_result set_verify_mode(struct context *ctx, const uint8_t *data, size_t len) {
  if (len != 1 || data[0] > POLYTLS_VERIFY_REQUIRE_AND_VERIFY ||
      (ctx->role == POLYTLS_CLIENT && data[0] != POLYTLS_VERIFY_NONE && data[0] != POLYTLS_VERIFY_REQUIRE_AND_VERIFY)) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "unknown mode of verification");
  }
  ctx->verify_mode = (enum polytls_verify_mode)data[0];
  return status_result(POLYTLS_OK);
}

static struct polytls_result set_switch(struct context *ctx, const uint8_t *data, size_t len, int *value) {
  if (len != 1 || data[0] > 1) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "a switch is 0 or 1");
  }
  *value = data[0];
  return status_result(POLYTLS_OK);
}

/* Makes the PSK. */
static struct polytls_result add_psk(struct context *ctx, const uint8_t *data, size_t len) {
  size_t identity_len = len < 6 ? 0 : (size_t)data[2] << 8 | data[3];
  if (identity_len == 0 || identity_len >= len - 6 || data[1] > POLYTLS_PSK_SHA384) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "the PSK is malformed");
  }
  /* Only imported PSKs have a context. */
  if (data[0] != POLYTLS_PSK_EXTERNAL) {
    return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "s2n-tls has external PSKs of TLS 1.3 only");
  }
  const uint8_t *identity = data + 4, *secret = identity + identity_len + 2;
  size_t secret_len = len - 6 - identity_len;
  if (secret_len > UINT16_MAX) {
    return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "the secret of a PSK can have 65535 bytes at most");
  }
  struct psk *psks = realloc(ctx->psks, (ctx->psk_count + 1) * sizeof(*psks));
  if (psks == NULL) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  ctx->psks = psks;
  struct psk psk = {(enum polytls_psk_hash)data[1], malloc(identity_len), identity_len, s2n_external_psk_new()};
  if (psk.identity == NULL || psk.s2n == NULL ||
      s2n_psk_set_identity(psk.s2n, identity, (uint16_t)identity_len) != S2N_SUCCESS ||
      s2n_psk_set_secret(psk.s2n, secret, (uint16_t)secret_len) != S2N_SUCCESS ||
      s2n_psk_set_hmac(psk.s2n, psk.hash == POLYTLS_PSK_SHA384 ? S2N_PSK_HMAC_SHA384 : S2N_PSK_HMAC_SHA256) != S2N_SUCCESS) {
    psk_free(&psk);
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "making the PSK");
  }
  memcpy(psk.identity, identity, identity_len);
  psks[ctx->psk_count++] = psk;
  return status_result(POLYTLS_OK);
}

/* Keeps the key until ctx_finish. */
static struct polytls_result add_ticket_key(struct context *ctx, const uint8_t *data, size_t len) {
  if (len != POLYTLS_TICKET_KEY_SIZE) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "the ticket key is malformed");
  }
  if (ctx->ticket_keys_len / POLYTLS_TICKET_KEY_SIZE == MAX_TICKET_KEYS) {
    return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "s2n-tls keeps 48 ticket keys at most");
  }
  uint8_t *keys = malloc(ctx->ticket_keys_len + len);
  if (keys == NULL) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  size_t used = ctx->ticket_keys_len;
  if (used > 0) {
    memcpy(keys, ctx->ticket_keys, used);
  }
  memcpy(keys + used, data, len);
  ticket_keys_free(ctx);
  ctx->ticket_keys = keys;
  ctx->ticket_keys_len = used + len;
  return status_result(POLYTLS_OK);
}

/* Staples a response to the last certificate. */
static struct polytls_result set_ocsp_response(struct context *ctx, const uint8_t *data, size_t len) {
  if (ctx->certificate_count == 0 || len == 0 || len > UINT32_MAX) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "there is no certificate to staple the OCSP response to, or it is empty");
  }
  return config_result(ctx,
                       s2n_cert_chain_and_key_set_ocsp_data(ctx->certificates[ctx->certificate_count - 1].chain, data,
                                                            (uint32_t)len),
                       "setting the OCSP response");
}

static struct polytls_result add_revocation_list(struct context *ctx, const uint8_t *data, size_t len) {
  switch (polytls_revocation_add(&ctx->crls, data, len)) {
    case 1:
      return status_result(POLYTLS_OK);
    case 0:
      return config_error(ctx, POLYTLS_FAIL_INTERNAL, "out of memory");
    default:
      return config_error(ctx, POLYTLS_FAIL_CONFIG, "a revocation list is no DER CRL");
  }
}

static int key_log(void *unused, struct s2n_connection *s2n, uint8_t *line, size_t len) {
  (void)unused;
  struct connection *conn = s2n_connection_get_ctx(s2n);
  return conn != NULL && polytls_conn_key_log_append(&conn->base, line, len) ? S2N_SUCCESS : S2N_FAILURE;
}

static struct polytls_result ctx_set(struct polytls_ctx *base, int option, const uint8_t *data, size_t len) {
  clear_errors();
  struct context *ctx = (struct context *)base;
  ctx->base.error_text[0] = 0;
  if (ctx->finished) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "the context is finished");
  }
  int repeats = option == POLYTLS_SET_TRUST_ANCHOR || option == POLYTLS_SET_CERTIFICATE ||
                option == POLYTLS_SET_CA_NAME || option == POLYTLS_SET_PSK || option == POLYTLS_SET_TICKET_KEY ||
                option == POLYTLS_SET_OCSP_RESPONSE || option == POLYTLS_SET_REVOCATION_LIST;
  if (option > 0 && option < 32) {
    if (!repeats && (ctx->options_set & (1u << option))) {
      return config_error(ctx, POLYTLS_FAIL_CONFIG, "the option is set twice");
    }
    ctx->options_set |= 1u << option;
  }
  int logs_keys = 0;
  switch (option) {
    case POLYTLS_SET_KEY_LOG: {
      struct polytls_result r = set_switch(ctx, data, len, &logs_keys);
      return logs_keys ? config_result(ctx, s2n_config_set_key_log_cb(ctx->config, key_log, NULL), "setting the key log") : r;
    }
    case POLYTLS_SET_MIN_VERSION:
    case POLYTLS_SET_MAX_VERSION:
    case POLYTLS_SET_CIPHER_SUITES:
    case POLYTLS_SET_GROUPS:
    case POLYTLS_SET_KEY_SHARES:
    case POLYTLS_SET_SIGNATURE_SCHEMES:
      return config_error(ctx, POLYTLS_FAIL_CONFIG, "s2n-tls is configured by security policies only");
    case POLYTLS_SET_SECURITY_POLICY:
      return set_security_policy(ctx, data, len);
    case POLYTLS_SET_ALPN:
      return set_alpn(ctx, data, len);
    case POLYTLS_SET_ALPN_STRICT:
      return set_switch(ctx, data, len, &ctx->alpn_strict);
    case POLYTLS_SET_TRUST_ANCHOR:
      return add_trust_anchor(ctx, data, len);
    case POLYTLS_SET_VERIFY_MODE:
      return set_verify_mode(ctx, data, len);
    case POLYTLS_SET_CERTIFICATE:
      return add_certificate(ctx, data, len);
    case POLYTLS_SET_SESSION_TICKETS:
      return set_switch(ctx, data, len, &ctx->tickets);
    case POLYTLS_SET_TICKET_KEY:
      return add_ticket_key(ctx, data, len);
    case POLYTLS_SET_PSK:
      return add_psk(ctx, data, len);
    case POLYTLS_SET_REQUIRE_PSK:
      return set_switch(ctx, data, len, &ctx->require_psk);
    case POLYTLS_SET_OCSP_RESPONSE:
      return set_ocsp_response(ctx, data, len);
    case POLYTLS_SET_REVOCATION_LIST:
      return add_revocation_list(ctx, data, len);
    case POLYTLS_SET_CA_NAME:
      return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED, "s2n-tls cannot send the names of CAs in a CertificateRequest");
    default:
      return config_error(ctx, POLYTLS_FAIL_INTERNAL, "unknown option");
  }
}

static int on_client_hello(struct s2n_connection *s2n, void *unused);
static int on_psks_offered(struct s2n_connection *s2n, void *unused, struct s2n_offered_psk_list *offered);
static int on_ticket(struct s2n_connection *s2n, void *unused, struct s2n_session_ticket *ticket);
static int on_tickets_offered(struct s2n_connection *s2n, void *unused, struct s2n_offered_psk_list *offered);
static int on_private_key(struct s2n_connection *s2n, struct s2n_async_pkey_op *operation);

static int suite_has_hash(uint16_t suite, enum polytls_psk_hash hash) {
  return suite >> 8 == 0x13 && (suite == SUITE_AES_256_GCM_SHA384) == (hash == POLYTLS_PSK_SHA384);
}

static int policy_has_hash(const struct context *ctx, enum polytls_psk_hash hash) {
  for (size_t i = 0; i < ctx->policy.suites_len; i++) {
    if (suite_has_hash(ctx->policy.suites[i], hash)) {
      return 1;
    }
  }
  return 0;
}

/* Gives a new connection the context's PSKs. */
static int append_psks(const struct context *ctx, struct s2n_connection *s2n) {
  for (size_t i = 0; i < ctx->psk_count; i++) {
    if (s2n_connection_append_psk(s2n, ctx->psks[i].s2n) != S2N_SUCCESS) {
      return S2N_FAILURE;
    }
  }
  return S2N_SUCCESS;
}

static struct polytls_result about(int option, struct polytls_result r) {
  r.n = (size_t)option;
  return r;
}

static struct polytls_result finish_psks(struct context *ctx) {
  if (ctx->psk_count == 0) {
    return ctx->require_psk ? config_error(ctx, POLYTLS_FAIL_CONFIG, "there is no PSK to be required")
                            : status_result(POLYTLS_OK);
  }
  if (ctx->policy.max_version < 0x0304) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "external PSKs need TLS 1.3, which is not enabled");
  }
  for (size_t i = 0; i < ctx->psk_count; i++) {
    if (!policy_has_hash(ctx, ctx->psks[i].hash)) {
      set_text(ctx->base.error_text, "PSK %zu has the hash %s, but no enabled cipher suite of TLS 1.3 has it", i + 1,
               ctx->psks[i].hash == POLYTLS_PSK_SHA384 ? "sha384" : "sha256");
      return failure_result(POLYTLS_FAIL_CONFIG);
    }
    if (ctx->role == POLYTLS_CLIENT && ctx->psks[i].hash != ctx->psks[0].hash) {
      /* After a HelloRetryRequest it offers those of one hash, and takes the
       * server's answer for a place in the list of all. */
      return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED,
                          "s2n-tls clients lose count of PSKs of two hashes when the server asks for another key share");
    }
  }
  /* What s2n checks per connection is known here already. */
  struct s2n_connection *trial = s2n_connection_new(ctx->role == POLYTLS_CLIENT ? S2N_CLIENT : S2N_SERVER);
  struct polytls_result r = status_result(POLYTLS_OK);
  if (trial == NULL || append_psks(ctx, trial) != S2N_SUCCESS) {
    r = library_failure(ctx->base.error_text,
                        is_error("S2N_ERR_OFFERED_PSKS_TOO_LONG") ? POLYTLS_FAIL_UNSUPPORTED : POLYTLS_FAIL_CONFIG,
                        "setting the PSKs");
  } else if (s2n_config_set_psk_mode(ctx->config, S2N_PSK_MODE_EXTERNAL) != S2N_SUCCESS ||
             (ctx->role == POLYTLS_SERVER &&
              s2n_config_set_psk_selection_callback(ctx->config, on_psks_offered, NULL) != S2N_SUCCESS)) {
    r = library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "setting the PSKs");
  }
  if (trial != NULL) {
    (void)s2n_connection_free(trial);
  }
  return r;
}

/* The present time in seconds, as s2n's clock tells it. */
static uint64_t now_seconds(void) {
  time_t now = time(NULL);
  return now > 0 ? (uint64_t)now : 0;
}

static struct polytls_result finish_tickets(struct context *ctx) {
  /* s2n excludes tickets in its mode of external PSKs, and its tickets keep
   * nothing of a client's certificate: with either there are none. */
  ctx->tickets = ctx->tickets && ctx->psk_count == 0 &&
                 (ctx->role == POLYTLS_CLIENT || (ctx->verify_mode == POLYTLS_VERIFY_NONE && ctx->ticket_keys_len > 0));
  if (s2n_config_set_session_tickets_onoff(ctx->config, (uint8_t)ctx->tickets) != S2N_SUCCESS ||
      s2n_config_set_session_cache_onoff(ctx->config, 0) != S2N_SUCCESS) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "setting session tickets");
  }
  if (!ctx->tickets) {
    return status_result(POLYTLS_OK);
  }
  if (ctx->role == POLYTLS_CLIENT) {
    return config_result(ctx, s2n_config_set_session_ticket_cb(ctx->config, on_ticket, NULL), "setting session tickets");
  }
  if (s2n_config_set_ticket_encrypt_decrypt_key_lifetime(ctx->config, TICKET_KEY_ENCRYPTS) != S2N_SUCCESS ||
      s2n_config_set_ticket_decrypt_key_lifetime(ctx->config, TICKET_KEY_DECRYPTS) != S2N_SUCCESS) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "setting the ticket keys' lifetime");
  }
  uint64_t now = now_seconds();
  if (now < TICKET_KEY_ENCRYPTS + 2 * SECONDS_A_DAY) {
    return config_error(ctx, POLYTLS_FAIL_INTERNAL, "the clock tells a time before 1990, in which ticket keys have no place");
  }
  for (size_t at = 0; at < ctx->ticket_keys_len; at += POLYTLS_TICKET_KEY_SIZE) {
    uint8_t *key = ctx->ticket_keys + at;
    uint64_t introduced = now - SECONDS_A_DAY - (at == 0 ? 0 : TICKET_KEY_ENCRYPTS);
    if (s2n_config_add_ticket_crypto_key(ctx->config, key, TICKET_KEY_NAME_SIZE, key + TICKET_KEY_NAME_SIZE,
                                         POLYTLS_TICKET_KEY_SIZE - TICKET_KEY_NAME_SIZE, introduced) != S2N_SUCCESS) {
      return library_failure(ctx->base.error_text, POLYTLS_FAIL_CONFIG, "adding a ticket key");
    }
  }
  if (ctx->ticket_keys_len > POLYTLS_TICKET_KEY_SIZE && ctx->policy.max_version >= 0x0304) {
    ctx->without_tickets = s2n_config_new();
    if (ctx->without_tickets == NULL || s2n_config_wipe_trust_store(ctx->without_tickets) != S2N_SUCCESS ||
        s2n_config_set_psk_selection_callback(ctx->config, on_tickets_offered, NULL) != S2N_SUCCESS) {
      return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "setting older ticket keys");
    }
  }
  return status_result(POLYTLS_OK);
}

static int suite_signs(uint16_t suite);

/* s2n asks one callback for all private keys as soon as there is one. */
static struct polytls_result finish_signers(struct context *ctx) {
  int external = 0, external_rsa = 0;
  for (size_t i = 0; i < ctx->certificate_count; i++) {
    external = external || ctx->certificates[i].external;
    external_rsa = external_rsa || (ctx->certificates[i].external && ctx->certificates[i].key_type == EVP_PKEY_RSA);
  }
  if (!external) {
    return status_result(POLYTLS_OK);
  }
  for (size_t i = 0; ctx->role == POLYTLS_SERVER && external_rsa && i < ctx->policy.suites_len; i++) {
    if (!suite_signs(ctx->policy.suites[i])) {
      return config_error(ctx, POLYTLS_FAIL_UNSUPPORTED,
                          "the security policy has suites with RSA key exchange, which an external signer cannot decrypt");
    }
  }
  if (s2n_config_set_async_pkey_callback(ctx->config, on_private_key) != S2N_SUCCESS ||
      /* A signature that does not fit the certificate ends the handshake here
       * and not at the peer. */
      s2n_config_set_async_pkey_validation_mode(ctx->config, S2N_ASYNC_PKEY_VALIDATION_STRICT) != S2N_SUCCESS) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "setting the external signer");
  }
  return status_result(POLYTLS_OK);
}

static struct polytls_result ctx_finish(struct polytls_ctx *base) {
  clear_errors();
  struct context *ctx = (struct context *)base;
  ctx->base.error_text[0] = 0;
  if (!(ctx->options_set & (1u << POLYTLS_SET_SECURITY_POLICY))) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "a security policy is needed: s2n's default allows TLS 1.0");
  }
  static const struct {
    struct polytls_result (*finish)(struct context *);
    int option;
  } parts[] = {
      {finish_psks, POLYTLS_SET_PSK},
      {finish_tickets, POLYTLS_SET_TICKET_KEY},
      {finish_signers, POLYTLS_SET_CERTIFICATE},
  };
  for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
    struct polytls_result r = parts[i].finish(ctx);
    if (r.status != POLYTLS_OK) {
      return about(parts[i].option, r);
    }
  }
  ticket_keys_free(ctx);
  if (ctx->role == POLYTLS_SERVER && ctx->certificate_count == 0 && ctx->psk_count == 0) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "a server needs a certificate");
  }
  if (ctx->alpn_strict && (ctx->role == POLYTLS_CLIENT || ctx->alpn_len == 0)) {
    return config_error(ctx, POLYTLS_FAIL_CONFIG, "strict ALPN needs a server's list of protocols");
  }
  /* A client must say "optional" to answer requests for a certificate, with an
   * empty one if need be; "required" would refuse servers that do not ask. */
  s2n_cert_auth_type auth = S2N_CERT_AUTH_OPTIONAL;
  if (ctx->role == POLYTLS_SERVER) {
    switch (ctx->verify_mode) {
      case POLYTLS_VERIFY_NONE:
        auth = S2N_CERT_AUTH_NONE;
        break;
      case POLYTLS_VERIFY_REQUEST:
      case POLYTLS_VERIFY_IF_GIVEN:
        auth = S2N_CERT_AUTH_OPTIONAL;
        break;
      case POLYTLS_VERIFY_REQUIRE_ANY:
      case POLYTLS_VERIFY_REQUIRE_AND_VERIFY:
        auth = S2N_CERT_AUTH_REQUIRED;
        break;
    }
  }
  if (s2n_config_set_client_auth_type(ctx->config, auth) != S2N_SUCCESS) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "configuring");
  }
  /* With a libcrypto without OCSP s2n cannot ask, and there is no response to
   * hand over. */
  if (ctx->role == POLYTLS_CLIENT && s2n_config_set_status_request_type(ctx->config, S2N_STATUS_REQUEST_OCSP) != S2N_SUCCESS &&
      !is_error("S2N_ERR_OCSP_NOT_SUPPORTED")) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "asking for OCSP responses");
  }
  if (ctx->role == POLYTLS_SERVER && s2n_config_set_client_hello_cb(ctx->config, on_client_hello, NULL) != S2N_SUCCESS) {
    return library_failure(ctx->base.error_text, POLYTLS_FAIL_INTERNAL, "configuring");
  }
  if (!ctx->anchors) {
    /* The modes that do not verify hand over the peer's chain, too, and those
     * that verify with no anchor refuse it with the chain known; but without a
     * trust store s2n refuses before it parses. A text without a certificate
     * makes it an empty store, and an error that is meant. Were there none
     * after all, s2n would refuse every peer. */
    (void)s2n_config_add_pem_to_trust_store(ctx->config, "");
    clear_errors();
  }
  ctx->finished = 1;
  return status_result(POLYTLS_OK);
}

/* ---- verification ---- */

int polytls_s2n_x509_verify_cert(X509_STORE_CTX *store_ctx);

static uint16_t negotiated_suite(struct connection *conn);

/* Whether the leaf's key is what the cipher suite asks the server for, which
 * those of TLS 1.3 do not. s2n would refuse it as well, but only after the
 * certificate was accepted, and this version loses the key then. */
static int key_fits_suite(struct connection *conn, X509_STORE_CTX *store_ctx) {
  /* ECDHE_ECDSA: with CBC, GCM and ChaCha20-Poly1305. */
  static const uint16_t ecdsa[] = {0xc009, 0xc00a, 0xc023, 0xc024, 0xc02b, 0xc02c, 0xcca9};
  uint16_t suite = negotiated_suite(conn);
  X509 *leaf = X509_STORE_CTX_get0_cert(store_ctx);
  EVP_PKEY *key = leaf == NULL ? NULL : X509_get0_pubkey(leaf);
  if (suite >> 8 == 0x13 || key == NULL) {
    return 1;
  }
  int for_ecdsa = 0;
  for (size_t i = 0; i < sizeof(ecdsa) / sizeof(ecdsa[0]); i++) {
    for_ecdsa |= suite == ecdsa[i];
  }
  return for_ecdsa == (EVP_PKEY_id(key) == EVP_PKEY_EC);
}

/* s2n calls this where it says X509_verify_cert, its host check being off. The
 * store context holds the context's anchors and the peer's chain, unverified;
 * s2n has set its depth and the present time there, which stay. Returns 1 for
 * accepted, 0 for refused. */
int polytls_s2n_x509_verify_cert(X509_STORE_CTX *store_ctx) {
  struct connection *conn = negotiating;
  if (conn == NULL || conn->verification != NOT_VERIFIED) {
    X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
  }
  conn->verification = REFUSED;
  int client = conn->ctx->role == POLYTLS_CLIENT;
  if (client && conn->ctx->require_psk) {
    /* Whatever the certificate is: it stands where the PSK should. */
    conn->psk_bypassed = 1;
    X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
  }
  int accepted = 0;
  switch (conn->ctx->verify_mode) {
    case POLYTLS_VERIFY_IF_GIVEN:
    case POLYTLS_VERIFY_REQUIRE_AND_VERIFY:
      accepted = polytls_verify(store_ctx, client ? POLYTLS_SERVER : POLYTLS_CLIENT, client ? &conn->names : NULL,
                                conn->ctx->crls, &conn->outcome) == 1;
      break;
    case POLYTLS_VERIFY_NONE:
      if (!client) {
        break; /* A server that asks for none has none to accept. */
      }
      /* fall through */
    case POLYTLS_VERIFY_REQUEST:
    case POLYTLS_VERIFY_REQUIRE_ANY:
      conn->outcome.sent = polytls_chain_sent(store_ctx);
      accepted = conn->outcome.sent != NULL;
      break;
  }
  if (accepted && client && !key_fits_suite(conn, store_ctx)) {
    conn->wrong_key_type = 1;
    accepted = 0;
  }
  if (accepted) {
    conn->verification = ACCEPTED;
    X509_STORE_CTX_set_error(store_ctx, X509_V_OK);
    return 1;
  }
  if (conn->outcome.code == POLYTLS_VERIFY_OK) {
    conn->outcome.code = POLYTLS_VERIFY_OTHER;
  }
  if (X509_STORE_CTX_get_error(store_ctx) == X509_V_OK) {
    X509_STORE_CTX_set_error(store_ctx, X509_V_ERR_APPLICATION_VERIFICATION);
  }
  return 0;
}

/* ---- connections ---- */

static uint16_t negotiated_version(struct connection *conn);

/* Returns how many of the bytes belong to records that may come now. In TLS 1.3
 * all that is encrypted is called application data. This s2n-tls decrypts a
 * record whatever its header calls it, and then drops one that is called
 * something else: the network could take records out of the stream
 * (CVE-2026-16317). */
static size_t permitted_input(struct connection *conn, const uint8_t *bytes, size_t len) {
  enum { HEADER = 5, APPLICATION_DATA = 23 };
  size_t n = 0;
  while (n < len) {
    if (conn->record_left > 0) {
      size_t part = len - n < conn->record_left ? len - n : conn->record_left;
      conn->record_left -= part;
      n += part;
      continue;
    }
    if (conn->header_seen == 0) {
      if (bytes[n] != APPLICATION_DATA && conn->done && negotiated_version(conn) >= 0x0304) {
        conn->wrong_record = 1;
        break;
      }
      if (len - n >= HEADER) {
        /* All of it at once, as s2n asks for it. */
        conn->record_left = (size_t)bytes[n + 3] << 8 | bytes[n + 4];
        n += HEADER;
        continue;
      }
    }
    /* The length is in the last two bytes of the header. */
    conn->record_length = conn->record_length << 8 | bytes[n++];
    if (++conn->header_seen == HEADER) {
      conn->record_left = conn->record_length & 0xffff;
      conn->header_seen = 0;
    }
  }
  return n;
}

static int on_receive(void *io, uint8_t *buf, uint32_t len) {
  struct connection *conn = io;
  size_t n = 0;
  if (conn->may_read && !conn->wrong_record && !polytls_conn_pauses(&conn->base)) {
    size_t waiting = conn->base.in_end - conn->base.in_start;
    size_t most = len < INT32_MAX ? len : INT32_MAX;
    n = permitted_input(conn, conn->base.in + conn->base.in_start, waiting < most ? waiting : most);
    n = polytls_conn_in_take(&conn->base, buf, n);
  }
  if (n == 0) {
    /* Never 0, which s2n takes for the end of the stream: that it is cut is
     * for Go to say. */
    errno = EAGAIN;
    return -1;
  }
  return (int)n;
}

/* Appends to `out` as much of data as its limit allows, or everything. Returns
 * how much that was, -1 when memory ran out. */
static ptrdiff_t append_output(struct connection *conn, const uint8_t *data, size_t len, int unlimited) {
  size_t limit = conn->base.out_limit;
  if (unlimited) {
    conn->base.out_limit = SIZE_MAX;
  }
  ptrdiff_t n = polytls_conn_out_append(&conn->base, data, len);
  conn->base.out_limit = limit;
  if (n > 0) {
    conn->produced += (size_t)n;
  }
  return n;
}

static int on_send(void *io, const uint8_t *buf, uint32_t len) {
  struct connection *conn = io;
  if (len > INT32_MAX) {
    len = INT32_MAX;
  }
  ptrdiff_t n = append_output(conn, buf, len, conn->unlimited_output);
  if (n > 0) {
    return (int)n;
  }
  conn->out_of_memory = n < 0;
  errno = n == 0 ? EAGAIN : ENOMEM;
  return -1;
}

static void conn_free(struct polytls_conn *base) {
  struct connection *conn = (struct connection *)base;
  if (conn == NULL) {
    return;
  }
  if (conn->signing != NULL) {
    (void)s2n_async_pkey_op_free(conn->signing);
  }
  if (conn->s2n != NULL) {
    s2n_connection_free(conn->s2n);
  }
  free(conn->ocsp_response);
  free(conn->identity);
  polytls_outcome_free(&conn->outcome);
  polytls_names_free(&conn->names);
  free(conn->server_name);
  polytls_conn_secrets_free(&conn->base);
  free(conn->base.in);
  free(conn->base.out);
  context_free(conn->ctx);
  free(conn);
}

/* Makes the library's connection, in the place of one that may be there.
 * Returns 1, or 0 with s2n's error. */
static int make_s2n_connection(struct connection *conn) {
  if (conn->s2n != NULL) {
    (void)s2n_connection_free(conn->s2n);
  }
  conn->s2n = s2n_connection_new(conn->ctx->role == POLYTLS_CLIENT ? S2N_CLIENT : S2N_SERVER);
  return conn->s2n != NULL &&
         /* Before anything can fail: s2n's own blinding sleeps for 10 to 30
          * seconds on the thread. */
         s2n_connection_set_blinding(conn->s2n, S2N_SELF_SERVICE_BLINDING) == S2N_SUCCESS &&
         s2n_connection_set_config(conn->s2n, conn->ctx->config) == S2N_SUCCESS &&
         /* The name chooses the certificate: the server acknowledges it. */
         (conn->ctx->role == POLYTLS_CLIENT || s2n_connection_server_name_extension_used(conn->s2n) == S2N_SUCCESS) &&
         /* Names are checked by polytls_verify. s2n's own check comes before the
          * chain's, passes addresses as text and falls back to the common name;
          * with a callback that accepts, certificates without any name would
          * still be refused. */
         s2n_connection_set_verify_host_callback(conn->s2n, NULL, NULL) == S2N_SUCCESS &&
         s2n_connection_set_ctx(conn->s2n, conn) == S2N_SUCCESS &&
         s2n_connection_set_recv_cb(conn->s2n, on_receive) == S2N_SUCCESS &&
         s2n_connection_set_recv_ctx(conn->s2n, conn) == S2N_SUCCESS &&
         s2n_connection_set_send_cb(conn->s2n, on_send) == S2N_SUCCESS &&
         s2n_connection_set_send_ctx(conn->s2n, conn) == S2N_SUCCESS &&
         s2n_connection_prefer_throughput(conn->s2n) == S2N_SUCCESS &&
         append_psks(conn->ctx, conn->s2n) == S2N_SUCCESS;
}

static struct polytls_result conn_new(struct polytls_ctx *base, struct polytls_conn **out) {
  clear_errors();
  *out = NULL;
  struct context *ctx = (struct context *)base;
  if (!ctx->finished) {
    return failure_result(POLYTLS_FAIL_INTERNAL);
  }
  struct connection *conn = calloc(1, sizeof(*conn));
  if (conn == NULL) {
    return failure_result(POLYTLS_FAIL_INTERNAL);
  }
  atomic_fetch_add(&ctx->references, 1);
  conn->ctx = ctx;
  conn->base.out_limit = POLYTLS_DEFAULT_OUT_LIMIT;
  for (size_t i = 0; i < ctx->psk_count; i++) {
    conn->identity_size = ctx->psks[i].identity_len > conn->identity_size ? ctx->psks[i].identity_len : conn->identity_size;
  }
  conn->identity = conn->identity_size > 0 ? malloc(conn->identity_size) : NULL;
  if ((conn->identity == NULL && conn->identity_size > 0) || !make_s2n_connection(conn)) {
    struct polytls_result r = failure_result(POLYTLS_FAIL_INTERNAL);
    r.code = (uint32_t)*s2n_errno_location();
    conn_free(&conn->base);
    return r;
  }
  *out = &conn->base;
  return status_result(POLYTLS_OK);
}

static struct polytls_result conn_error(struct connection *conn, enum polytls_failure failure, const char *text) {
  set_text(conn->base.error_text, "%s", text);
  return failure_result(failure);
}

static struct polytls_result set_server_name(struct connection *conn, const uint8_t *data, size_t len) {
  char name[256];
  if (len == 0 || len >= sizeof(name) || memchr(data, 0, len) != NULL) {
    return conn_error(conn, POLYTLS_FAIL_CONFIG, "the server name is no DNS name");
  }
  memcpy(name, data, len);
  name[len] = 0;
  if (s2n_set_server_name(conn->s2n, name) != S2N_SUCCESS) {
    return library_failure(conn->base.error_text, POLYTLS_FAIL_CONFIG, "setting the server name");
  }
  free(conn->server_name);
  conn->server_name = strdup(name);
  return conn->server_name == NULL ? conn_error(conn, POLYTLS_FAIL_INTERNAL, "out of memory") : status_result(POLYTLS_OK);
}

static struct polytls_result set_session(struct connection *conn, const uint8_t *data, size_t len) {
  if (!conn->ctx->tickets || conn->begun || conn->session_offered) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "a session is set once, before the handshake and where there are sessions");
  }
  uint64_t end = 0;
  for (size_t i = 0; i < SESSION_HEADER_SIZE && i < len; i++) {
    end = end << 8 | data[i];
  }
  if (len <= SESSION_HEADER_SIZE || end <= now_seconds()) {
    return conn_error(conn, POLYTLS_FAIL_CONFIG, "the session has expired");
  }
  if (s2n_connection_set_session(conn->s2n, data + SESSION_HEADER_SIZE, len - SESSION_HEADER_SIZE) == S2N_SUCCESS) {
    conn->session_offered = 1;
    return status_result(POLYTLS_OK);
  }
  struct polytls_result r = library_failure(conn->base.error_text, POLYTLS_FAIL_CONFIG, "setting the session");
  /* Half of it may be set. */
  if (!make_s2n_connection(conn) ||
      (conn->server_name != NULL && s2n_set_server_name(conn->s2n, conn->server_name) != S2N_SUCCESS)) {
    return library_failure(conn->base.error_text, POLYTLS_FAIL_INTERNAL, "making the connection again");
  }
  return r;
}

/* Ends the request for a signature: without a problem it is made. */
static void end_signing(struct connection *conn, enum polytls_failure failure, const char *problem) {
  (void)s2n_async_pkey_op_free(conn->signing);
  conn->signing = NULL;
  conn->signing_failure = failure;
  conn->signing_problem = problem;
}

/* What is wrong with the signature is told by the next handshake step, which
 * can also tell the peer. */
static struct polytls_result set_signature(struct connection *conn, const uint8_t *data, size_t len) {
  if (conn->signing == NULL) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "no signature is wanted");
  }
  if (len == 0) {
    end_signing(conn, POLYTLS_FAIL_INTERNAL, "the external signer has failed");
  } else if (len > UINT16_MAX || s2n_async_pkey_op_set_output(conn->signing, data, (uint32_t)len) != S2N_SUCCESS ||
             s2n_async_pkey_op_apply(conn->signing, conn->s2n) != S2N_SUCCESS) {
    clear_errors();
    end_signing(conn, POLYTLS_FAIL_INTERNAL, "the external signer's signature does not fit the certificate");
  } else {
    end_signing(conn, POLYTLS_FAIL_NONE, NULL);
  }
  return status_result(POLYTLS_OK);
}

static struct polytls_result conn_set(struct polytls_conn *base, int option, const uint8_t *data, size_t len) {
  clear_errors();
  struct connection *conn = (struct connection *)base;
  conn->base.error_text[0] = 0;
  if (option == POLYTLS_SET_SIGNATURE) {
    return set_signature(conn, data, len);
  }
  if (conn->ctx->role != POLYTLS_CLIENT) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "this is an option of clients");
  }
  int added = 1;
  switch (option) {
    case POLYTLS_SET_SERVER_NAME:
      return set_server_name(conn, data, len);
    case POLYTLS_SET_SESSION:
      return set_session(conn, data, len);
    case POLYTLS_SET_VERIFY_DNS:
      added = polytls_names_add_dns(&conn->names, data, len);
      break;
    case POLYTLS_SET_VERIFY_IP:
      added = polytls_names_add_ip(&conn->names, data, len);
      break;
    case POLYTLS_SET_SKIP_HOSTNAME:
      if (len != 1 || data[0] > 1) {
        return conn_error(conn, POLYTLS_FAIL_CONFIG, "a switch is 0 or 1");
      }
      conn->names.skip = data[0];
      break;
    default:
      return conn_error(conn, POLYTLS_FAIL_INTERNAL, "unknown option");
  }
  switch (added) {
    case 1:
      return status_result(POLYTLS_OK);
    case 0:
      return conn_error(conn, POLYTLS_FAIL_INTERNAL, "out of memory");
    default:
      return conn_error(conn, POLYTLS_FAIL_CONFIG, "this is no name or address that can be verified");
  }
}

/* ---- what the library knows of a connection ---- */

/* The version on the wire, 0 before it is agreed. s2n tells its own highest one
 * until then. */
static uint16_t negotiated_version(struct connection *conn) {
  int version = S2N_UNKNOWN_PROTOCOL_VERSION;
  if (conn->ctx->role == POLYTLS_CLIENT) {
    version = s2n_connection_get_server_protocol_version(conn->s2n);
  } else if (conn->produced > 0) {
    /* A server's first output is its answer to a ClientHello. */
    version = s2n_connection_get_actual_protocol_version(conn->s2n);
  }
  switch (version) {
    case S2N_TLS13:
      return 0x0304;
    case S2N_TLS12:
      return 0x0303;
    case S2N_TLS11:
      return 0x0302;
    case S2N_TLS10:
      return 0x0301;
    default:
      return 0;
  }
}

/* The IANA number of the cipher suite, 0 before it is agreed. */
static uint16_t negotiated_suite(struct connection *conn) {
  uint8_t first = 0, second = 0;
  if (s2n_connection_get_cipher_iana_value(conn->s2n, &first, &second) != S2N_SUCCESS) {
    return 0;
  }
  return (uint16_t)(first << 8 | second);
}

/* Whether the server signs the key exchange of a suite. Those of TLS 1.2 with
 * RSA key exchange are all that do not. */
static int suite_signs(uint16_t suite) {
  static const uint16_t rsa_key_exchange[] = {0x0004, 0x0005, 0x000a, 0x002f, 0x0035, 0x003c, 0x003d, 0x009c, 0x009d};
  for (size_t i = 0; i < sizeof(rsa_key_exchange) / sizeof(rsa_key_exchange[0]); i++) {
    if (rsa_key_exchange[i] == suite) {
      return 0;
    }
  }
  return 1;
}

static int same_identity(const struct psk *psk, const uint8_t *identity, size_t len) {
  return psk->identity_len == len && memcmp(psk->identity, identity, len) == 0;
}

/* The PSK that authenticates the connection, instead of certificates. */
static const struct psk *used_psk(struct connection *conn) {
  if (conn->done || conn->ctx->psk_count == 0) {
    return conn->done ? conn->psk : NULL;
  }
  uint16_t len = 0;
  if (s2n_connection_get_negotiated_psk_identity_length(conn->s2n, &len) != S2N_SUCCESS || len == 0) {
    return NULL;
  }
  const struct psk *found = NULL;
  if (len <= conn->identity_size &&
      s2n_connection_get_negotiated_psk_identity(conn->s2n, conn->identity, len) == S2N_SUCCESS) {
    for (size_t i = 0; i < conn->ctx->psk_count && found == NULL; i++) {
      found = same_identity(&conn->ctx->psks[i], conn->identity, len) ? &conn->ctx->psks[i] : NULL;
    }
  }
  return found;
}

static int is_resumed(struct connection *conn) {
  return conn->done ? conn->resumed : conn->ctx->tickets && s2n_connection_is_session_resumed(conn->s2n);
}

/* The IANA number of what the given end signed the handshake with, 0 when it
 * has not signed. The values of SHA-1 and below are those of TLS 1.2. */
static uint16_t signature_scheme(struct connection *conn, enum polytls_role signer) {
  s2n_tls_signature_algorithm algorithm = S2N_TLS_SIGNATURE_ANONYMOUS;
  s2n_tls_hash_algorithm hash = S2N_TLS_HASH_NONE;
  int result = S2N_SUCCESS;
  if (is_resumed(conn) || used_psk(conn) != NULL) {
    return 0;
  }
  if (signer == POLYTLS_SERVER) {
    if (!suite_signs(negotiated_suite(conn))) {
      return 0;
    }
    result = s2n_connection_get_selected_signature_algorithm(conn->s2n, &algorithm) |
             s2n_connection_get_selected_digest_algorithm(conn->s2n, &hash);
  } else {
    result = s2n_connection_get_selected_client_cert_signature_algorithm(conn->s2n, &algorithm) |
             s2n_connection_get_selected_client_cert_digest_algorithm(conn->s2n, &hash);
  }
  if (result != S2N_SUCCESS || hash == S2N_TLS_HASH_NONE) {
    clear_errors();
    return 0;
  }
  int strong = hash >= S2N_TLS_HASH_SHA256 && hash <= S2N_TLS_HASH_SHA512;
  switch (algorithm) {
    case S2N_TLS_SIGNATURE_RSA:
    case S2N_TLS_SIGNATURE_ECDSA:
      return (uint16_t)((hash & 0xff) << 8 | (algorithm & 0xff));
    case S2N_TLS_SIGNATURE_RSA_PSS_RSAE:
      return strong ? (uint16_t)(0x0804 + (hash - S2N_TLS_HASH_SHA256)) : 0;
    case S2N_TLS_SIGNATURE_RSA_PSS_PSS:
      return strong ? (uint16_t)(0x0809 + (hash - S2N_TLS_HASH_SHA256)) : 0;
    case S2N_TLS_SIGNATURE_ANONYMOUS:
      break;
  }
  return 0;
}

/* SHA-224 is the weakest hash that signatures may use. */
static int weak_scheme(uint16_t scheme) { return scheme != 0 && (scheme >> 8 < S2N_TLS_HASH_SHA224 || scheme >> 8 > 0x08); }

/* Reports whether a signature of this TLS 1.2 handshake uses a hash that is too
 * weak. TLS 1.3 has none. Before ServerKeyExchange s2n tells SHA-1 as the
 * server's, so a client may ask only once it has been read. */
static int weak_signature(struct connection *conn) {
  return negotiated_version(conn) <= 0x0303 && (weak_scheme(signature_scheme(conn, POLYTLS_SERVER)) ||
                                                weak_scheme(signature_scheme(conn, POLYTLS_CLIENT)));
}

struct find {
  const uint8_t *name;
  size_t len;
};

static int find_protocol(void *argument, const uint8_t *protocol, uint8_t len) {
  struct find *find = argument;
  return find->len == len && memcmp(find->name, protocol, len) == 0;
}

static int alpn_contains(const uint8_t *list, size_t list_len, const uint8_t *name, size_t len) {
  struct find find = {name, len};
  return alpn_each(list, list_len, find_protocol, &find) == 1;
}

static int offered_by_client(void *ctx, const uint8_t *protocol, uint8_t len) {
  struct context *c = ctx;
  return alpn_contains(c->alpn, c->alpn_len, protocol, len);
}

/* Returns the content of an extension, which the caller frees, and its length.
 * NULL when there is none (*len is 0) or memory ran out (*len is not). */
static uint8_t *read_extension(struct s2n_client_hello *hello, int type, size_t *len) {
  ssize_t size = s2n_client_hello_get_extension_length(hello, (s2n_tls_extension_type)type);
  *len = size > 0 ? (size_t)size : 0;
  uint8_t *content = size > 0 ? malloc((size_t)size) : NULL;
  if (content != NULL &&
      s2n_client_hello_get_extension_by_id(hello, (s2n_tls_extension_type)type, content, (uint32_t)size) != size) {
    free(content);
    content = NULL;
  }
  return content;
}

static uint16_t read_uint16(const uint8_t *bytes) { return (uint16_t)(bytes[0] << 8 | bytes[1]); }

/* s2n itself goes on without ALPN when it has none of the client's protocols. */
static int offers_known_protocol(struct connection *conn, struct s2n_client_hello *hello) {
  size_t len = 0;
  uint8_t *list = read_extension(hello, S2N_EXTENSION_ALPN, &len);
  int known = len == 0 || (list != NULL && len > 2 && read_uint16(list) == len - 2 &&
                           alpn_each(list + 2, len - 2, offered_by_client, conn->ctx) == 1);
  free(list);
  return known;
}

/* Whether a ClientHello can come to TLS 1.3 with psk_dhe_ke. */
static int allows_psk(struct s2n_client_hello *hello) {
  size_t len = 0;
  uint8_t *versions = read_extension(hello, EXTENSION_SUPPORTED_VERSIONS, &len);
  int tls13 = 0;
  for (size_t at = 1; versions != NULL && at + 2 <= len; at += 2) {
    tls13 = tls13 || read_uint16(versions + at) == 0x0304;
  }
  free(versions);
  uint8_t *modes = read_extension(hello, EXTENSION_PSK_MODES, &len);
  int dhe = modes != NULL && len > 1 && memchr(modes + 1, PSK_DHE_KE, len - 1) != NULL;
  free(modes);
  return tls13 && dhe;
}

/* Whether the client offers one of the policy's suites with the PSK's hash. */
static int offers_hash(const struct context *ctx, struct s2n_client_hello *hello, enum polytls_psk_hash hash) {
  ssize_t len = s2n_client_hello_get_cipher_suites_length(hello);
  uint8_t *suites = len > 0 ? malloc((size_t)len) : NULL;
  int found = 0;
  if (suites != NULL && s2n_client_hello_get_cipher_suites(hello, suites, (uint32_t)len) == len) {
    for (ssize_t at = 0; !found && at + 2 <= len; at += 2) {
      uint16_t suite = read_uint16(suites + at);
      for (size_t i = 0; !found && suite_has_hash(suite, hash) && i < ctx->policy.suites_len; i++) {
        found = ctx->policy.suites[i] == suite;
      }
    }
  }
  free(suites);
  return found;
}

enum psk_offer { PSK_ABSENT, PSK_OTHER_HASH, PSK_OFFERED };

/* Looks for a PSK in the content of a pre_shared_key extension. The length of
 * its binder, in the list behind that of the identities, tells the client's
 * hash, which s2n does not ask before it chooses. */
static enum psk_offer find_offer(const struct psk *psk, const uint8_t *offers, size_t len) {
  size_t identities_end = len < 2 ? 0 : 2 + (size_t)read_uint16(offers);
  if (identities_end == 0 || identities_end > len) {
    return PSK_ABSENT;
  }
  size_t binder = identities_end + 2;
  for (size_t at = 2; identities_end - at > 2 + 4 && binder < len; binder += 1 + (size_t)offers[binder]) {
    size_t size = read_uint16(offers + at);
    if (size > identities_end - at - 2 - 4) {
      return PSK_ABSENT;
    }
    if (same_identity(psk, offers + at + 2, size)) {
      return offers[binder] == (psk->hash == POLYTLS_PSK_SHA384 ? 48 : 32) ? PSK_OFFERED : PSK_OTHER_HASH;
    }
    at += 2 + size + 4; /* behind an identity is its age */
  }
  return PSK_ABSENT;
}

/* Chooses the first PSK of the server's list that the client offers and that one
 * of the common suites fits. Returns why there is none, or NULL. */
static const char *choose_psk(struct connection *conn, struct s2n_client_hello *hello) {
  const struct context *ctx = conn->ctx;
  size_t len = 0;
  uint8_t *offers = allows_psk(hello) ? read_extension(hello, EXTENSION_PRE_SHARED_KEY, &len) : NULL;
  const char *problem = offers == NULL ? "the client offers no PSK" : "the client offers none of the PSKs by its identity";
  for (size_t i = 0; offers != NULL && i < ctx->psk_count && conn->psk == NULL; i++) {
    switch (find_offer(&ctx->psks[i], offers, len)) {
      case PSK_OFFERED:
        if (offers_hash(ctx, hello, ctx->psks[i].hash)) {
          conn->psk = &ctx->psks[i];
        } else {
          problem = "the client offers no cipher suite with the hash of the PSK";
        }
        break;
      case PSK_OTHER_HASH:
        problem = "the client offers the PSK with another hash";
        break;
      case PSK_ABSENT:
        break;
    }
  }
  free(offers);
  return conn->psk == NULL ? problem : NULL;
}

/* Returns whether s2n may go on with a ClientHello. Of one in the format of SSL 2.0
 * (RFC 5246 appendix E.2), which has no extensions, s2n does not show all. */
static int is_sound(struct connection *conn, struct s2n_client_hello *hello) {
  if (s2n_connection_get_client_hello_version(conn->s2n) == S2N_SSLv2 &&
      s2n_connection_get_client_protocol_version(conn->s2n) != S2N_SSLv2) {
    return 1;
  }
  ssize_t len = s2n_client_hello_get_raw_message_length(hello);
  uint8_t *message = len > 0 ? malloc((size_t)len) : NULL;
  if (message == NULL || s2n_client_hello_get_raw_message(hello, message, (uint32_t)len) != len) {
    conn->out_of_memory = 1;
    free(message);
    return 0;
  }
  int alert = hello_alert(message, (size_t)len, conn->ctx->policy.max_version >= 0x0304);
  conn->hello_alert = alert < 0 ? 0 : alert;
  free(message);
  return alert < 0;
}

/* Decides from the ClientHello what s2n decides otherwise. */
static int on_client_hello(struct s2n_connection *s2n, void *unused) {
  (void)unused;
  struct connection *conn = s2n_connection_get_ctx(s2n);
  struct s2n_client_hello *hello = s2n_connection_get_client_hello(s2n);
  if (conn == NULL || hello == NULL || !is_sound(conn, hello)) {
    return -1;
  }
  if (conn->ctx->psk_count > 0) {
    const char *missing = choose_psk(conn, hello);
    if (missing != NULL && conn->ctx->require_psk) {
      conn->psk_missing = missing;
      return -1;
    }
  }
  if (conn->ctx->alpn_strict && !offers_known_protocol(conn, hello)) {
    conn->alpn_refused = 1;
    return -1;
  }
  return 0;
}

/* Takes the PSK that on_client_hello has chosen, and no other. It is called for
 * both ClientHellos around a HelloRetryRequest; a client may offer fewer PSKs
 * in the second. */
static int on_psks_offered(struct s2n_connection *s2n, void *unused, struct s2n_offered_psk_list *list) {
  (void)unused;
  struct connection *conn = s2n_connection_get_ctx(s2n);
  struct s2n_offered_psk *offered = s2n_offered_psk_new();
  int result = offered == NULL ? S2N_FAILURE : s2n_offered_psk_list_choose_psk(list, NULL);
  while (result == S2N_SUCCESS && conn->psk != NULL && s2n_offered_psk_list_has_next(list)) {
    uint8_t *identity = NULL;
    uint16_t len = 0;
    if (s2n_offered_psk_list_next(list, offered) != S2N_SUCCESS ||
        s2n_offered_psk_get_identity(offered, &identity, &len) != S2N_SUCCESS) {
      result = S2N_FAILURE;
    } else if (same_identity(conn->psk, identity, len)) {
      result = s2n_offered_psk_list_choose_psk(list, offered);
      break;
    }
  }
  (void)s2n_offered_psk_free(&offered);
  return result;
}

/* Chooses a ticket of TLS 1.3 as s2n does, and takes also those of the older
 * keys, which only decrypt. For these s2n 1.3.33 puts what the ticket holds into
 * the connection, then notes that a new ticket is due, in a flag that TLS 1.3 has
 * not, and fails. A second call, with a configuration in whose eyes the ticket is
 * a PSK that the connection has, finds it. A ticket that does not decrypt leaves
 * nothing in the connection, and is found by neither. */
static int on_tickets_offered(struct s2n_connection *s2n, void *unused, struct s2n_offered_psk_list *list) {
  enum { MAX_REFUSED_TICKETS = 3 };
  (void)unused;
  struct connection *conn = s2n_connection_get_ctx(s2n);
  struct s2n_offered_psk *offered = conn == NULL ? NULL : s2n_offered_psk_new();
  int chosen = 0, failed = offered == NULL;
  for (int i = 0; !failed && !chosen && i < MAX_REFUSED_TICKETS && s2n_offered_psk_list_has_next(list); i++) {
    failed = s2n_offered_psk_list_next(list, offered) != S2N_SUCCESS;
    chosen = !failed && s2n_offered_psk_list_choose_psk(list, offered) == S2N_SUCCESS;
    if (!failed && !chosen) {
      failed = s2n_connection_set_config(s2n, conn->ctx->without_tickets) != S2N_SUCCESS;
      chosen = !failed && s2n_offered_psk_list_choose_psk(list, offered) == S2N_SUCCESS;
      failed = s2n_connection_set_config(s2n, conn->ctx->config) != S2N_SUCCESS || failed;
    }
  }
  (void)s2n_offered_psk_free(&offered);
  return failed || !chosen ? S2N_FAILURE : S2N_SUCCESS;
}

/* Appends a session to those that Go takes. Returns 1, or 0 when memory ran
 * out. lifetime is the server's, in seconds. */
static int append_session(struct connection *conn, const uint8_t *session, size_t len, uint32_t lifetime) {
  uint64_t end = now_seconds() + (lifetime < MAX_SESSION_LIFETIME ? lifetime : MAX_SESSION_LIFETIME);
  uint8_t *own = malloc(SESSION_HEADER_SIZE + len);
  if (own == NULL) {
    return 0;
  }
  for (size_t i = 0; i < SESSION_HEADER_SIZE; i++) {
    own[i] = (uint8_t)(end >> 8 * (SESSION_HEADER_SIZE - 1 - i));
  }
  memcpy(own + SESSION_HEADER_SIZE, session, len);
  int appended = polytls_conn_sessions_append(&conn->base, own, SESSION_HEADER_SIZE + len);
  OPENSSL_cleanse(own, SESSION_HEADER_SIZE + len);
  free(own);
  return appended;
}

/* s2n has read a ticket. One of TLS 1.2 comes before the server's Finished has
 * proved the handshake: finish_handshake takes it. */
static int on_ticket(struct s2n_connection *s2n, void *unused, struct s2n_session_ticket *ticket) {
  (void)unused;
  struct connection *conn = s2n_connection_get_ctx(s2n);
  size_t len = 0;
  uint32_t lifetime = 0;
  if (conn == NULL) {
    return S2N_FAILURE;
  }
  if (!conn->done) {
    conn->tls12_ticket = 1;
    return S2N_SUCCESS;
  }
  if (s2n_session_ticket_get_data_len(ticket, &len) != S2N_SUCCESS ||
      s2n_session_ticket_get_lifetime(ticket, &lifetime) != S2N_SUCCESS) {
    return S2N_FAILURE;
  }
  uint8_t *session = malloc(len + 1);
  int kept = session != NULL && s2n_session_ticket_get_data(ticket, len, session) == S2N_SUCCESS &&
             append_session(conn, session, len, lifetime);
  if (session != NULL) {
    OPENSSL_cleanse(session, len);
    free(session);
  }
  return kept ? S2N_SUCCESS : S2N_FAILURE;
}

/* Keeps the session of a TLS 1.2 handshake, if the server has sent a ticket: a
 * resumed one has the old ticket as well. A client that could also do TLS 1.3
 * keeps none: s2n 1.3.33 would offer it without a session id, and would not
 * understand the server's answer then. Returns 1, or 0 when memory ran out. */
static int keep_tls12_session(struct connection *conn) {
  if (!conn->tls12_ticket || conn->ctx->policy.max_version >= 0x0304) {
    return 1;
  }
  int lifetime = s2n_connection_get_session_ticket_lifetime_hint(conn->s2n);
  int len = s2n_connection_get_session_length(conn->s2n);
  if (len <= 0) {
    return 1;
  }
  uint8_t *session = malloc((size_t)len);
  int kept = 0;
  if (session != NULL && s2n_connection_get_session(conn->s2n, session, (size_t)len) == len) {
    /* RFC 5077: zero says nothing about the lifetime. What is negative is too
     * large for an int. */
    kept = append_session(conn, session, (size_t)len, lifetime <= 0 ? MAX_SESSION_LIFETIME : (uint32_t)lifetime);
  }
  if (session != NULL) {
    OPENSSL_cleanse(session, (size_t)len);
    free(session);
  }
  return kept;
}

/* s2n offers psk_key_exchange_modes only beside a PSK, and without that
 * extension servers send no tickets in TLS 1.3. So a client that has no session
 * offers a ticket that nobody has issued: random bytes, which no server can
 * decrypt, with a secret that nobody knows. Returns 1, or 0 with s2n's error. */
static int offer_random_psk(struct connection *conn) {
  uint8_t identity[32], secret[32];
  struct s2n_psk *psk = s2n_external_psk_new();
  int done = psk != NULL && RAND_bytes(identity, sizeof(identity)) == 1 && RAND_bytes(secret, sizeof(secret)) == 1 &&
             s2n_psk_set_identity(psk, identity, sizeof(identity)) == S2N_SUCCESS &&
             s2n_psk_set_secret(psk, secret, sizeof(secret)) == S2N_SUCCESS &&
             s2n_connection_append_psk(conn->s2n, psk) == S2N_SUCCESS;
  OPENSSL_cleanse(secret, sizeof(secret));
  if (psk != NULL) {
    (void)s2n_psk_free(&psk);
  }
  return done;
}

/* ---- signatures ---- */

static const struct certificate *selected_certificate(struct connection *conn) {
  const struct s2n_cert_chain_and_key *chain = s2n_connection_get_selected_cert(conn->s2n);
  for (size_t i = 0; chain != NULL && i < conn->ctx->certificate_count; i++) {
    if (conn->ctx->certificates[i].chain == chain) {
      return &conn->ctx->certificates[i];
    }
  }
  return NULL;
}

/* Answers for keys in memory at once, and keeps what the external signer shall
 * sign. */
static int on_private_key(struct s2n_connection *s2n, struct s2n_async_pkey_op *operation) {
  struct connection *conn = s2n_connection_get_ctx(s2n);
  const struct certificate *certificate = conn == NULL ? NULL : selected_certificate(conn);
  s2n_async_pkey_op_type type = S2N_ASYNC_DECRYPT;
  int result = S2N_FAILURE;
  if (certificate != NULL && !certificate->external) {
    if (s2n_async_pkey_op_perform(operation, s2n_cert_chain_and_key_get_private_key(certificate->chain)) == S2N_SUCCESS) {
      result = s2n_async_pkey_op_apply(operation, s2n);
    }
  } else if (certificate != NULL && s2n_async_pkey_op_get_op_type(operation, &type) == S2N_SUCCESS &&
             type == S2N_ASYNC_SIGN && conn->signing == NULL) {
    conn->signing = operation;
    return S2N_SUCCESS;
  }
  (void)s2n_async_pkey_op_free(operation);
  return result;
}

/* ---- failures ---- */

static uint32_t step_flags(struct connection *conn) {
  uint32_t flags = 0;
  if (conn->verification == ACCEPTED) {
    flags |= POLYTLS_FLAG_PEER_CERTIFICATES;
  }
  if (conn->done) {
    flags |= POLYTLS_FLAG_HANDSHAKE_DONE;
    /* Other steps leave `in` alone: it may be filled at the same time. */
    if (s2n_peek(conn->s2n) > 0 || conn->ended || (conn->may_read && conn->base.in_start < conn->base.in_end)) {
      flags |= POLYTLS_FLAG_PENDING;
    }
  }
  return flags;
}

static struct polytls_result step_result(struct connection *conn, enum polytls_status status, size_t n) {
  struct polytls_result r = status_result(status);
  r.n = n;
  r.flags = step_flags(conn);
  return r;
}

/* Whether what this end writes now is plaintext: before its own
 * ChangeCipherSpec in TLS 1.2, before the ServerHello in TLS 1.3. */
static int writes_plaintext(struct connection *conn) {
  if (conn->done) {
    return 0;
  }
  uint16_t version = negotiated_version(conn);
  if (conn->ctx->role == POLYTLS_CLIENT) {
    return version <= 0x0303 && !conn->second_flight;
  }
  /* A server that resumes in TLS 1.2 ends its first flight with Finished. */
  return version <= 0x0303 && !(conn->produced > 0 && is_resumed(conn));
}

/* Ends the connection with r and remembers it. alert is what the peer should be
 * told, or -1; it is sent while that can be done without s2n, which has no
 * interface for it. */
static struct polytls_result end_with(struct connection *conn, struct polytls_result r, int alert) {
  if (r.status == POLYTLS_FAILED && alert >= 0 && writes_plaintext(conn)) {
    const uint8_t record[] = {21, 3, 3, 0, 2, 2, (uint8_t)alert};
    if (append_output(conn, record, sizeof(record), 1) == (ptrdiff_t)sizeof(record)) {
      r.alert_sent = alert;
    }
  }
  conn->end = r;
  conn->ended = 1;
  return r;
}

/* The result of a connection that has ended. error_text is still its. */
static struct polytls_result ended_result(struct connection *conn) {
  struct polytls_result r = conn->end;
  r.flags = step_flags(conn) & ~(uint32_t)POLYTLS_FLAG_PENDING;
  return r;
}

static struct polytls_result fail(struct connection *conn, enum polytls_failure failure, int alert, const char *text) {
  return end_with(conn, conn_error(conn, failure, text), alert);
}

static struct polytls_result fail_verify(struct connection *conn, enum polytls_verify_code code, const char *text) {
  conn->base.verify_code = code;
  conn->base.verify_depth = conn->outcome.depth;
  conn->base.verify_library_code = conn->outcome.library_code;
  struct polytls_result r = conn_error(conn, POLYTLS_FAIL_VERIFY, text);
  r.code = (uint32_t)*s2n_errno_location();
  return end_with(conn, r, polytls_verify_alert(code));
}

/* Errors of s2n that this process causes; nearly all others come from what the
 * peer has sent, of whatever type s2n says they are: a field that is too short
 * is "stuffer out of data", an internal error. */
static int is_own_fault(struct connection *conn) {
  static const char *const names[] = {"S2N_ERR_ALLOC", "S2N_ERR_NOMEM", "S2N_ERR_MLOCK", "S2N_ERR_DRBG",
                                      "S2N_ERR_OPEN_RANDOM", "S2N_ERR_REENTRANCY", "S2N_ERR_NOT_INITIALIZED",
                                      "S2N_ERR_PKEY_CTX_INIT", "S2N_ERR_SIGN", "S2N_ERR_ECDHE_GEN_KEY"};
  if (conn->out_of_memory) {
    return 1;
  }
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    if (is_error(names[i])) {
      return 1;
    }
  }
  return 0;
}

/* The alert that RFC 8446 section 6.2 wants for s2n's present error. */
static int alert_for_error(struct connection *conn) {
  static const struct {
    const char *name;
    int alert;
  } alerts[] = {
      {"S2N_ERR_BAD_MESSAGE", ALERT_UNEXPECTED_MESSAGE},
      {"S2N_ERR_DECRYPT", ALERT_BAD_RECORD_MAC},
      {"S2N_ERR_PROTOCOL_VERSION_UNSUPPORTED", ALERT_PROTOCOL_VERSION},
      {"S2N_ERR_PROTOCOL_DOWNGRADE_DETECTED", ALERT_ILLEGAL_PARAMETER},
      {"S2N_ERR_MISSING_EXTENSION", ALERT_MISSING_EXTENSION},
      {"S2N_ERR_UNSUPPORTED_EXTENSION", ALERT_UNSUPPORTED_EXTENSION},
      {"S2N_ERR_NO_APPLICATION_PROTOCOL", ALERT_NO_APPLICATION_PROTOCOL},
      {"S2N_ERR_VERIFY_SIGNATURE", ALERT_DECRYPT_ERROR},
      {"S2N_ERR_INVALID_SIGNATURE_SCHEME", ALERT_ILLEGAL_PARAMETER},
      {"S2N_ERR_BAD_KEY_SHARE", ALERT_ILLEGAL_PARAMETER},
      {"S2N_ERR_STUFFER_OUT_OF_DATA", ALERT_DECODE_ERROR},
  };
  for (size_t i = 0; i < sizeof(alerts) / sizeof(alerts[0]); i++) {
    if (is_error(alerts[i].name)) {
      return alerts[i].alert;
    }
  }
  return is_own_fault(conn) ? ALERT_INTERNAL_ERROR : ALERT_HANDSHAKE_FAILURE;
}

/* Where in its sources s2n has met the present error. */
static int error_is_from(const char *file) {
  const char *where = s2n_strerror_debug(*s2n_errno_location(), "EN");
  return where != NULL && strstr(where, file) != NULL;
}

/* Whether the error is that of a client without the certificate that this
 * server requires. s2n 1.3.33 has no error of its own for it. */
static int is_missing_certificate(struct connection *conn) {
  if (conn->ctx->role != POLYTLS_SERVER || conn->verification != NOT_VERIFIED ||
      (conn->ctx->verify_mode != POLYTLS_VERIFY_REQUIRE_ANY &&
       conn->ctx->verify_mode != POLYTLS_VERIFY_REQUIRE_AND_VERIFY)) {
    return 0;
  }
  if (is_error("S2N_ERR_MISSING_CLIENT_CERT")) {
    return 1;
  }
  if (!is_error("S2N_ERR_BAD_MESSAGE") || !error_is_from("s2n_handshake_io")) {
    return 0;
  }
  const char *message = s2n_connection_get_last_message_name(conn->s2n);
  return message != NULL && strcmp(message, "CLIENT_CERT") == 0;
}

/* Whether a client that requires a PSK has failed over what stands where the
 * PSK should: the server's certificate, which may not even parse. */
static int is_certificate_instead_of_psk(struct connection *conn) {
  if (conn->psk_bypassed || conn->ctx->role != POLYTLS_CLIENT || !conn->ctx->require_psk || conn->done) {
    return conn->psk_bypassed;
  }
  const char *message = s2n_connection_get_last_message_name(conn->s2n);
  return used_psk(conn) == NULL && message != NULL && strcmp(message, "SERVER_CERT") == 0;
}

/* Whether the server has refused the binder of the PSK that it has chosen. */
static int is_wrong_binder(struct connection *conn) {
  return conn->ctx->role == POLYTLS_SERVER && conn->psk != NULL && !conn->done && is_error("S2N_ERR_BAD_MESSAGE") &&
         (error_is_from("s2n_tls13_keys") || error_is_from("s2n_tls13_handshake"));
}

/* Ends the connection after an error of s2n; doing is the step in words. */
static struct polytls_result fail_with_error(struct connection *conn, const char *doing) {
  /* The questions below go to s2n, too: they must not lose the error. */
  int error = *s2n_errno_location();

  if (s2n_error_get_type(error) == S2N_ERR_T_ALERT) {
    int alert = s2n_connection_get_alert(conn->s2n);
    *s2n_errno_location() = error;
    struct polytls_result r = library_failure(conn->base.error_text, POLYTLS_FAIL_PEER_ALERT, doing);
    r.alert_received = alert >= 0 ? alert : -1;
    return end_with(conn, r, -1);
  }
  if (conn->psk_missing != NULL) {
    return fail(conn, POLYTLS_FAIL_NO_PSK, ALERT_UNKNOWN_PSK_IDENTITY, conn->psk_missing);
  }
  if (is_wrong_binder(conn)) {
    return fail(conn, POLYTLS_FAIL_BAD_PSK, ALERT_ILLEGAL_PARAMETER, "the client has another secret for the PSK: its binder is wrong");
  }
  if (is_certificate_instead_of_psk(conn)) {
    return fail(conn, POLYTLS_FAIL_NO_PSK, ALERT_HANDSHAKE_FAILURE, "the server answers with a certificate instead of a PSK");
  }
  *s2n_errno_location() = error;
  if (conn->hello_alert != 0) {
    return fail(conn, POLYTLS_FAIL_PROTOCOL, conn->hello_alert, "the ClientHello is malformed, or lacks what its version needs");
  }
  if (conn->alpn_refused) {
    return fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_NO_APPLICATION_PROTOCOL,
                "the client offers none of this server's application protocols");
  }
  if (conn->wrong_key_type) {
    return fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_ILLEGAL_PARAMETER, "the server's certificate has a key that the cipher suite is not for");
  }
  if (conn->verification == REFUSED) {
    return fail_verify(conn, conn->outcome.code, conn->outcome.text == NULL ? "the certificate was refused" : conn->outcome.text);
  }
  if (!conn->done) {
    int missing = is_missing_certificate(conn);
    *s2n_errno_location() = error;
    if (missing) {
      return end_with(conn, library_failure(conn->base.error_text, POLYTLS_FAIL_NO_CERTIFICATE, "the client sent no certificate"),
                      negotiated_version(conn) == 0x0304 ? ALERT_CERTIFICATE_REQUIRED : ALERT_HANDSHAKE_FAILURE);
    }
    /* What s2n's validator refuses around the verification. */
    if (is_error("S2N_ERR_CERT_MAX_CHAIN_DEPTH_EXCEEDED")) {
      return fail_verify(conn, POLYTLS_VERIFY_UNTRUSTED, "the chain is too long");
    }
    if (is_error("S2N_ERR_CERT_UNTRUSTED")) {
      return conn->verification == NOT_VERIFIED
                 ? fail_verify(conn, POLYTLS_VERIFY_WEAK_SIGNATURE, "a certificate is signed with a scheme that the security policy does not allow")
                 : fail_verify(conn, POLYTLS_VERIFY_OTHER, "the certificate's key is of a type that s2n-tls does not know");
    }
    if (is_error("S2N_ERR_CERT_INVALID") || is_error("S2N_ERR_DECODE_CERTIFICATE") ||
        (conn->verification == NOT_VERIFIED && error_is_from("s2n_x509_validator"))) {
      return fail_verify(conn, POLYTLS_VERIFY_MALFORMED, "a certificate does not parse");
    }
  }
  enum polytls_failure failure = POLYTLS_FAIL_PROTOCOL;
  if (is_own_fault(conn)) {
    failure = POLYTLS_FAIL_INTERNAL;
  } else if (is_error("S2N_ERR_DECRYPT") || is_error("S2N_ERR_CBC_VERIFY") || is_error("S2N_ERR_IO") ||
             error_is_from("s2n_record_read") || error_is_from("s2n_aead_cipher")) {
    /* I/O fails when there is no memory and when a record claims a length for
     * which s2n makes no room. */
    failure = POLYTLS_FAIL_BAD_RECORD;
  }
  int alert = alert_for_error(conn);
  return end_with(conn, library_failure(conn->base.error_text, failure, doing), alert);
}

enum wait { NOT_BLOCKED, FOR_INPUT, FOR_OUTPUT, FOR_SIGNATURE };

/* What the library waits for after a call that has failed. */
static enum wait blocked_on(s2n_blocked_status blocked) {
  if (s2n_error_get_type(*s2n_errno_location()) != S2N_ERR_T_BLOCKED) {
    return NOT_BLOCKED;
  }
  switch ((int)blocked) {
    case S2N_BLOCKED_ON_READ:
      return FOR_INPUT;
    case S2N_BLOCKED_ON_WRITE:
      return FOR_OUTPUT;
    case S2N_BLOCKED_ON_APPLICATION_INPUT:
      return FOR_SIGNATURE;
    default:
      return NOT_BLOCKED;
  }
}

/* ---- steps ---- */

static void begin_step(struct connection *conn, int may_read, int unlimited_output) {
  clear_errors();
  conn->may_read = may_read;
  conn->unlimited_output = unlimited_output;
}

/* The same for steps that move data. s2n does not look into its libcrypto's queue,
 * and they leave nothing there unless they fail: the look would cost more than the
 * rest of this. */
static void begin_data_step(struct connection *conn, int may_read) {
  *s2n_errno_location() = 0;
  conn->may_read = may_read;
  conn->unlimited_output = 1;
}

/* Ends such a step, which has failed. */
static struct polytls_result fail_data_step(struct connection *conn, const char *doing) {
  struct polytls_result r = fail_with_error(conn, doing);
  clear_errors();
  return r;
}

/* Takes the output of a refused step back: nobody has seen it. */
static void drop_output(struct connection *conn, size_t out_end) {
  conn->produced -= conn->base.out_end - out_end;
  conn->base.out_end = out_end;
}

/* The last look at a handshake that s2n calls complete. Returns NULL, or why it
 * is refused. Whatever s2n has skipped for whatever reason ends here. */
static const char *handshake_problem(struct connection *conn) {
  if (negotiated_version(conn) < 0x0303) {
    return "the protocol version is below TLS 1.2";
  }
  int resumed = s2n_connection_is_session_resumed(conn->s2n);
  if (resumed && (!conn->ctx->tickets || (conn->ctx->role == POLYTLS_CLIENT && !conn->session_offered))) {
    return "a session was resumed although none was offered";
  }
  int certificate = 0;
  if (conn->ctx->role == POLYTLS_CLIENT) {
    certificate = !resumed && used_psk(conn) == NULL;
  } else {
    switch (conn->ctx->verify_mode) {
      case POLYTLS_VERIFY_NONE:
        break;
      case POLYTLS_VERIFY_REQUEST:
      case POLYTLS_VERIFY_IF_GIVEN:
        certificate = s2n_connection_client_cert_used(conn->s2n);
        break;
      case POLYTLS_VERIFY_REQUIRE_ANY:
      case POLYTLS_VERIFY_REQUIRE_AND_VERIFY:
        certificate = 1;
        break;
    }
  }
  if (certificate != 0 && conn->verification != ACCEPTED) {
    return "the peer's certificate was not verified";
  }
  const char *protocol = s2n_get_application_protocol(conn->s2n);
  if (protocol != NULL &&
      !alpn_contains(conn->ctx->alpn, conn->ctx->alpn_len, (const uint8_t *)protocol, strlen(protocol))) {
    return "the peer selected an application protocol that was not offered";
  }
  if (!resumed && weak_signature(conn)) {
    return "the handshake is signed with SHA-1 or MD5";
  }
  return NULL;
}

/* Returns 1, or 0 when memory ran out. */
static int keep_ocsp_response(struct connection *conn) {
  uint32_t len = 0;
  const uint8_t *response = s2n_connection_get_ocsp_response(conn->s2n, &len);
  if (response == NULL || len == 0) {
    return 1;
  }
  conn->ocsp_response = malloc(len);
  if (conn->ocsp_response == NULL) {
    return 0;
  }
  memcpy(conn->ocsp_response, response, len);
  conn->ocsp_response_len = len;
  return 1;
}

/* Keeps what is asked for later and frees what served the handshake. Returns 1,
 * or 0 when memory ran out. */
static int finish_handshake(struct connection *conn) {
  if (conn->ctx->role == POLYTLS_SERVER) {
    const char *name = s2n_get_server_name(conn->s2n);
    if (name != NULL) {
      conn->server_name = strdup(name);
      if (conn->server_name == NULL) {
        return 0;
      }
    }
  } else if (!keep_ocsp_response(conn) || !keep_tls12_session(conn)) {
    return 0;
  }
  conn->psk = used_psk(conn);
  conn->resumed = is_resumed(conn);
  conn->done = 1;
  conn->base.idle_limit = POLYTLS_MAX_IDLE_RECORDS;
  /* Memory only: what fails here is freed with the connection. The record
   * buffers come back with the first data; freeing them after every record
   * (s2n's dynamic buffers) costs a tenth of the bulk speed. */
  (void)s2n_connection_free_handshake(conn->s2n);
  (void)s2n_connection_release_buffers(conn->s2n);
  clear_errors();
  return 1;
}

static struct polytls_result handshake(struct polytls_conn *base) {
  struct connection *conn = (struct connection *)base;
  if (conn->ended) {
    return ended_result(conn);
  }
  if (conn->done) {
    return step_result(conn, POLYTLS_OK, 0);
  }
  begin_step(conn, 1, 0);
  conn->base.error_text[0] = 0;
  /* s2n would read a ClientHello of SSL 2, which has no extensions. */
  if (conn->base.in_start < conn->base.in_end && s2n_connection_get_wire_bytes_in(conn->s2n) == 0) {
    uint8_t type = conn->base.in[conn->base.in_start];
    if (type != 22 && type != 21) {
      return fail(conn, POLYTLS_FAIL_BAD_RECORD, ALERT_UNEXPECTED_MESSAGE, "the peer's first bytes are no TLS handshake");
    }
  }

  if (conn->signing != NULL) {
    return step_result(conn, POLYTLS_WANT_SIGNATURE, 0);
  }
  if (conn->signing_problem != NULL) {
    return fail(conn, conn->signing_failure, ALERT_INTERNAL_ERROR, conn->signing_problem);
  }
  if (!conn->begun && conn->ctx->role == POLYTLS_CLIENT && conn->ctx->tickets && !conn->session_offered &&
      conn->ctx->policy.max_version >= 0x0304 && !offer_random_psk(conn)) {
    return fail_with_error(conn, "handshake");
  }
  conn->begun = 1;

  size_t out_end = conn->base.out_end;
  s2n_blocked_status blocked = S2N_NOT_BLOCKED;
  negotiating = conn;
  int result = s2n_negotiate(conn->s2n, &blocked);
  negotiating = NULL;
  int grown = conn->base.out_end > out_end;

  enum wait wait = result == S2N_SUCCESS ? NOT_BLOCKED : blocked_on(blocked);
  if (result != S2N_SUCCESS && wait == NOT_BLOCKED) {
    if (s2n_error_get_type(*s2n_errno_location()) == S2N_ERR_T_CLOSED) {
      return end_with(conn, status_result(POLYTLS_CLOSED), -1);
    }
    return fail_with_error(conn, "handshake");
  }
  /* A client writes after the server's certificate only when it has read the
   * whole flight; a server's signature is in its first. */
  int server = conn->ctx->role == POLYTLS_SERVER;
  if (grown && (server || conn->verification == ACCEPTED) && negotiated_version(conn) <= 0x0303 && !is_resumed(conn) &&
      weak_signature(conn)) {
    drop_output(conn, out_end);
    return fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_HANDSHAKE_FAILURE, "the handshake would be signed with SHA-1 or MD5");
  }
  /* What waits for a client's signature has not come to ChangeCipherSpec. */
  if (grown && conn->verification == ACCEPTED && wait != FOR_SIGNATURE) {
    conn->second_flight = 1;
  }
  /* on_client_hello has decided for the first ClientHello; what a second one
   * leaves out after a HelloRetryRequest shows here. */
  if (conn->ctx->require_psk && server && grown && used_psk(conn) == NULL) {
    drop_output(conn, out_end);
    return fail(conn, POLYTLS_FAIL_NO_PSK, ALERT_UNKNOWN_PSK_IDENTITY, "the handshake used no PSK");
  }
  switch (wait) {
    case FOR_SIGNATURE:
      if (conn->signing == NULL) {
        return fail(conn, POLYTLS_FAIL_INTERNAL, ALERT_INTERNAL_ERROR, "s2n-tls waits for something that it has not asked for");
      }
      if (weak_scheme(signature_scheme(conn, conn->ctx->role))) {
        return fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_HANDSHAKE_FAILURE, "the handshake would be signed with SHA-1 or MD5");
      }
      /* The policies allow it, few devices have it, and Go's tls has no name for it. */
      if (signature_scheme(conn, conn->ctx->role) >> 8 == S2N_TLS_HASH_SHA224) {
        return fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_HANDSHAKE_FAILURE,
                    "the peer takes signatures with SHA-224 at most, for which no external signer is asked");
      }
      return step_result(conn, POLYTLS_WANT_SIGNATURE, 0);
    case FOR_INPUT:
      return step_result(conn, POLYTLS_WANT_INPUT, 0);
    case FOR_OUTPUT:
      return step_result(conn, POLYTLS_WANT_OUTPUT, 0);
    case NOT_BLOCKED:
      break;
  }
  if (conn->ctx->require_psk && used_psk(conn) == NULL) {
    drop_output(conn, out_end);
    return fail(conn, POLYTLS_FAIL_NO_PSK, -1, "the handshake used no PSK");
  }
  const char *problem = handshake_problem(conn);
  if (problem != NULL || !finish_handshake(conn)) {
    drop_output(conn, out_end);
    return fail(conn, problem != NULL ? POLYTLS_FAIL_PROTOCOL : POLYTLS_FAIL_INTERNAL, -1,
                problem != NULL ? problem : "out of memory");
  }
  return step_result(conn, POLYTLS_OK, 0);
}

/* Whether the next record of the input can be an alert, as far as its size
 * tells. */
static int next_may_be_alert(struct connection *conn) {
  enum { HEADER = 5, ALERT_MAX = 128 };
  size_t available = conn->base.in_end - conn->base.in_start;
  if (available < HEADER) {
    return 1;
  }
  const uint8_t *header = conn->base.in + conn->base.in_start;
  return ((size_t)header[3] << 8 | header[4]) <= ALERT_MAX;
}

static struct polytls_result conn_read(struct polytls_conn *base, uint8_t *buf, size_t len) {
  struct connection *conn = (struct connection *)base;
  if (conn->ended) {
    return ended_result(conn);
  }
  conn->base.error_text[0] = 0;
  if (!conn->done) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "read before the handshake was complete");
  }
#ifndef HAVE_S2N_SHUTDOWN_SEND
  if (conn->close_notify_sent) {
    return conn_error(conn, POLYTLS_FAIL_UNSUPPORTED, "this s2n-tls cannot read after it has sent a close_notify");
  }
#endif
  /* s2n answers some records (a request for renegotiation) on its own. Were
   * that to block, it would take the record for a new one when called again.
   * The answers are shorter than what they answer. */
  begin_data_step(conn, 1);
  polytls_conn_begin_read(&conn->base);
  size_t n = 0;
  while (n < len) {
    s2n_blocked_status blocked = S2N_NOT_BLOCKED;
    size_t want = len - n < INT32_MAX ? len - n : INT32_MAX;
    ssize_t result = s2n_recv(conn->s2n, buf + n, (ssize_t)want, &blocked);
    if (result > 0) {
      n += (size_t)result;
      conn->base.idle_records = 0;
      if (s2n_peek(conn->s2n) > 0) {
        continue;
      }
#ifndef HAVE_S2N_SHUTDOWN_SEND
      /* This s2n-tls cannot write once it has read the peer's close_notify, so
       * it is not read before somebody wants what is behind this data. */
      if (next_may_be_alert(conn)) {
        break;
      }
#endif
      if (conn->base.in_start == conn->base.in_end) {
        break;
      }
      continue;
    }
    if (result == 0) {
      /* on_receive never ends the stream, and a failure would have been kept:
       * this is the peer's close_notify. */
      end_with(conn, status_result(POLYTLS_CLOSED), -1);
      break;
    }
    /* After an alert in the same call s2n says that nothing blocks it. */
    if (s2n_error_get_type(*s2n_errno_location()) == S2N_ERR_T_BLOCKED && blocked != S2N_BLOCKED_ON_WRITE) {
      if (n == 0 && polytls_conn_is_idle(&conn->base)) {
        (void)fail(conn, POLYTLS_FAIL_PROTOCOL, ALERT_UNEXPECTED_MESSAGE, "too many records in a row bring no data");
      }
      break;
    }
    (void)fail_data_step(conn, "read");
    break;
  }
  polytls_conn_end_read(&conn->base);
  if (n > 0 || len == 0) {
    return step_result(conn, POLYTLS_OK, n);
  }
  if (conn->wrong_record && !conn->ended) {
    return fail(conn, POLYTLS_FAIL_BAD_RECORD, ALERT_UNEXPECTED_MESSAGE, "a record of TLS 1.3 is not called application data");
  }
  if (conn->ended) {
    return ended_result(conn);
  }
  struct polytls_result r = step_result(conn, POLYTLS_WANT_INPUT, 0);
  r.flags |= polytls_conn_flood_flag(&conn->base);
  return r;
}

static struct polytls_result conn_write(struct polytls_conn *base, const uint8_t *buf, size_t len) {
  struct connection *conn = (struct connection *)base;
  if (conn->ended && conn->end.status == POLYTLS_FAILED) {
    return ended_result(conn);
  }
  conn->base.error_text[0] = 0;
  if (!conn->done || conn->close_notify_sent) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL,
                      conn->done ? "write after a close_notify" : "write before the handshake was complete");
  }
  /* Room for a whole record is there before s2n makes it: it never keeps half
   * of one, which would have to be written again with the same bytes. */
  begin_data_step(conn, 0);
  size_t n = 0;
  while (n < len) {
    size_t chunk = len - n < MAX_PLAINTEXT ? len - n : MAX_PLAINTEXT;
    size_t used = conn->base.out_end;
    if (used > 0 && (used > conn->base.out_limit || conn->base.out_limit - used < chunk + RECORD_OVERHEAD)) {
      break;
    }
    s2n_blocked_status blocked = S2N_NOT_BLOCKED;
    ssize_t result = s2n_send(conn->s2n, buf + n, (ssize_t)chunk, &blocked);
    if (result <= 0) {
      if (conn->ended) {
        return conn_error(conn, POLYTLS_FAIL_UNSUPPORTED, "this s2n-tls cannot write after the peer's close_notify");
      }
      return fail_data_step(conn, "write");
    }
    n += (size_t)result;
  }
  return step_result(conn, n == 0 && len > 0 ? POLYTLS_WANT_OUTPUT : POLYTLS_OK, n);
}

static struct polytls_result close_notify(struct polytls_conn *base) {
  struct connection *conn = (struct connection *)base;
  /* Nothing at all follows a fatal error, nor ends a handshake that is not
   * complete. */
  if (!conn->done || conn->close_notify_sent || (conn->ended && conn->end.status == POLYTLS_FAILED)) {
    return step_result(conn, POLYTLS_OK, 0);
  }
  conn->base.error_text[0] = 0;
  begin_step(conn, 0, 1);
  size_t out_end = conn->base.out_end;
  s2n_blocked_status blocked = S2N_NOT_BLOCKED;
#ifdef HAVE_S2N_SHUTDOWN_SEND
  int result = s2n_shutdown_send(conn->s2n, &blocked);
#else
  /* It goes on to wait for the peer's, and drops decrypted data that nobody
   * has read: that is why this version cannot half-close. */
  int result = s2n_shutdown(conn->s2n, &blocked);
#endif
  conn->close_notify_sent = 1;
  if (result != S2N_SUCCESS && conn->base.out_end == out_end) {
    return fail_with_error(conn, "close");
  }
  return step_result(conn, POLYTLS_OK, 0);
}

/* ---- queries ---- */

struct answer {
  uint8_t *buf;
  size_t len;
};

static struct polytls_result answer_bytes(struct connection *conn, struct answer a, const void *data, size_t n) {
  if (n > 0 && n <= a.len) {
    memcpy(a.buf, data, n);
  }
  return step_result(conn, POLYTLS_OK, n);
}

/* The chain stays the caller's. */
static struct polytls_result answer_chain(struct connection *conn, struct answer a, STACK_OF(X509) *chain) {
  size_t size = polytls_chain_encode(chain, a.buf, a.len);
  if (size == SIZE_MAX) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  return step_result(conn, POLYTLS_OK, size);
}

static struct polytls_result answer_uint16(struct connection *conn, struct answer a, uint16_t value) {
  const uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
  return answer_bytes(conn, a, bytes, value == 0 ? 0 : sizeof(bytes));
}

/* Before the handshake is over the library has it, for the hook that sees the
 * certificate. */
static struct polytls_result answer_ocsp_response(struct connection *conn, struct answer a) {
  uint32_t len = 0;
  const uint8_t *response = NULL;
  if (conn->done) {
    return answer_bytes(conn, a, conn->ocsp_response, conn->ocsp_response_len);
  }
  if (conn->ctx->role == POLYTLS_CLIENT && conn->verification == ACCEPTED) {
    response = s2n_connection_get_ocsp_response(conn->s2n, &len);
  }
  return answer_bytes(conn, a, response, response == NULL ? 0 : len);
}

static uint16_t group_number(const char *name) {
  static const struct {
    const char *name;
    uint16_t number;
  } groups[] = {
      {"x25519", 0x001d},
      {"secp256r1", 0x0017},
      {"secp384r1", 0x0018},
      {"secp521r1", 0x0019},
      {"X25519MLKEM768", 0x11ec},
      {"SecP256r1MLKEM768", 0x11eb},
      {"SecP384r1MLKEM1024", 0x11ed},
      /* Drafts, in policies that must be named. */
      {"x25519_kyber-512-r3", 0x2f39},
      {"secp256r1_kyber-512-r3", 0x2f3a},
      {"secp384r1_kyber-768-r3", 0x2f3c},
      {"secp521r1_kyber-1024-r3", 0x2f3d},
      {"secp256r1_kyber-768-r3", 0x639a},
      {"x25519_kyber-768-r3", 0x6399},
  };
  for (size_t i = 0; name != NULL && i < sizeof(groups) / sizeof(groups[0]); i++) {
    if (strcmp(groups[i].name, name) == 0) {
      return groups[i].number;
    }
  }
  return 0;
}

static uint16_t negotiated_group(struct connection *conn) {
#ifdef HAVE_S2N_CONNECTION_GET_KEY_EXCHANGE_GROUP
  const char *name = NULL;
  if (s2n_connection_get_key_exchange_group(conn->s2n, &name) != S2N_SUCCESS) {
    return 0;
  }
  return group_number(name);
#else
  /* A client's hybrid share is told before the server has chosen it, so the
   * plain curve, which only a negotiation sets, counts first. */
  uint16_t group = group_number(s2n_connection_get_curve(conn->s2n));
  return group != 0 ? group : group_number(s2n_connection_get_kem_group_name(conn->s2n));
#endif
}

/* Asks for what the external signer shall sign: s2n gives digests. */
static struct polytls_result signature_request(struct connection *conn, struct answer a) {
  uint32_t size = 0;
  uint8_t request[3 + 64];
  if (conn->signing == NULL) {
    return answer_bytes(conn, a, NULL, 0);
  }
  if (s2n_async_pkey_op_get_input_size(conn->signing, &size) != S2N_SUCCESS || size > sizeof(request) - 3 ||
      s2n_async_pkey_op_get_input(conn->signing, request + 3, size) != S2N_SUCCESS) {
    return library_failure(conn->base.error_text, POLYTLS_FAIL_INTERNAL, "reading what is to be signed");
  }
  uint16_t scheme = signature_scheme(conn, conn->ctx->role);
  request[0] = (uint8_t)(scheme >> 8);
  request[1] = (uint8_t)scheme;
  request[2] = 1;
  return answer_bytes(conn, a, request, 3 + (size_t)size);
}

/* Derives keying material into buf, where the request is. */
static struct polytls_result export_keys(struct connection *conn, uint8_t *buf, size_t len) {
#ifdef HAVE_S2N_TLS_EXPORTER
  size_t label_len = 0, context_len = 0, wanted = 0;
  if (len >= 2) {
    label_len = (size_t)buf[0] << 8 | buf[1];
  }
  if (len < 7 || label_len > len - 7) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "the request for keying material is malformed");
  }
  const uint8_t *p = buf + 2 + label_len;
  context_len = (size_t)p[1] << 8 | p[2];
  if (context_len > len - 7 - label_len) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "the request for keying material is malformed");
  }
  wanted = (size_t)p[3 + context_len] << 8 | p[4 + context_len];
  if (wanted > len) {
    return step_result(conn, POLYTLS_OK, wanted);
  }
  uint8_t *request = malloc(len);
  if (request == NULL) {
    return conn_error(conn, POLYTLS_FAIL_INTERNAL, "out of memory");
  }
  memcpy(request, buf, len);
  int result = s2n_connection_tls_exporter(conn->s2n, request + 2, (uint32_t)label_len, request + 5 + label_len,
                                           (uint32_t)context_len, buf, (uint32_t)wanted);
  free(request);
  if (result != S2N_SUCCESS) {
    return library_failure(conn->base.error_text,
                           negotiated_version(conn) == 0x0304 ? POLYTLS_FAIL_INTERNAL : POLYTLS_FAIL_UNSUPPORTED,
                           "exporting keying material");
  }
  return step_result(conn, POLYTLS_OK, wanted);
#else
  (void)buf;
  (void)len;
  return conn_error(conn, POLYTLS_FAIL_UNSUPPORTED, "this s2n-tls has no exporter");
#endif
}

static struct polytls_result answer_query(struct polytls_conn *base, int what, uint8_t *buf, size_t len) {
  struct connection *conn = (struct connection *)base;
  struct answer a = {buf, len};
  /* Before that s2n tells what it hopes for. */
  int negotiated = conn->done || conn->verification == ACCEPTED;
  switch (what) {
    case POLYTLS_GET_VERSION:
      return answer_uint16(conn, a, negotiated ? negotiated_version(conn) : 0);
    case POLYTLS_GET_CIPHER_SUITE:
      return answer_uint16(conn, a, negotiated ? negotiated_suite(conn) : 0);
    case POLYTLS_GET_GROUP:
      return answer_uint16(conn, a, negotiated ? negotiated_group(conn) : 0);
    case POLYTLS_GET_ALPN: {
      const char *protocol = negotiated ? s2n_get_application_protocol(conn->s2n) : NULL;
      return answer_bytes(conn, a, protocol, protocol == NULL ? 0 : strlen(protocol));
    }
    case POLYTLS_GET_SERVER_NAME: {
      const char *name = conn->server_name;
      if (!conn->done && negotiated && conn->ctx->role == POLYTLS_SERVER) {
        name = s2n_get_server_name(conn->s2n);
      }
      return answer_bytes(conn, a, name, name == NULL ? 0 : strlen(name));
    }
    case POLYTLS_GET_PEER_CHAIN:
      return answer_chain(conn, a, conn->outcome.sent);
    case POLYTLS_GET_VERIFIED_CHAIN:
      return answer_chain(conn, a, conn->verification == ACCEPTED ? conn->outcome.verified : NULL);
    case POLYTLS_GET_SIGNATURE_SCHEME: {
      enum polytls_role peer = conn->ctx->role == POLYTLS_CLIENT ? POLYTLS_SERVER : POLYTLS_CLIENT;
      return answer_uint16(conn, a, conn->done ? signature_scheme(conn, peer) : 0);
    }
    case POLYTLS_GET_RESUMED: {
      const uint8_t resumed = conn->done && conn->resumed;
      return answer_bytes(conn, a, &resumed, conn->done ? 1 : 0);
    }
    case POLYTLS_GET_HELLO_RETRY:
      /* s2n's name of the handshake's type would tell, but it is put together
       * in memory that all threads share without a lock. */
      return answer_bytes(conn, a, NULL, 0);
    case POLYTLS_GET_OCSP_RESPONSE:
      return answer_ocsp_response(conn, a);
    case POLYTLS_GET_PSK_IDENTITY: {
      const struct psk *psk = used_psk(conn);
      return psk == NULL ? answer_bytes(conn, a, NULL, 0) : answer_bytes(conn, a, psk->identity, psk->identity_len);
    }
    case POLYTLS_GET_TLS_UNIQUE:
    case POLYTLS_GET_TIMESTAMPS:
      return answer_bytes(conn, a, NULL, 0); /* the library does not tell */
    case POLYTLS_GET_SIGNATURE_REQUEST:
      return signature_request(conn, a);
    case POLYTLS_GET_EXPORTER:
      conn->base.error_text[0] = 0;
      if (!conn->done) {
        return conn_error(conn, POLYTLS_FAIL_INTERNAL, "the handshake is not complete");
      }
      return export_keys(conn, buf, len);
    default:
      return conn_error(conn, POLYTLS_FAIL_INTERNAL, "unknown query");
  }
}

static struct polytls_result query(struct polytls_conn *base, int what, uint8_t *buf, size_t len) {
  begin_step((struct connection *)base, 0, 0);
  return what == POLYTLS_GET_FACTS ? polytls_answer_facts(answer_query, base, buf, len) : answer_query(base, what, buf, len);
}

#ifdef HAVE_S2N_TLS_EXPORTER
#define S2N_ABILITY_EXPORTER POLYTLS_ABILITY_EXPORTER
#else
#define S2N_ABILITY_EXPORTER 0
#endif
#ifdef HAVE_S2N_SHUTDOWN_SEND
#define S2N_ABILITY_HALF_CLOSE POLYTLS_ABILITY_HALF_CLOSE
#else
#define S2N_ABILITY_HALF_CLOSE 0
#endif
/* Post-quantum groups are the policies' and read from their table. */
#define S2N_ABILITIES (S2N_ABILITY_EXPORTER | S2N_ABILITY_HALF_CLOSE)

const struct polytls_library *polytls_s2n_library(void) {
  static const struct polytls_library library = {
      .name = "s2n",
      .header_version = POLYTLS_S2N_VERSION_STRING,
      .abilities = S2N_ABILITIES,
      .version = library_version,
      .init = library_init,
      .ctx_new = ctx_new,
      .ctx_set = ctx_set,
      .ctx_finish = ctx_finish,
      .ctx_free = ctx_free,
      .conn_new = conn_new,
      .conn_set = conn_set,
      .handshake = handshake,
      .read = conn_read,
      .write = conn_write,
      .close_notify = close_notify,
      .query = query,
      .conn_free = conn_free,
  };
  return &library;
}

#endif /* POLYTLS_S2N_BUILT_IN */
