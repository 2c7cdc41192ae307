/*
 * A client's certificate that is chosen when the server asks for one: a part of
 * polytls_libssl.h, which includes it where all that it uses is declared.
 *
 * The handshake stops in the libraries' certificate callback, which asks to be
 * called again, with POLYTLS_WANT_CERTIFICATE, and goes on when there is an answer.
 * The server's certificate has been verified by then.
 */
#ifndef POLYTLS_LIBSSL_CHOICE_H
#define POLYTLS_LIBSSL_CHOICE_H

static int libssl_on_certificate_request(SSL *ssl, void *argument) {
  (void)ssl;
  struct libssl_conn *conn = argument;
  switch (conn->choice) {
    case LIBSSL_CHOICE_MADE:
      return 1;
    case LIBSSL_CHOICE_FAILED:
      return 0;
    default:
      conn->choice = LIBSSL_CHOICE_WANTED;
      return -1;
  }
}

static struct polytls_result libssl_ask_certificate(struct libssl_conn *conn, const uint8_t *data, size_t len) {
  if (len != 1 || data[0] > 1) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "ask certificate: the value is malformed");
  }
  if (data[0] == 1) {
    conn->choice = LIBSSL_CHOICE_ASKED;
    SSL_set_cert_cb(conn->ssl, libssl_on_certificate_request, conn);
  }
  return libssl_result(POLYTLS_OK);
}

/* Gives the connection the certificate, of which everything stays the caller's, and
 * what it signs with. Returns 1 or 0. */
static int libssl_use_identity(struct libssl_conn *conn, const struct libssl_identity *identity,
                               const struct libssl_ids *own) {
#if defined(HAVE_SSL_CREDENTIAL)
  uint16_t schemes[LIBSSL_MAX_IDS];
  size_t count = libssl_signing_schemes(conn->ctx, own, schemes);
  SSL_CREDENTIAL *credential = libssl_credential(identity);
  int ok = credential != NULL && count > 0 &&
           SSL_CREDENTIAL_set1_signing_algorithm_prefs(credential, schemes, count) == 1 &&
           SSL_add1_credential(conn->ssl, credential) == 1;
  SSL_CREDENTIAL_free(credential);
  return ok;
#elif defined(OPENSSL_IS_BORINGSSL)
  uint16_t schemes[LIBSSL_MAX_IDS];
  size_t count = libssl_signing_schemes(conn->ctx, own, schemes);
  if (count == 0 || !SSL_set_signing_algorithm_prefs(conn->ssl, schemes, count) ||
      !SSL_use_certificate(conn->ssl, identity->leaf) || !SSL_set1_chain(conn->ssl, identity->issuers)) {
    return 0;
  }
  if (identity->external) {
    SSL_set_private_key_method(conn->ssl, &libssl_signer_method);
    return 1;
  }
  return SSL_use_PrivateKey(conn->ssl, identity->key) == 1;
#else
  (void)own;
  return SSL_use_cert_and_key(conn->ssl, identity->leaf, identity->key, identity->issuers, 1) == 1;
#endif
}

/* Takes the certificate of POLYTLS_CHOICE_SEND. */
static struct polytls_result libssl_send_certificate(struct libssl_conn *conn, const uint8_t *data, size_t len) {
  char *text = conn->head.error_text;
  size_t schemes_len = len < 2 ? 0 : libssl_uint16(data);
  if (len < 2 || schemes_len > len - 2 || schemes_len % 2 != 0 || schemes_len > 2 * LIBSSL_MAX_IDS) {
    return libssl_fail(text, POLYTLS_FAIL_CONFIG, 0, "chosen certificate: the value is malformed");
  }
#ifndef OPENSSL_IS_BORINGSSL
  if (schemes_len > 0) {
    return libssl_fail(text, POLYTLS_FAIL_UNSUPPORTED, 0,
                       "OpenSSL has settled the signature schemes before the certificate is chosen: "
                       "SupportedSignatureAlgorithms cannot be set for it");
  }
#endif
  uint16_t values[LIBSSL_MAX_IDS];
  struct libssl_ids own = {values, schemes_len / 2};
  for (size_t i = 0; i < own.count; i++) {
    values[i] = libssl_uint16(data + 2 + 2 * i);
  }
  struct libssl_identity identity;
  memset(&identity, 0, sizeof(identity));
  struct polytls_result result = libssl_read_identity(text, data + 2 + schemes_len, len - 2 - schemes_len, &identity);
  if (result.status == POLYTLS_OK && !libssl_use_identity(conn, &identity, &own)) {
    result = libssl_library_failure(text, POLYTLS_FAIL_CONFIG, "the certificate cannot be used");
  }
  libssl_identity_free(&identity);
  return result;
}

/* Takes the answer to POLYTLS_WANT_CERTIFICATE; data stays the caller's. After a
 * failure the handshake fails as with POLYTLS_CHOICE_FAIL. */
