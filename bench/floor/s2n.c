/* The floor of s2n-tls. Every object belongs to this file and lives as long as
 * the process, but for the connections. */
#include "polytls_s2n_rename.h"

#include "floor.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <s2n.h>

/* The archive's one call of X509_verify_cert comes here. */
int polytls_s2n_x509_verify_cert(X509_STORE_CTX *c);
int polytls_s2n_x509_verify_cert(X509_STORE_CTX *c) { return X509_verify_cert(c); }

/* The policy that the provider chooses for TLS 1.3 alone. */
#define POLICY "AWS-CRT-SDK-TLSv1.3"

static struct s2n_config *server_config[2][2], *client_config[2][2];
static uint8_t session[4096];
static size_t session_len;

/* Ciphertext in one direction. */
struct queue {
  uint8_t bytes[65536];
  size_t start, end;
};

/* queues[0] is from client to server. */
static struct queue queues[2];
static struct s2n_connection *opened[2];

static const char *floor_library(void) { return OpenSSL_version(OPENSSL_VERSION); }

static int library_fail(const char *what) { return floor_fail("%s: %s", what, s2n_strerror_debug(s2n_errno, "EN")); }

static int on_send(void *context, const uint8_t *bytes, uint32_t len) {
  struct queue *q = context;
  if (q->end + len > sizeof(q->bytes)) {
    errno = EAGAIN;
    return -1;
  }
  memcpy(q->bytes + q->end, bytes, len);
  q->end += len;
  return (int)len;
}

static int on_receive(void *context, uint8_t *bytes, uint32_t len) {
  struct queue *q = context;
  size_t n = q->end - q->start;
  if (n == 0) {
    errno = EAGAIN;
    return -1;
  }
  n = n < len ? n : len;
  memcpy(bytes, q->bytes + q->start, n);
  q->start += n;
  if (q->start == q->end) {
    q->start = q->end = 0;
  }
  return (int)n;
}

static int on_ticket(struct s2n_connection *conn, void *context, struct s2n_session_ticket *ticket) {
  (void)conn;
  (void)context;
  if (s2n_session_ticket_get_data_len(ticket, &session_len) != S2N_SUCCESS || session_len > sizeof(session)) {
    session_len = 0;
    return S2N_FAILURE;
  }
  return s2n_session_ticket_get_data(ticket, session_len, session);
}

/* Reads a file as text; the caller frees it. NULL when it cannot be read. */
static char *read_file(const char *path) {
  FILE *f = fopen(path, "rb");
  char *text = calloc(1, 65536);
  size_t n = f != NULL && text != NULL ? fread(text, 1, 65535, f) : 0;
  if (f != NULL) {
    fclose(f);
  }
  if (n == 0) {
    free(text);
    return NULL;
  }
  return text;
}

static int configure(const char *dir, struct floor_settings s) {
  char path[FLOOR_PATH];
  char *cert = read_file(floor_path(path, dir, s.rsa, "cert")), *key = read_file(floor_path(path, dir, s.rsa, "key")),
       *root = read_file(floor_path(path, dir, s.rsa, "root"));
  struct s2n_config *server = s2n_config_new(), *client = s2n_config_new();
  struct s2n_cert_chain_and_key *chain = s2n_cert_chain_and_key_new();
  server_config[s.rsa][s.resume] = server;
  client_config[s.rsa][s.resume] = client;
  int ok = cert != NULL && key != NULL && root != NULL && server != NULL && client != NULL && chain != NULL &&
           s2n_config_set_cipher_preferences(server, POLICY) == S2N_SUCCESS &&
           s2n_config_set_cipher_preferences(client, POLICY) == S2N_SUCCESS &&
           s2n_cert_chain_and_key_load_pem(chain, cert, key) == S2N_SUCCESS &&
           s2n_config_add_cert_chain_and_key_to_store(server, chain) == S2N_SUCCESS &&
           s2n_config_wipe_trust_store(client) == S2N_SUCCESS &&
           s2n_config_add_pem_to_trust_store(client, root) == S2N_SUCCESS &&
           /* Otherwise s2n fails where a server asks for a certificate, which the
            * other libraries answer with none. */
           s2n_config_set_client_auth_type(client, S2N_CERT_AUTH_OPTIONAL) == S2N_SUCCESS;
  if (ok && s.resume) {
    uint8_t name[] = "floor", secret[32] = {1, 2, 3};
    ok = s2n_config_set_session_tickets_onoff(server, 1) == S2N_SUCCESS &&
         s2n_config_set_session_tickets_onoff(client, 1) == S2N_SUCCESS &&
         s2n_config_add_ticket_crypto_key(server, name, sizeof(name), secret, sizeof(secret), 0) == S2N_SUCCESS &&
         s2n_config_set_session_ticket_cb(client, on_ticket, NULL) == S2N_SUCCESS;
  }
  free(cert);
  free(key);
  free(root);
  return ok || library_fail("the configuration");
}

