/*
 * External signers: a part of polytls_libssl.h, which includes it where all that
 * it uses is declared.
 *
 * The private key is not in this process's memory. Where a handshake needs a
 * signature it stops with POLYTLS_WANT_SIGNATURE and goes on when there is one,
 * which BoringSSL's private key methods are made for. OpenSSL would need a
 * provider of its own whose signature operation suspends a job: refused.
 */
#ifndef POLYTLS_LIBSSL_SIGNER_H
#define POLYTLS_LIBSSL_SIGNER_H

#ifdef OPENSSL_IS_BORINGSSL

static void libssl_signer_free(struct libssl_signer *signer) {
  free(signer->input);
  free(signer->signature);
  memset(signer, 0, sizeof(*signer));
}

/* Copies what is to be signed: the message, not its digest. */
static enum ssl_private_key_result_t libssl_sign(SSL *ssl, uint8_t *out, size_t *out_len, size_t max_out,
                                                 uint16_t scheme, const uint8_t *in, size_t in_len) {
  (void)out;
  (void)out_len;
  (void)max_out;
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL) {
    return ssl_private_key_failure;
  }
  struct libssl_signer *signer = &conn->signer;
  libssl_signer_free(signer);
  signer->input = malloc(in_len + 1);
  if (signer->input == NULL) {
    conn->out_of_memory = 1;
    return ssl_private_key_failure;
  }
  memcpy(signer->input, in, in_len);
  signer->input_len = in_len;
  signer->scheme = scheme;
  signer->wanted = 1;
  return ssl_private_key_retry;
}

static enum ssl_private_key_result_t libssl_sign_complete(SSL *ssl, uint8_t *out, size_t *out_len, size_t max_out) {
  struct libssl_conn *conn = SSL_get_app_data(ssl);
  if (conn == NULL) {
    return ssl_private_key_failure;
  }
  struct libssl_signer *signer = &conn->signer;
  if (!signer->given) {
    return ssl_private_key_retry;
  }
  int ok = signer->signature_len > 0 && signer->signature_len <= max_out;
  if (ok) {
    memcpy(out, signer->signature, signer->signature_len);
    *out_len = signer->signature_len;
  }
  libssl_signer_free(signer);
  signer->failed = !ok;
  return ok ? ssl_private_key_success : ssl_private_key_failure;
}

/* RSA key exchange, without forward secrecy, is for keys in memory only. */
static enum ssl_private_key_result_t libssl_decrypt(SSL *ssl, uint8_t *out, size_t *out_len, size_t max_out,
                                                    const uint8_t *in, size_t in_len) {
  (void)ssl;
  (void)out;
  (void)out_len;
  (void)max_out;
  (void)in;
  (void)in_len;
  return ssl_private_key_failure;
}

static const SSL_PRIVATE_KEY_METHOD libssl_signer_method = {libssl_sign, libssl_decrypt, libssl_sign_complete};

#endif

/* Takes the signature that the handshake waits for; data stays the caller's and
 * is empty when the signer has failed. */
static struct polytls_result libssl_set_signature(struct libssl_conn *conn, const uint8_t *data, size_t len) {
#ifdef OPENSSL_IS_BORINGSSL
  struct libssl_signer *signer = &conn->signer;
  if (signer->wanted && !signer->given) {
    signer->signature = malloc(len + 1);
    if (signer->signature == NULL) {
      return libssl_fail(conn->head.error_text, POLYTLS_FAIL_INTERNAL, 0, "out of memory");
    }
    if (len > 0) {
      memcpy(signer->signature, data, len);
    }
    signer->signature_len = len;
    signer->given = 1;
    return libssl_result(POLYTLS_OK);
  }
#else
  (void)data;
  (void)len;
#endif
  return libssl_fail(conn->head.error_text, POLYTLS_FAIL_CONFIG, 0, "no signature is wanted");
}

/* Answers POLYTLS_GET_SIGNATURE_REQUEST. */
static struct polytls_result libssl_signature_request(struct libssl_conn *conn, uint8_t *buf, size_t len) {
  struct polytls_result result = libssl_result(POLYTLS_OK);
#ifdef OPENSSL_IS_BORINGSSL
  const struct libssl_signer *signer = &conn->signer;
  if (signer->wanted && !signer->given) {
    result.n = 3 + signer->input_len;
    if (result.n <= len && buf != NULL) {
      buf[0] = (uint8_t)(signer->scheme >> 8);
      buf[1] = (uint8_t)signer->scheme;
      buf[2] = 0;
      memcpy(buf + 3, signer->input, signer->input_len);
    }
  }
#else
  (void)conn;
  (void)buf;
  (void)len;
#endif
  return result;
}

#endif /* POLYTLS_LIBSSL_SIGNER_H */