static struct polytls_result libssl_set_choice(struct libssl_conn *conn, const uint8_t *data, size_t len) {
  if (conn->choice != LIBSSL_CHOICE_WANTED || len == 0) {
    return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "no certificate is wanted");
  }
  struct polytls_result result = libssl_result(POLYTLS_OK);
  switch (data[0]) {
    case POLYTLS_CHOICE_KEEP:
      break;
    case POLYTLS_CHOICE_NONE:
      SSL_certs_clear(conn->ssl);
      break;
    case POLYTLS_CHOICE_SEND:
      SSL_certs_clear(conn->ssl);
      result = libssl_send_certificate(conn, data + 1, len - 1);
      break;
    default:
      conn->choice = LIBSSL_CHOICE_FAILED;
#ifdef OPENSSL_IS_BORINGSSL
      /* The library's own, for a callback that fails, comes too late then. */
      if (len == 2 && SSL_send_fatal_alert(conn->ssl, data[1]) != 0) {
        (void)libssl_set_failure(conn, POLYTLS_FAIL_INTERNAL, 0, "no certificate was chosen");
      }
      libssl_clear_errors();
#endif
      return result;
  }
  conn->choice = LIBSSL_CHOICE_MADE;
  if (result.status != POLYTLS_OK) {
    conn->choice = LIBSSL_CHOICE_FAILED;
    libssl_keep_text(conn, conn->head.error_text); /* for the step that fails */
  }
  libssl_clear_errors();
  return result;
}

/* An answer that is put together in pieces: what fits is written, all is counted. */
struct libssl_answer_buffer {
  uint8_t *bytes;
  size_t room;
  size_t len;
};

static void libssl_append(struct libssl_answer_buffer *buffer, const uint8_t *bytes, size_t len) {
  if (len > 0 && buffer->bytes != NULL && buffer->len <= buffer->room && len <= buffer->room - buffer->len) {
    memcpy(buffer->bytes + buffer->len, bytes, len);
  }
  buffer->len += len;
}

static void libssl_append_number(struct libssl_answer_buffer *buffer, uint32_t value, size_t size) {
  uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
  libssl_append(buffer, bytes + 4 - size, size);
}

static void libssl_append_schemes(struct libssl_answer_buffer *buffer, SSL *ssl) {
#ifdef OPENSSL_IS_BORINGSSL
  const uint16_t *schemes = NULL;
  size_t count = SSL_get0_peer_verify_algorithms(ssl, &schemes);
  libssl_append_number(buffer, (uint32_t)(2 * count), 2);
  for (size_t i = 0; i < count; i++) {
    libssl_append_number(buffer, schemes[i], 2);
  }
#else
  int count = SSL_get_sigalgs(ssl, -1, NULL, NULL, NULL, NULL, NULL);
  libssl_append_number(buffer, count > 0 ? (uint32_t)(2 * count) : 0, 2);
  for (int i = 0; i < count; i++) {
    unsigned char low = 0;
    unsigned char high = 0;
    SSL_get_sigalgs(ssl, i, NULL, NULL, NULL, &low, &high);
    libssl_append_number(buffer, (uint32_t)high << 8 | low, 2);
  }
#endif
}

/* Appends the names of the server's CAs. Returns 1, or 0 when memory ran out. */
static int libssl_append_ca_names(struct libssl_answer_buffer *buffer, SSL *ssl) {
#ifdef OPENSSL_IS_BORINGSSL
  const STACK_OF(CRYPTO_BUFFER) *names = SSL_get0_server_requested_CAs(ssl);
  for (size_t i = 0; names != NULL && i < sk_CRYPTO_BUFFER_num(names); i++) {
    const CRYPTO_BUFFER *name = sk_CRYPTO_BUFFER_value(names, i);
    libssl_append_number(buffer, (uint32_t)CRYPTO_BUFFER_len(name), 4);
    libssl_append(buffer, CRYPTO_BUFFER_data(name), CRYPTO_BUFFER_len(name));
  }
#else
  const STACK_OF(X509_NAME) *names = SSL_get0_peer_CA_list(ssl);
  for (int i = 0; names != NULL && i < sk_X509_NAME_num(names); i++) {
    unsigned char *der = NULL;
    int len = i2d_X509_NAME(sk_X509_NAME_value(names, i), &der);
    if (len < 0) {
      return 0;
    }
    libssl_append_number(buffer, (uint32_t)len, 4);
    libssl_append(buffer, der, (size_t)len);
    OPENSSL_free(der);
  }
#endif
  return 1;
}

/* Answers POLYTLS_GET_CERTIFICATE_REQUEST. */
static struct polytls_result libssl_certificate_request(struct libssl_conn *conn, uint8_t *buf, size_t len) {
  struct polytls_result result = libssl_result(POLYTLS_OK);
  if (conn->choice != LIBSSL_CHOICE_WANTED) {
    return result;
  }
  struct libssl_answer_buffer answer = {buf, len, 0};
  const uint8_t *types = NULL;
  size_t count = SSL_get0_certificate_types(conn->ssl, &types);
  libssl_append_number(&answer, (uint32_t)SSL_version(conn->ssl), 2);
  libssl_append_schemes(&answer, conn->ssl);
  libssl_append_number(&answer, (uint32_t)(count & 0xff), 1);
  libssl_append(&answer, types, count & 0xff);
  if (!libssl_append_ca_names(&answer, conn->ssl)) {
    return libssl_out_of_memory(conn->head.error_text);
  }
  result.n = answer.len;
  return result;
}

#endif /* POLYTLS_LIBSSL_CHOICE_H */
