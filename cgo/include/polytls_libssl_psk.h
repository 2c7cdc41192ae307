/*
 * Pre-shared keys of the libssl family: a part of polytls_libssl.h, which
 * includes it where all that it uses is declared.
 *
 *   external  TLS 1.3 (RFC 8446), OpenSSL: sessions made from the secrets
 *   imported  TLS 1.3 (RFC 9258), BoringSSL: credentials
 *   tls12     TLS 1.2, both: the ECDHE_PSK cipher suites (RFC 5489, RFC 7905)
 *
 * The PSKs belong to the context and do not change once it is finished;
 * connections point to them.
 */
#ifndef POLYTLS_LIBSSL_PSK_H
#define POLYTLS_LIBSSL_PSK_H

/* RFC 4279 section 5.3 asks for identities of this length at least, and
 * BoringSSL takes no longer ones. */
#define LIBSSL_MAX_TLS12_PSK_IDENTITY 128
/* The libraries have different names for these (RFC 8446 section 4.2). */
#define LIBSSL_EXTENSION_PSK 41
#define LIBSSL_EXTENSION_PSK_MODES 45

/* ---- configuration ---- */

static void libssl_psks_free(struct libssl_ctx *ctx) {
  for (size_t i = 0; i < ctx->psk_count; i++) {
    struct libssl_psk *psk = &ctx->psks[i];
    if (psk->secret != NULL) {
      OPENSSL_cleanse(psk->secret, psk->secret_len);
    }
    free(psk->secret);
    free(psk->identity);
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
    SSL_CREDENTIAL_free(psk->credential);
#endif
  }
  free(ctx->psks);
#ifndef OPENSSL_IS_BORINGSSL
  for (size_t i = 0; i < 2; i++) {
    free(ctx->psk_suites[i].values);
    free(ctx->psk_suite_names[i]);
  }
#endif
}

/* Refuses what the library cannot do with such a PSK. */
static struct polytls_result libssl_check_psk(struct libssl_ctx *ctx, const struct libssl_psk *psk,
                                              const uint8_t *identity) {
  char *text = ctx->head.error_text;
  int again = ctx->role == POLYTLS_CLIENT && ctx->psk_kinds[psk->kind] > 0;
  switch (psk->kind) {
    case POLYTLS_PSK_EXTERNAL:
#ifdef OPENSSL_IS_BORINGSSL
      return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                         "BoringSSL has no external PSKs; it has imported ones (RFC 9258)");
#else
      if (again) {
        return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                           "OpenSSL's client can offer one external PSK; configure one");
      }
#endif
      break;
    case POLYTLS_PSK_IMPORTED:
#ifndef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
      return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0, "%s %s has no imported PSKs (RFC 9258)",
                         POLYTLS_LIBSSL_NAME, libssl_version());
#endif
      break;
    case POLYTLS_PSK_TLS12:
      if (again) {
        return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                           "a client of TLS 1.2 can use one PSK; configure one of kind tls12");
      }
      if (psk->identity_len > LIBSSL_MAX_TLS12_PSK_IDENTITY || memchr(identity, 0, psk->identity_len) != NULL) {
        return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                           "the identity of a PSK of kind tls12 can have %d bytes at most and no zero byte",
                           LIBSSL_MAX_TLS12_PSK_IDENTITY);
      }
      if (psk->secret_len > PSK_MAX_PSK_LEN) {
        return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                           "the secret of a PSK of kind tls12 can have %d bytes at most, not %zu", PSK_MAX_PSK_LEN,
                           psk->secret_len);
      }
      break;
  }
  if (psk->identity_len > LIBSSL_MAX_PSK_IDENTITY) {
    return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0, "a PSK identity can have %d bytes at most",
                       LIBSSL_MAX_PSK_IDENTITY);
  }
  return libssl_result(POLYTLS_OK);
}

