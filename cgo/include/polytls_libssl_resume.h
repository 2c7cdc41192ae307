/*
 * Tickets of servers that ask for certificates: a part of polytls_libssl.h, which
 * includes it where all that it uses is declared.
 *
 * A ticket holds the chain that the client has sent, and the chain is verified
 * again, with today's date and revocation lists, when the ticket comes back. One
 * that does not pass is ignored: a full handshake follows. The keys are bound to
 * the mode and to the CAs already (POLYTLS_SET_TICKET_KEY).
 */
#ifndef POLYTLS_LIBSSL_RESUME_H
#define POLYTLS_LIBSSL_RESUME_H

/* The longest chain, on BoringSSL the longest session with its chain, that is put
 * into a ticket: the client has to send it back, and 65535 bytes are the most that
 * fits. */
#define LIBSSL_MAX_TICKET 16384

static int libssl_server_asks(const struct libssl_ctx *ctx) {
  return ctx->role == POLYTLS_SERVER && ctx->verify_mode != POLYTLS_VERIFY_NONE;
}

/* Decides about the chain of a ticket, leaf first, borrowed; NULL or empty for
 * none. What it comes to is the connection's once the session is resumed
 * (libssl_adopt_ticket). Returns 1 or 0. */
static int libssl_check_ticket(struct libssl_conn *conn, STACK_OF(X509) *chain) {
  int mode = conn->ctx->verify_mode;
  int verifies = mode == POLYTLS_VERIFY_IF_GIVEN || mode == POLYTLS_VERIFY_REQUIRE_AND_VERIFY;
  polytls_outcome_free(&conn->ticket);
  conn->ticket_good = 0;
  if (chain == NULL || sk_X509_num(chain) == 0) {
    conn->ticket_good = mode == POLYTLS_VERIFY_REQUEST || mode == POLYTLS_VERIFY_IF_GIVEN;
    return conn->ticket_good;
  }
  X509_STORE_CTX *store_ctx = X509_STORE_CTX_new();
  int ok = store_ctx != NULL &&
           X509_STORE_CTX_init(store_ctx, SSL_CTX_get_cert_store(conn->ctx->ssl_ctx), sk_X509_value(chain, 0), chain) == 1;
  if (ok && verifies) {
    ok = polytls_verify(store_ctx, POLYTLS_CLIENT, &conn->names, conn->ctx->revocation_lists, &conn->ticket) == 1;
  } else if (ok) {
    conn->ticket.sent = polytls_chain_sent(store_ctx);
    ok = conn->ticket.sent != NULL;
  }
  X509_STORE_CTX_free(store_ctx);
  if (!ok) {
    polytls_outcome_free(&conn->ticket);
  }
  /* A ticket that is ignored is no error, and what an accepted one has left would
   * make the library's next wait for input one. */
  ERR_clear_error();
  conn->ticket_good = ok;
  return ok;
}

/* Makes the chain of the ticket that was resumed the peer's. Returns 1, or 0 when
 * the session is not the one whose chain was verified. */
static int libssl_adopt_ticket(struct libssl_conn *conn) {
  if (!libssl_server_asks(conn->ctx) || conn->ticket_adopted) {
    return 1;
  }
  X509 *leaf = SSL_SESSION_get0_peer(SSL_get_session(conn->ssl));
  X509 *verified = conn->ticket.sent == NULL ? NULL : sk_X509_value(conn->ticket.sent, 0);
  if (!conn->ticket_good || (leaf == NULL) != (verified == NULL) || (leaf != NULL && X509_cmp(leaf, verified) != 0)) {
    return 0;
  }
  polytls_outcome_free(&conn->outcome);
  conn->outcome = conn->ticket;
  memset(&conn->ticket, 0, sizeof(conn->ticket));
  conn->accepted = conn->outcome.sent != NULL;
  conn->ticket_adopted = 1;
  return 1;
}

#ifdef OPENSSL_IS_BORINGSSL

/* Makes a stack of the session's chain, which the caller frees with its content;
 * NULL when there is none or it does not parse. */
static STACK_OF(X509) *libssl_session_chain(const SSL_SESSION *session) {
  const STACK_OF(CRYPTO_BUFFER) *buffers = SSL_SESSION_get0_peer_certificates(session);
  STACK_OF(X509) *chain = buffers == NULL ? NULL : sk_X509_new_null();
  for (size_t i = 0; chain != NULL && i < sk_CRYPTO_BUFFER_num(buffers); i++) {
    const CRYPTO_BUFFER *buffer = sk_CRYPTO_BUFFER_value(buffers, i);
    X509 *certificate = libssl_parse_certificate(CRYPTO_BUFFER_data(buffer), CRYPTO_BUFFER_len(buffer));
    if (certificate == NULL || !sk_X509_push(chain, certificate)) {
      X509_free(certificate);
      sk_X509_pop_free(chain, X509_free);
      return NULL;
    }
  }
  return chain;
}

