/* The floor of OpenSSL and of BoringSSL, each compiled against its own headers.
 * Every object belongs to this file and lives as long as the process, but for
 * the connections. */
#include "floor.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

/* Contexts by certificate and by whether there are tickets. */
static SSL_CTX *server_ctx[2][2], *client_ctx[2][2];
/* The newest session of the client that resumes. */
static SSL_SESSION *session;

static SSL *opened[2];

static const char *floor_library(void) { return OpenSSL_version(OPENSSL_VERSION); }

static int library_fail(const char *what) {
  char text[160];
  ERR_error_string_n(ERR_peek_error(), text, sizeof(text));
  ERR_clear_error();
  return floor_fail("%s: %s", what, text);
}

/* Takes the session. */
static int on_session(SSL *ssl, SSL_SESSION *new_session) {
  (void)ssl;
  SSL_SESSION_free(session);
  session = new_session;
  return 1;
}

static SSL_CTX *new_ctx(int resume) {
  SSL_CTX *ctx = SSL_CTX_new(TLS_method());
  if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 || SSL_CTX_set1_curves_list(ctx, "X25519") != 1) {
    return NULL;
  }
#if !defined(OPENSSL_IS_BORINGSSL)
  if (SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") != 1) {
    return NULL;
  }
#endif
  if (!resume) {
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
#if !defined(OPENSSL_IS_BORINGSSL)
    SSL_CTX_set_num_tickets(ctx, 0);
#endif
  }
  return ctx;
}

static int floor_start(const char *dir) {
  char cert[FLOOR_PATH], key[FLOOR_PATH], root[FLOOR_PATH];
  for (int rsa = 0; rsa < 2; rsa++) {
    floor_path(cert, dir, rsa, "cert");
    floor_path(key, dir, rsa, "key");
    floor_path(root, dir, rsa, "root");
    for (int resume = 0; resume < 2; resume++) {
      SSL_CTX *server = new_ctx(resume), *client = new_ctx(resume);
      server_ctx[rsa][resume] = server;
      client_ctx[rsa][resume] = client;
      if (server == NULL || client == NULL || SSL_CTX_use_certificate_chain_file(server, cert) != 1 ||
          SSL_CTX_use_PrivateKey_file(server, key, SSL_FILETYPE_PEM) != 1 ||
          SSL_CTX_load_verify_locations(client, root, NULL) != 1) {
        return library_fail("the contexts");
      }
      SSL_CTX_set_verify(client, SSL_VERIFY_PEER, NULL);
      if (resume) {
        SSL_CTX_set_session_cache_mode(server, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_session_cache_mode(client, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(client, on_session);
      }
    }
  }
  return 1;
}

/* Makes the two ends over memory; ends[0] is the client. The caller frees what
 * is there, also after a failure. */
static int new_ends(struct floor_settings s, SSL *ends[2]) {
  BIO *here = NULL, *there = NULL;
  ends[0] = SSL_new(client_ctx[s.rsa][s.resume]);
  ends[1] = SSL_new(server_ctx[s.rsa][s.resume]);
  if (ends[0] == NULL || ends[1] == NULL || BIO_new_bio_pair(&here, 20480, &there, 20480) != 1) {
    return library_fail("the connections");
  }
  SSL_set_bio(ends[0], here, here);
  SSL_set_bio(ends[1], there, there);
  SSL_set_connect_state(ends[0]);
  SSL_set_accept_state(ends[1]);
  if (SSL_set_tlsext_host_name(ends[0], FLOOR_SERVER_NAME) != 1 || SSL_set1_host(ends[0], FLOOR_SERVER_NAME) != 1) {
    return library_fail("the server's name");
  }
  if (s.resume && session != NULL) {
    int set = SSL_set_session(ends[0], session);
    /* Sessions of TLS 1.3 are for one use. */
    SSL_SESSION_free(session);
    session = NULL;
    if (set != 1) {
      return library_fail("the session");
    }
  }
  return 1;
}

static int handshake(SSL *ends[2]) {
  for (int done[2] = {0, 0}, turns = 0; !done[0] || !done[1]; turns++) {
    int e = turns & 1;
    if (done[e]) {
      continue;
    }
    int res = SSL_do_handshake(ends[e]);
    done[e] = res == 1;
    if (res != 1 && (SSL_get_error(ends[e], res) != SSL_ERROR_WANT_READ || turns > 100)) {
      return library_fail("the handshake");
    }
  }
  for (int e = 0; e < 2; e++) {
    if (SSL_version(ends[e]) != TLS1_3_VERSION || SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ends[e])) != 0x1301) {
      return floor_fail("negotiated %s", SSL_get_cipher(ends[e]));
    }
  }
  return 1;
}

static void free_ends(SSL *ends[2]) {
  for (int e = 0; e < 2; e++) {
    SSL_free(ends[e]);
    ends[e] = NULL;
  }
}

static int floor_handshake(struct floor_settings s, int *resumed) {
  SSL *ends[2] = {NULL, NULL};
  int ok = new_ends(s, ends) && handshake(ends);
  if (ok) {
    *resumed = SSL_session_reused(ends[0]) && SSL_session_reused(ends[1]);
    uint8_t byte = 1;
    if (s.resume && (SSL_write(ends[1], &byte, 1) != 1 || SSL_read(ends[0], &byte, 1) != 1)) {
      ok = library_fail("the byte behind the tickets");
    }
    SSL_shutdown(ends[0]);
    SSL_shutdown(ends[1]);
  }
  free_ends(ends);
  return ok;
}

static int floor_open(void) { return new_ends((struct floor_settings){0, 0}, opened) && handshake(opened); }

static void floor_close(void) { free_ends(opened); }

static int floor_send(int from_server, const uint8_t *data, uint8_t *got, size_t size) {
  if (SSL_write(opened[from_server], data, (int)size) != (int)size) {
    return library_fail("writing");
  }
  for (size_t n = 0; n < size;) {
    int res = SSL_read(opened[!from_server], got + n, (int)(size - n));
    if (res <= 0) {
      return library_fail("reading");
    }
    n += (size_t)res;
  }
  return 1;
}