/* Copies the PSK. */
static struct polytls_result libssl_add_psk(struct libssl_ctx *ctx, const uint8_t *data, size_t len) {
  size_t identity_len = len < 6 ? 0 : libssl_uint16(data + 2);
  if (identity_len == 0 || data[0] > POLYTLS_PSK_TLS12 || data[1] > POLYTLS_PSK_SHA384 || identity_len > len - 6 ||
      libssl_uint16(data + 4 + identity_len) >= len - 6 - identity_len) {
    return libssl_malformed(ctx, "PSK");
  }
  struct libssl_psk psk;
  memset(&psk, 0, sizeof(psk));
  psk.kind = (enum polytls_psk_kind)data[0];
  psk.hash = (enum polytls_psk_hash)data[1];
  psk.identity_len = identity_len;
  const uint8_t *identity = data + 4;
  const uint8_t *context = identity + identity_len + 2;
  size_t context_len = libssl_uint16(context - 2);
  const uint8_t *secret = context + context_len;
  psk.secret_len = len - (size_t)(secret - data);
  struct polytls_result result = libssl_check_psk(ctx, &psk, identity);
  if (result.status != POLYTLS_OK) {
    return result;
  }
  struct libssl_psk *psks = realloc(ctx->psks, (ctx->psk_count + 1) * sizeof(*psks));
  if (psks == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  ctx->psks = psks;
  /* From here on the context frees it. */
  struct libssl_psk *added = &psks[ctx->psk_count++];
  *added = psk;
  added->identity = malloc(psk.identity_len + 1);
  if (added->identity == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  memcpy(added->identity, identity, psk.identity_len);
  added->identity[psk.identity_len] = 0; /* TLS 1.2 takes it as a string */
  ctx->psk_kinds[psk.kind]++;
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
  if (psk.kind == POLYTLS_PSK_IMPORTED) {
    const EVP_MD *md = psk.hash == POLYTLS_PSK_SHA384 ? EVP_sha384() : EVP_sha256();
    /* The credential holds what is derived from the secret. */
    added->credential =
        SSL_CREDENTIAL_new_pre_shared_key(secret, psk.secret_len, identity, psk.identity_len, md, context, context_len);
    return added->credential != NULL
               ? libssl_result(POLYTLS_OK)
               : libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "an imported PSK cannot be used");
  }
#endif
  added->secret = malloc(psk.secret_len);
  if (added->secret == NULL) {
    return libssl_ctx_out_of_memory(ctx);
  }
  memcpy(added->secret, secret, psk.secret_len);
  return libssl_result(POLYTLS_OK);
}

static size_t libssl_tls13_psks(const struct libssl_ctx *ctx) {
  return ctx->psk_kinds[POLYTLS_PSK_EXTERNAL] + ctx->psk_kinds[POLYTLS_PSK_IMPORTED];
}

/* Checks that every PSK can come to be used, and rules TLS 1.3 out where only
 * PSKs of TLS 1.2 could make a connection. */
static struct polytls_result libssl_finish_psk_versions(struct libssl_ctx *ctx) {
  char *text = ctx->head.error_text;
  if (ctx->psk_count == 0) {
    return ctx->require_psk ? libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "there is no PSK to be required")
                            : libssl_result(POLYTLS_OK);
  }
  if (libssl_tls13_psks(ctx) > 0 && ctx->max_version < TLS1_3_VERSION) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "PSKs of kind %s need TLS 1.3, which is not enabled",
                       ctx->psk_kinds[POLYTLS_PSK_EXTERNAL] > 0 ? "external" : "imported");
  }
  if (ctx->psk_kinds[POLYTLS_PSK_TLS12] > 0 && ctx->min_version > TLS1_2_VERSION) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "PSKs of kind tls12 need TLS 1.2, which is not enabled");
  }
  int psks_only = ctx->require_psk || (ctx->role == POLYTLS_SERVER && ctx->certificates == 0);
  if (psks_only && libssl_tls13_psks(ctx) == 0 && ctx->max_version > TLS1_2_VERSION) {
    ctx->max_version = TLS1_2_VERSION;
    if (SSL_CTX_set_max_proto_version(ctx->ssl_ctx, TLS1_2_VERSION) != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "TLS 1.3 cannot be ruled out");
    }
  }
  return libssl_result(POLYTLS_OK);
}

/* ---- TLS 1.2 ---- */

/* With forward secrecy, the AEAD one first. Those behind it, with CBC, are for
 * peers that have nothing else; a list of suites by the user, who can name AEAD
 * suites only, rules them out. */
static const uint16_t libssl_psk_suite_ids[] = {
    0xccac, /* TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256 */
    0xc037, /* TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256 */
    0xc038, /* TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA384 */
    0xc035, /* TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA */
    0xc036, /* TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA */
};