/* A ticket is: name of the key, nonce, sealed session. The library's other callback
 * for tickets never shows what is in one. */
#define LIBSSL_TICKET_NONCE 12
#define LIBSSL_TICKET_HEAD (sizeof(((struct libssl_ticket_key *)0)->name) + LIBSSL_TICKET_NONCE)

static size_t libssl_ticket_overhead(SSL *ssl) {
  (void)ssl;
  return LIBSSL_TICKET_HEAD + EVP_AEAD_max_overhead(EVP_aead_aes_256_gcm_siv());
}

static int libssl_seal_ticket(SSL *ssl, uint8_t *out, size_t *out_len, size_t max_out_len, const uint8_t *in,
                              size_t in_len) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL || conn->ctx->ticket_key_count == 0 || max_out_len < LIBSSL_TICKET_HEAD) {
    return 0;
  }
  if (in_len > LIBSSL_MAX_TICKET) {
    /* Failing would be the end of the handshake, and a ticket of TLS 1.3 is not
     * empty. This one is too short to be opened. */
    *out_len = 1;
    out[0] = 0;
    return 1;
  }
  const struct libssl_ticket_key *key = &conn->ctx->ticket_keys[0];
  EVP_AEAD_CTX *aead = EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm_siv(), key->encryption, sizeof(key->encryption), 0);
  uint8_t *copy = malloc(in_len + 1); /* in and out may be the same */
  int ok = aead != NULL && copy != NULL;
  if (ok) {
    memcpy(copy, in, in_len);
    memcpy(out, key->name, sizeof(key->name));
    ok = RAND_bytes(out + sizeof(key->name), LIBSSL_TICKET_NONCE) == 1 &&
         EVP_AEAD_CTX_seal(aead, out + LIBSSL_TICKET_HEAD, out_len, max_out_len - LIBSSL_TICKET_HEAD,
                           out + sizeof(key->name), LIBSSL_TICKET_NONCE, copy, in_len, key->name, sizeof(key->name)) == 1;
    OPENSSL_cleanse(copy, in_len);
  }
  free(copy);
  EVP_AEAD_CTX_free(aead);
  *out_len = ok ? *out_len + LIBSSL_TICKET_HEAD : 0;
  return ok;
}

static enum ssl_ticket_aead_result_t libssl_open_ticket(SSL *ssl, uint8_t *out, size_t *out_len, size_t max_out_len,
                                                        const uint8_t *in, size_t in_len) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  const struct libssl_ticket_key *key = NULL;
  if (conn == NULL) {
    return ssl_ticket_aead_error;
  }
  for (size_t i = 0; in_len > LIBSSL_TICKET_HEAD && i < conn->ctx->ticket_key_count; i++) {
    if (CRYPTO_memcmp(conn->ctx->ticket_keys[i].name, in, sizeof(key->name)) == 0) {
      key = &conn->ctx->ticket_keys[i];
    }
  }
  if (key == NULL) {
    return ssl_ticket_aead_ignore_ticket;
  }
  EVP_AEAD_CTX *aead = EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm_siv(), key->encryption, sizeof(key->encryption), 0);
  int ok = aead != NULL && EVP_AEAD_CTX_open(aead, out, out_len, max_out_len, in + sizeof(key->name), LIBSSL_TICKET_NONCE,
                                             in + LIBSSL_TICKET_HEAD, in_len - LIBSSL_TICKET_HEAD, key->name,
                                             sizeof(key->name)) == 1;
  EVP_AEAD_CTX_free(aead);
  SSL_SESSION *session = ok ? SSL_SESSION_from_bytes(out, *out_len, conn->ctx->ssl_ctx) : NULL;
  if (session != NULL) {
    STACK_OF(X509) *chain = libssl_session_chain(session);
    ok = (chain == NULL) == (SSL_SESSION_get0_peer(session) == NULL) && libssl_check_ticket(conn, chain);
    sk_X509_pop_free(chain, X509_free);
    SSL_SESSION_free(session);
  }
  ERR_clear_error();
  return session != NULL && ok ? ssl_ticket_aead_success : ssl_ticket_aead_ignore_ticket;
}

static const SSL_TICKET_AEAD_METHOD libssl_ticket_method = {libssl_ticket_overhead, libssl_seal_ticket,
                                                            libssl_open_ticket};

/* Makes the context verify the chains of tickets. Returns 1 or 0. */
static int libssl_verify_tickets(struct libssl_ctx *ctx) {
  SSL_CTX_set_ticket_aead_method(ctx->ssl_ctx, &libssl_ticket_method);
  return 1;
}

#else /* OpenSSL */

/* How long a client is known by its tickets, in seconds: a week, as BoringSSL has
 * it. OpenSSL's sessions of TLS 1.3 begin anew with every ticket. */