static int floor_start(const char *dir) {
  /* Locked memory is limited. */
  setenv("S2N_DONT_MLOCK", "1", 1);
  if (s2n_init() != S2N_SUCCESS) {
    return library_fail("starting");
  }
  for (int rsa = 0; rsa < 2; rsa++) {
    for (int resume = 0; resume < 2; resume++) {
      if (!configure(dir, (struct floor_settings){rsa, resume})) {
        return 0;
      }
    }
  }
  return 1;
}

/* Makes the two ends; ends[0] is the client. The caller frees what is there,
 * also after a failure. */
static int new_ends(struct floor_settings s, struct s2n_connection *ends[2]) {
  for (int e = 0; e < 2; e++) {
    queues[e].start = queues[e].end = 0;
    ends[e] = s2n_connection_new(e == 0 ? S2N_CLIENT : S2N_SERVER);
    if (ends[e] == NULL || s2n_connection_set_blinding(ends[e], S2N_SELF_SERVICE_BLINDING) != S2N_SUCCESS ||
        s2n_connection_set_config(ends[e], (e == 0 ? client_config : server_config)[s.rsa][s.resume]) != S2N_SUCCESS ||
        s2n_connection_set_send_cb(ends[e], on_send) != S2N_SUCCESS ||
        s2n_connection_set_recv_cb(ends[e], on_receive) != S2N_SUCCESS ||
        s2n_connection_set_send_ctx(ends[e], &queues[e]) != S2N_SUCCESS ||
        s2n_connection_set_recv_ctx(ends[e], &queues[!e]) != S2N_SUCCESS) {
      return library_fail("the connections");
    }
  }
  if (s2n_set_server_name(ends[0], FLOOR_SERVER_NAME) != S2N_SUCCESS) {
    return library_fail("the server's name");
  }
  if (s.resume && session_len > 0) {
    int set = s2n_connection_set_session(ends[0], session, session_len);
    session_len = 0;
    if (set != S2N_SUCCESS) {
      return library_fail("the session");
    }
  }
  return 1;
}

static int handshake(struct s2n_connection *ends[2]) {
  s2n_blocked_status blocked;
  for (int done[2] = {0, 0}, turns = 0; !done[0] || !done[1]; turns++) {
    int e = turns & 1;
    if (done[e]) {
      continue;
    }
    done[e] = s2n_negotiate(ends[e], &blocked) == S2N_SUCCESS;
    if (!done[e] && (s2n_error_get_type(s2n_errno) != S2N_ERR_T_BLOCKED || turns > 100)) {
      return library_fail("the handshake");
    }
  }
  for (int e = 0; e < 2; e++) {
    const char *cipher = s2n_connection_get_cipher(ends[e]), *curve = s2n_connection_get_curve(ends[e]);
    if (strcmp(cipher, "TLS_AES_128_GCM_SHA256") != 0 || strcmp(curve, "x25519") != 0) {
      return floor_fail("negotiated %s, %s", cipher, curve);
    }
  }
  return 1;
}

static void free_ends(struct s2n_connection *ends[2]) {
  for (int e = 0; e < 2; e++) {
    if (ends[e] != NULL) {
      s2n_connection_free(ends[e]);
      ends[e] = NULL;
    }
  }
}

static int floor_handshake(struct floor_settings s, int *resumed) {
  struct s2n_connection *ends[2] = {NULL, NULL};
  s2n_blocked_status blocked;
  int ok = new_ends(s, ends) && handshake(ends);
  if (ok) {
    *resumed = s2n_connection_is_session_resumed(ends[0]) && s2n_connection_is_session_resumed(ends[1]);
    uint8_t byte = 1;
    if (s.resume && (s2n_send(ends[1], &byte, 1, &blocked) != 1 || s2n_recv(ends[0], &byte, 1, &blocked) != 1)) {
      ok = library_fail("the byte behind the tickets");
    }
    /* Both send their close_notify; neither waits for the other's. */
    (void)s2n_shutdown(ends[0], &blocked);
    (void)s2n_shutdown(ends[1], &blocked);
  }
  free_ends(ends);
  return ok;
}

static int floor_open(void) { return new_ends((struct floor_settings){0, 0}, opened) && handshake(opened); }

static void floor_close(void) { free_ends(opened); }

static int floor_send(int from_server, const uint8_t *data, uint8_t *got, size_t size) {
  s2n_blocked_status blocked;
  for (size_t sent = 0; sent < size;) {
    ssize_t n = s2n_send(opened[from_server], data + sent, (ssize_t)(size - sent), &blocked);
    if (n <= 0) {
      return library_fail("writing");
    }
    sent += (size_t)n;
  }
  for (size_t n = 0; n < size;) {
    ssize_t res = s2n_recv(opened[!from_server], got + n, (ssize_t)(size - n), &blocked);
    if (res <= 0) {
      return library_fail("reading");
    }
    n += (size_t)res;
  }
  return 1;
}