static int libssl_is_psk_suite(uint16_t id) {
  for (size_t i = 0; i < sizeof(libssl_psk_suite_ids) / sizeof(libssl_psk_suite_ids[0]); i++) {
    if (libssl_psk_suite_ids[i] == id) {
      return 1;
    }
  }
  return 0;
}

/* Gives the client's PSK to the library. Returns the length of the secret, or 0
 * for none: OpenSSL asks for a PSK of TLS 1.3 here, too. */
static unsigned libssl_tls12_psk_client(SSL *ssl, const char *hint, char *identity, unsigned max_identity_len,
                                        unsigned char *secret, unsigned max_secret_len) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  (void)hint;
  if (conn == NULL || SSL_version(ssl) != TLS1_2_VERSION) {
    return 0;
  }
  for (size_t i = 0; i < conn->ctx->psk_count; i++) {
    const struct libssl_psk *psk = &conn->ctx->psks[i];
    if (psk->kind == POLYTLS_PSK_TLS12 && psk->identity_len < max_identity_len && psk->secret_len <= max_secret_len) {
      memcpy(identity, psk->identity, psk->identity_len + 1);
      memcpy(secret, psk->secret, psk->secret_len);
      conn->psk = psk;
      return (unsigned)psk->secret_len;
    }
  }
  return 0;
}

/* The same for the server's PSK of that identity. */
static unsigned libssl_tls12_psk_server(SSL *ssl, const char *identity, unsigned char *secret,
                                        unsigned max_secret_len) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL || identity == NULL || SSL_version(ssl) != TLS1_2_VERSION) {
    return 0;
  }
  for (size_t i = 0; i < conn->ctx->psk_count; i++) {
    const struct libssl_psk *psk = &conn->ctx->psks[i];
    if (psk->kind == POLYTLS_PSK_TLS12 && strcmp((const char *)psk->identity, identity) == 0 &&
        psk->secret_len <= max_secret_len) {
      memcpy(secret, psk->secret, psk->secret_len);
      conn->psk = psk;
      return (unsigned)psk->secret_len;
    }
  }
  return 0;
}

/* Makes the list of suites; ssl is a connection for look-ups. */
static struct polytls_result libssl_tls12_psk_suites(struct libssl_ctx *ctx, SSL *ssl, struct libssl_list *list) {
  for (size_t i = 0; i < sizeof(libssl_psk_suite_ids) / sizeof(libssl_psk_suite_ids[0]); i++) {
    const char *name = libssl_suite_name(ssl, libssl_psk_suite_ids[i]);
    int wanted = i == 0 || ctx->suites.count == 0;
    if (wanted && name != NULL && !libssl_list_append(list, ':', "", name)) {
      return libssl_ctx_out_of_memory(ctx);
    }
  }
  STACK_OF(SSL_CIPHER) *others = SSL_CTX_get_ciphers(ctx->ssl_ctx);
  for (size_t i = 0; !ctx->require_psk && i < (size_t)sk_SSL_CIPHER_num(others); i++) {
    const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(others, (int)i);
    uint16_t id = (uint16_t)SSL_CIPHER_get_protocol_id(cipher);
    if (!libssl_suite_is_tls13(id) && !libssl_is_psk_suite(id) &&
        !libssl_list_append(list, ':', "", SSL_CIPHER_get_name(cipher))) {
      return libssl_ctx_out_of_memory(ctx);
    }
  }
  return libssl_result(POLYTLS_OK);
}

#ifndef OPENSSL_IS_BORINGSSL
/* Reports whether a suite of libssl_psk_suite_ids is left by the library's policy. */
static int libssl_tls12_psk_enabled(struct libssl_ctx *ctx) {
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  int enabled = 0;
  if (ssl != NULL) {
    /* The library leaves these suites out of a server's list, too, for want of
     * a client's callback. */
    SSL_set_psk_client_callback(ssl, libssl_tls12_psk_client);
    STACK_OF(SSL_CIPHER) *ciphers = SSL_get1_supported_ciphers(ssl);
    for (int i = 0; ciphers != NULL && i < sk_SSL_CIPHER_num(ciphers); i++) {
      enabled = enabled || libssl_is_psk_suite((uint16_t)SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(ciphers, i)));
    }
    sk_SSL_CIPHER_free(ciphers);
    SSL_free(ssl);
  }
  return enabled;
}
#endif