#define LIBSSL_MAX_TICKET_AGE (7 * 24 * 60 * 60)
#define LIBSSL_SINCE_SIZE 8

/* Puts the time of the full handshake (uint64 of seconds) and the client's chain
 * into the ticket that is being made; the library's own session has the leaf only. */
static int libssl_fill_ticket(SSL *ssl, void *argument) {
  (void)argument;
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  SSL_SESSION *session = SSL_get_session(ssl);
  if (conn == NULL || session == NULL) {
    return 0;
  }
  STACK_OF(X509) *chain = conn->outcome.sent;
  uint64_t since = (uint64_t)time(NULL);
  if (SSL_session_reused(ssl)) {
    chain = chain == NULL ? conn->ticket.sent : chain;
    since = conn->ticket_since;
  }
  size_t len = polytls_chain_encode(chain, NULL, 0);
  if (len > LIBSSL_MAX_TICKET) {
    len = 0; /* a ticket with a leaf and no chain is ignored */
  }
  uint8_t *bytes = malloc(LIBSSL_SINCE_SIZE + len);
  if (bytes == NULL) {
    return 0;
  }
  for (size_t i = 0; i < LIBSSL_SINCE_SIZE; i++) {
    bytes[i] = (uint8_t)(since >> (8 * (LIBSSL_SINCE_SIZE - 1 - i)));
  }
  if (len > 0 && polytls_chain_encode(chain, bytes + LIBSSL_SINCE_SIZE, len) != len) {
    len = 0;
  }
  int ok = SSL_SESSION_set1_ticket_appdata(session, bytes, LIBSSL_SINCE_SIZE + len);
  free(bytes);
  return ok;
}

/* Reads the time that libssl_fill_ticket has written. Returns 1, or 0 when there is
 * none or it is too long ago. */
static int libssl_session_since(SSL_SESSION *session, uint64_t *since) {
  void *data = NULL;
  size_t len = 0;
  if (SSL_SESSION_get0_ticket_appdata(session, &data, &len) != 1 || len < LIBSSL_SINCE_SIZE) {
    return 0;
  }
  const uint8_t *bytes = data;
  *since = (uint64_t)libssl_uint32(bytes) << 32 | libssl_uint32(bytes + 4);
  uint64_t now = (uint64_t)time(NULL);
  return now < *since || now - *since <= LIBSSL_MAX_TICKET_AGE;
}

/* Makes a stack of the chain that libssl_fill_ticket has written, which the caller
 * frees with its content; NULL when there is none or it does not parse. */
static STACK_OF(X509) *libssl_session_chain(SSL_SESSION *session) {
  void *data = NULL;
  size_t len = 0;
  if (SSL_SESSION_get0_ticket_appdata(session, &data, &len) != 1 || len <= LIBSSL_SINCE_SIZE) {
    return NULL;
  }
  const uint8_t *bytes = (const uint8_t *)data + LIBSSL_SINCE_SIZE;
  len -= LIBSSL_SINCE_SIZE;
  STACK_OF(X509) *chain = sk_X509_new_null();
  while (chain != NULL && len > 0) {
    size_t size = len < 4 ? 0 : libssl_uint32(bytes);
    X509 *certificate = size == 0 || size > len - 4 ? NULL : libssl_parse_certificate(bytes + 4, size);
    if (certificate == NULL || !sk_X509_push(chain, certificate)) {
      X509_free(certificate);
      sk_X509_pop_free(chain, X509_free);
      return NULL;
    }
    bytes += 4 + size;
    len -= 4 + size;
  }
  return chain;
}

/* Decides about a ticket that was decrypted, or could not be. */
static SSL_TICKET_RETURN libssl_judge_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_len,
                                             SSL_TICKET_STATUS status, void *argument) {
  (void)name;
  (void)name_len;
  (void)argument;
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL || session == NULL || (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)) {
    return SSL_TICKET_RETURN_IGNORE_RENEW;
  }
  if (!libssl_session_since(session, &conn->ticket_since)) {
    return SSL_TICKET_RETURN_IGNORE_RENEW;
  }
  STACK_OF(X509) *chain = libssl_session_chain(session);
  int ok = (chain == NULL) == (SSL_SESSION_get0_peer(session) == NULL) && libssl_check_ticket(conn, chain);
  sk_X509_pop_free(chain, X509_free);
  if (!ok) {
    return SSL_TICKET_RETURN_IGNORE_RENEW;
  }
  return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

/* Makes the context verify the chains of tickets. Returns 1 or 0. */
static int libssl_verify_tickets(struct libssl_ctx *ctx) {
  return SSL_CTX_set_session_ticket_cb(ctx->ssl_ctx, libssl_fill_ticket, libssl_judge_ticket, NULL);
}

#endif

#endif /* POLYTLS_LIBSSL_RESUME_H */