/* Puts the PSK suites before the others, or alone where a PSK is required. */
static struct polytls_result libssl_finish_tls12_psks(struct libssl_ctx *ctx) {
  if (ctx->psk_kinds[POLYTLS_PSK_TLS12] == 0) {
    return libssl_result(POLYTLS_OK);
  }
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  if (ssl == NULL) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the cipher suites cannot be looked up");
  }
  struct libssl_list list = {NULL, 0};
  struct polytls_result result = libssl_tls12_psk_suites(ctx, ssl, &list);
  SSL_free(ssl);
  if (result.status != POLYTLS_OK) {
    free(list.text);
    return result;
  }
#ifdef OPENSSL_IS_BORINGSSL
  int ok = list.text != NULL && SSL_CTX_set_strict_cipher_list(ctx->ssl_ctx, list.text) == 1;
#else
  int ok = list.text != NULL && SSL_CTX_set_cipher_list(ctx->ssl_ctx, list.text) == 1 && libssl_tls12_psk_enabled(ctx);
#endif
  free(list.text);
  if (!ok) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED,
                                      "the library has or allows no PSK cipher suite with forward secrecy");
  }
  if (ctx->role == POLYTLS_CLIENT) {
    SSL_CTX_set_psk_client_callback(ctx->ssl_ctx, libssl_tls12_psk_client);
  } else {
    SSL_CTX_set_psk_server_callback(ctx->ssl_ctx, libssl_tls12_psk_server);
  }
  return result;
}

/* ---- the server's choice ---- */

#ifdef OPENSSL_IS_BORINGSSL
typedef const SSL_CLIENT_HELLO libssl_hello;

static int libssl_hello_extension(libssl_hello *hello, uint16_t type, const uint8_t **bytes, size_t *len) {
  return SSL_early_callback_ctx_extension_get(hello, type, bytes, len) == 1;
}

static size_t libssl_hello_suites(libssl_hello *hello, const uint8_t **bytes) {
  *bytes = hello->cipher_suites;
  return hello->cipher_suites_len;
}
#else
typedef SSL libssl_hello;

static int libssl_hello_extension(libssl_hello *hello, uint16_t type, const uint8_t **bytes, size_t *len) {
  return SSL_client_hello_get0_ext(hello, type, bytes, len) == 1;
}

static size_t libssl_hello_suites(libssl_hello *hello, const uint8_t **bytes) {
  return SSL_client_hello_get0_ciphers(hello, bytes);
}
#endif

static int libssl_hello_has_version(libssl_hello *hello, uint16_t version) {
  const uint8_t *bytes = NULL;
  size_t len = 0;
  if (!libssl_hello_extension(hello, TLSEXT_TYPE_supported_versions, &bytes, &len)) {
    return version == TLS1_2_VERSION;
  }
  for (size_t at = 1; at + 2 <= len; at += 2) {
    if (libssl_uint16(bytes + at) == version) {
      return 1;
    }
  }
  return 0;
}

enum libssl_psk_offer { LIBSSL_PSK_ABSENT, LIBSSL_PSK_OTHER_HASH, LIBSSL_PSK_OFFERED };

/* Reports whether an identity of a ClientHello is that of the PSK. The identity
 * of an imported one is a structure of RFC 9258 section 5.1; the context is
 * empty. */
static int libssl_is_psk_identity(const uint8_t *bytes, size_t len, const struct libssl_psk *psk) {
  if (psk->kind == POLYTLS_PSK_EXTERNAL) {
    return len == psk->identity_len && memcmp(bytes, psk->identity, len) == 0;
  }
  if (psk->kind != POLYTLS_PSK_IMPORTED || len != 2 + psk->identity_len + 6) {
    return 0;
  }
  const uint8_t *end = bytes + 2 + psk->identity_len;
  return libssl_uint16(bytes) == psk->identity_len && memcmp(bytes + 2, psk->identity, psk->identity_len) == 0 &&
         libssl_uint16(end) == 0 && libssl_uint16(end + 2) == TLS1_3_VERSION &&
         (libssl_uint16(end + 4) == 1 || libssl_uint16(end + 4) == 2);
}

/* Looks for a PSK in the pre_shared_key extension (RFC 8446 section 4.2.11).
 * The length of its binder tells the client's hash. What is malformed is the
 * library's to refuse. */
static enum libssl_psk_offer libssl_psk_offered(const uint8_t *bytes, size_t len, const struct libssl_psk *psk) {
  if (len < 2 || libssl_uint16(bytes) > len - 2) {
    return LIBSSL_PSK_ABSENT;
  }
  size_t end = 2 + (size_t)libssl_uint16(bytes);
  size_t index = 0;
  int found = 0;
  for (size_t at = 2; !found && end - at >= 2;) {
    size_t size = libssl_uint16(bytes + at);
    at += 2;
    if (end - at < 4 || size > end - at - 4) {
      return LIBSSL_PSK_ABSENT;
    }
    found = libssl_is_psk_identity(bytes + at, size, psk);
    at += size + 4; /* the age of the ticket follows */
    index += found ? 0 : 1;
  }
  if (!found) {
    return LIBSSL_PSK_ABSENT;
  }
  /* An imported PSK is offered for every hash that suites have. */
  if (psk->kind == POLYTLS_PSK_IMPORTED) {
    return LIBSSL_PSK_OFFERED;
  }
  for (size_t at = end + 2; at < len; at += 1 + (size_t)bytes[at]) {
    if (index-- == 0) {
      return bytes[at] == (psk->hash == POLYTLS_PSK_SHA384 ? 48 : 32) ? LIBSSL_PSK_OFFERED : LIBSSL_PSK_OTHER_HASH;
    }
  }
  return LIBSSL_PSK_ABSENT;
}

#ifndef OPENSSL_IS_BORINGSSL
static int libssl_hello_has_suite(libssl_hello *hello, const struct libssl_ids *suites) {
  const uint8_t *bytes = NULL;
  size_t len = libssl_hello_suites(hello, &bytes);
  for (size_t at = 0; at + 2 <= len; at += 2) {
    if (libssl_ids_contain(suites, libssl_uint16(bytes + at))) {
      return 1;
    }
  }
  return 0;
}
#endif

/* Returns the first PSK of TLS 1.3 in the server's list that the client offers
 * and that one of the suites fits, or NULL with *reason. */
static const struct libssl_psk *libssl_choose_tls13_psk(const struct libssl_ctx *ctx, libssl_hello *hello,
                                                        const char **reason) {
  const uint8_t *modes = NULL;
  const uint8_t *offers = NULL;
  size_t modes_len = 0;
  size_t len = 0;
  *reason = "the client offers no PSK";
  if (!libssl_hello_extension(hello, LIBSSL_EXTENSION_PSK_MODES, &modes, &modes_len) || modes_len < 2 ||
      memchr(modes + 1, LIBSSL_PSK_DHE_KE, modes_len - 1) == NULL ||
      !libssl_hello_extension(hello, LIBSSL_EXTENSION_PSK, &offers, &len)) {
    return NULL;
  }
  *reason = "the client offers none of the PSKs by its identity";
  for (size_t i = 0; i < ctx->psk_count; i++) {
    const struct libssl_psk *psk = &ctx->psks[i];
    switch (libssl_psk_offered(offers, len, psk)) {
      case LIBSSL_PSK_OFFERED:
#ifndef OPENSSL_IS_BORINGSSL
        if (!libssl_hello_has_suite(hello, &ctx->psk_suites[psk->hash])) {
          *reason = "the client offers no cipher suite with the hash of the PSK";
          break;
        }
#endif
        return psk;
      case LIBSSL_PSK_OTHER_HASH:
        *reason = "the client offers the PSK with another hash";
        break;
      default:
        break;
    }
  }
  return NULL;
}

static int libssl_hello_has_psk_suite(const struct libssl_ctx *ctx, libssl_hello *hello) {
  const uint8_t *bytes = NULL;
  size_t len = libssl_hello_suites(hello, &bytes);
  for (size_t at = 0; at + 2 <= len; at += 2) {
    uint16_t id = libssl_uint16(bytes + at);
    if (id == libssl_psk_suite_ids[0] || (ctx->suites.count == 0 && libssl_is_psk_suite(id))) {
      return 1;
    }
  }
  return 0;
}

/* Decides before the library does whether a ClientHello comes to a PSK. Returns
 * 1, or 0 when a PSK is required and there is none: the caller sends
 * unknown_psk_identity. */
static int libssl_choose_psk(struct libssl_conn *conn, libssl_hello *hello) {
  const struct libssl_ctx *ctx = conn->ctx;
  const char *reason = "the client offers neither TLS 1.3 nor a PSK cipher suite of TLS 1.2";
  conn->psk = NULL;
  if (ctx->psk_count == 0) {
    return 1;
  }
  int tls13 = ctx->max_version >= TLS1_3_VERSION && libssl_hello_has_version(hello, TLS1_3_VERSION);
#ifndef OPENSSL_IS_BORINGSSL
  if (tls13) {
    /* With it OpenSSL prefers other suites of TLS 1.3. */
    SSL_set_psk_server_callback(conn->ssl, NULL);
  }
#endif
  const struct libssl_psk *psk = tls13 ? libssl_choose_tls13_psk(ctx, hello, &reason) : NULL;
  if (psk != NULL) {
#ifndef OPENSSL_IS_BORINGSSL
    /* OpenSSL chooses the suite first and then passes over PSKs of another
     * hash. BoringSSL tells later itself which one it has chosen. */
    conn->psk = psk;
    return SSL_set_ciphersuites(conn->ssl, ctx->psk_suite_names[psk->hash]) == 1;
#else
    return 1;
#endif
  }
  if (!ctx->require_psk && ctx->certificates > 0) {
    return 1;
  }
  if (ctx->psk_kinds[POLYTLS_PSK_TLS12] > 0 && libssl_hello_has_version(hello, TLS1_2_VERSION) &&
      libssl_hello_has_psk_suite(ctx, hello)) {
    /* TLS 1.3 would come to certificates. */
#ifndef OPENSSL_IS_BORINGSSL
    SSL_set_psk_server_callback(conn->ssl, libssl_tls12_psk_server);
#endif
    return SSL_set_max_proto_version(conn->ssl, TLS1_2_VERSION) == 1;
  }
  if (!ctx->require_psk) {
    return 1;
  }
  conn->psk_missing = 1;
  libssl_keep_text(conn, reason);
  return 0;
}

/* ---- TLS 1.3 ---- */

#ifdef OPENSSL_IS_BORINGSSL

/* Room for what a ClientHello holds besides PSKs, under the 16384 bytes that
 * BoringSSL reads of one. */
#define LIBSSL_MAX_PSK_OFFER 14000

/* Gives the imported PSKs to the library, before the certificates: a server
 * takes what comes first. */
static struct polytls_result libssl_finish_imported_psks(struct libssl_ctx *ctx) {
  size_t size = 0;
  for (size_t i = 0; i < ctx->psk_count; i++) {
    const struct libssl_psk *psk = &ctx->psks[i];
    if (psk->kind != POLYTLS_PSK_IMPORTED) {
      continue;
    }
    /* Twice, for SHA-256 and SHA-384: identity, age, binder. */
    size += 2 * (psk->identity_len + 14) + 33 + 49;
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
    if (SSL_CTX_add1_credential(ctx->ssl_ctx, psk->credential) != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_UNSUPPORTED, "an imported PSK cannot be used");
    }
#endif
  }
  if (ctx->role == POLYTLS_CLIENT && size > LIBSSL_MAX_PSK_OFFER) {
    return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "the PSKs would take %zu bytes of the ClientHello; the most is %d", size, LIBSSL_MAX_PSK_OFFER);
  }
  return libssl_result(POLYTLS_OK);
}

/* Notes the imported PSK that the handshake has come to, as long as the library
 * tells it. */
static void libssl_note_psk(struct libssl_conn *conn) {
#ifdef HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY
  if (conn->ctx->psk_kinds[POLYTLS_PSK_IMPORTED] == 0 || SSL_version(conn->ssl) != TLS1_3_VERSION) {
    return;
  }
  const SSL_CREDENTIAL *selected = SSL_get0_selected_credential(conn->ssl);
  for (size_t i = 0; selected != NULL && i < conn->ctx->psk_count; i++) {
    if (conn->ctx->psks[i].credential == selected) {
      conn->psk = &conn->ctx->psks[i];
    }
  }
#else
  (void)conn;
#endif
}

static struct polytls_result libssl_finish_psks(struct libssl_ctx *ctx) { return libssl_finish_tls12_psks(ctx); }

#else /* OpenSSL */

static void libssl_note_psk(struct libssl_conn *conn) { (void)conn; }

/* Makes a session that stands for the PSK; ssl is a connection of the context.
 * The caller owns it. NULL: the library takes no such secret, or memory ran
 * out. */
static SSL_SESSION *libssl_psk_session(const struct libssl_ctx *ctx, SSL *ssl, const struct libssl_psk *psk) {
  const uint8_t suite[2] = {0x13, psk->hash == POLYTLS_PSK_SHA384 ? 0x02 : 0x01};
  const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
  SSL_SESSION *session = SSL_SESSION_new();
  if (session == NULL || cipher == NULL || SSL_SESSION_set1_master_key(session, psk->secret, psk->secret_len) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 || SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1 ||
      SSL_SESSION_set1_id_context(session, ctx->session_context, ctx->session_context_len) != 1) {
    SSL_SESSION_free(session);
    return NULL;
  }
  return session;
}

/* Offers the client's PSK. md is NULL, or the hash that a HelloRetryRequest has
 * settled; the library owns the session from then on. */
static int libssl_psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **identity, size_t *identity_len,
                          SSL_SESSION **session) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  *session = NULL;
  for (size_t i = 0; conn != NULL && i < conn->ctx->psk_count; i++) {
    const struct libssl_psk *psk = &conn->ctx->psks[i];
    if (psk->kind != POLYTLS_PSK_EXTERNAL ||
        (md != NULL && EVP_MD_get_type(md) != (psk->hash == POLYTLS_PSK_SHA384 ? NID_sha384 : NID_sha256))) {
      continue;
    }
    *session = libssl_psk_session(conn->ctx, ssl, psk);
    if (*session == NULL) {
      conn->out_of_memory = 1;
      return 0;
    }
    conn->psk = psk;
    *identity = psk->identity;
    *identity_len = psk->identity_len;
    return 1;
  }
  return 1;
}

/* Answers for the PSK that libssl_client_hello has chosen, and no other. */
static int libssl_psk_find(SSL *ssl, const unsigned char *identity, size_t identity_len, SSL_SESSION **session) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  *session = NULL;
  if (conn == NULL || conn->psk == NULL || conn->psk->identity_len != identity_len ||
      memcmp(conn->psk->identity, identity, identity_len) != 0) {
    return 1;
  }
  *session = libssl_psk_session(conn->ctx, ssl, conn->psk);
  if (*session == NULL) {
    conn->out_of_memory = 1;
    return 0;
  }
  return 1;
}

/* Sorts the enabled TLS 1.3 suites by their hash. Returns 1, or 0 when memory
 * ran out. */
static int libssl_sort_psk_suites(struct libssl_ctx *ctx, SSL *ssl) {
  STACK_OF(SSL_CIPHER) *enabled = SSL_get1_supported_ciphers(ssl);
  struct libssl_list names[2] = {{NULL, 0}, {NULL, 0}};
  int ok = enabled != NULL;
  for (int i = 0; ok && i < sk_SSL_CIPHER_num(enabled); i++) {
    const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(enabled, i);
    uint16_t id = (uint16_t)SSL_CIPHER_get_protocol_id(cipher);
    if (!libssl_suite_is_tls13(id)) {
      continue;
    }
    const EVP_MD *md = SSL_CIPHER_get_handshake_digest(cipher);
    int hash = md != NULL && EVP_MD_get_type(md) == NID_sha384 ? POLYTLS_PSK_SHA384 : POLYTLS_PSK_SHA256;
    struct libssl_ids *ids = &ctx->psk_suites[hash];
    uint16_t *values = realloc(ids->values, (ids->count + 1) * sizeof(*values));
    ok = values != NULL && libssl_list_append(&names[hash], ':', "", SSL_CIPHER_get_name(cipher));
    if (values != NULL) {
      ids->values = values;
      ids->values[ids->count++] = id;
    }
  }
  ctx->psk_suite_names[0] = names[0].text;
  ctx->psk_suite_names[1] = names[1].text;
  sk_SSL_CIPHER_free(enabled);
  return ok;
}

/* ssl is a connection for look-ups. */
static struct polytls_result libssl_check_external_psks(struct libssl_ctx *ctx, SSL *ssl) {
  if (!libssl_sort_psk_suites(ctx, ssl)) {
    return libssl_ctx_out_of_memory(ctx);
  }
  for (size_t i = 0; i < ctx->psk_count; i++) {
    const struct libssl_psk *psk = &ctx->psks[i];
    if (psk->kind != POLYTLS_PSK_EXTERNAL) {
      continue;
    }
    if (ctx->psk_suites[psk->hash].count == 0) {
      return libssl_fail(ctx->head.error_text, ctx->suites.count > 0 ? POLYTLS_FAIL_CONFIG : POLYTLS_FAIL_UNSUPPORTED, 0,
                         "PSK %zu has the hash %s, but no enabled cipher suite of TLS 1.3 has it", i + 1,
                         psk->hash == POLYTLS_PSK_SHA384 ? "sha384" : "sha256");
    }
    SSL_SESSION *session = libssl_psk_session(ctx, ssl, psk);
    SSL_SESSION_free(session);
    if (session == NULL) {
      ERR_clear_error();
      return libssl_fail(ctx->head.error_text, POLYTLS_FAIL_UNSUPPORTED, 0,
                         "OpenSSL does not take PSK %zu: its secret has %zu bytes", i + 1, psk->secret_len);
    }
    /* The client's only one: a server that chose a suite of another hash would
     * pass over it. */
    if (ctx->role == POLYTLS_CLIENT && ctx->require_psk &&
        SSL_CTX_set_ciphersuites(ctx->ssl_ctx, ctx->psk_suite_names[psk->hash]) != 1) {
      return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the cipher suites of the PSK cannot be set");
    }
  }
  return libssl_result(POLYTLS_OK);
}

static struct polytls_result libssl_finish_psks(struct libssl_ctx *ctx) {
  if (ctx->psk_count == 0) {
    return libssl_result(POLYTLS_OK);
  }
  SSL *ssl = SSL_new(ctx->ssl_ctx);
  if (ssl == NULL) {
    return libssl_ctx_library_failure(ctx, POLYTLS_FAIL_INTERNAL, "the PSKs cannot be looked at");
  }
  struct polytls_result result = libssl_check_external_psks(ctx, ssl);
  SSL_free(ssl);
  if (result.status != POLYTLS_OK) {
    return result;
  }
  /* A PSK without a key exchange has no forward secrecy; the system's
   * configuration may have allowed it. */
  SSL_CTX_clear_options(ctx->ssl_ctx, SSL_OP_ALLOW_NO_DHE_KEX);
  if (ctx->psk_kinds[POLYTLS_PSK_EXTERNAL] > 0) {
    if (ctx->role == POLYTLS_CLIENT) {
      SSL_CTX_set_psk_use_session_callback(ctx->ssl_ctx, libssl_psk_use);
    } else {
      SSL_CTX_set_psk_find_session_callback(ctx->ssl_ctx, libssl_psk_find);
    }
  }
  return libssl_finish_tls12_psks(ctx);
}

#endif

/* ---- outcomes ---- */

/* Reports whether a PSK authenticates the connection, instead of certificates. */
static int libssl_uses_psk(const struct libssl_conn *conn) {
  if (conn->psk == NULL) {
    return 0;
  }
  switch (conn->psk->kind) {
    case POLYTLS_PSK_TLS12:
      return SSL_version(conn->ssl) == TLS1_2_VERSION;
    case POLYTLS_PSK_IMPORTED:
      return SSL_version(conn->ssl) == TLS1_3_VERSION;
    default:
      return SSL_session_reused(conn->ssl) != 0;
  }
}

/* Reports whether a failure of the handshake means that the peer has another
 * secret for the PSK. TLS 1.2 shows it with the first encrypted message, which
 * does not decrypt then. */
static int libssl_is_bad_psk(struct libssl_conn *conn, int reason) {
  libssl_note_psk(conn);
  if (conn->handshake_done || conn->psk == NULL) {
    return 0;
  }
  switch (conn->psk->kind) {
    case POLYTLS_PSK_TLS12:
      return reason == SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC || reason == SSL_R_DIGEST_CHECK_FAILED;
    case POLYTLS_PSK_IMPORTED:
      return reason == SSL_R_DIGEST_CHECK_FAILED;
    default:
#ifdef SSL_R_BINDER_DOES_NOT_VERIFY
      return reason == SSL_R_BINDER_DOES_NOT_VERIFY;
#else
      return 0;
#endif
  }
}

#endif /* POLYTLS_LIBSSL_PSK_H */
