/* s2n: s2n_client_cert_recv loses the client's public key when the chain cannot
 * be stored. Only the step in which the server receives the client's last flight
 * counts. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

#include <errno.h>

/* One direction between the two ends, in memory. */
struct queue {
  uint8_t bytes[1 << 16];
  size_t begin, end;
};

static struct queue to_server, to_client;
static struct s2n_config *config;

static int send_to(void *context, const uint8_t *data, uint32_t size) {
  struct queue *q = context;
  if (size > sizeof(q->bytes) - q->end) {
    return -1;
  }
  memcpy(q->bytes + q->end, data, size);
  q->end += size;
  return (int)size;
}

static int receive_from(void *context, uint8_t *data, uint32_t size) {
  struct queue *q = context;
  size_t there = q->end - q->begin;
  if (there == 0) {
    errno = EWOULDBLOCK;
    return -1;
  }
  if (size > there) {
    size = (uint32_t)there;
  }
  memcpy(data, q->bytes + q->begin, size);
  q->begin += size;
  return (int)size;
}

static struct s2n_connection *end_of(s2n_mode mode, struct queue *in, struct queue *out) {
  struct s2n_connection *conn = s2n_connection_new(mode);
  if (conn == NULL || s2n_connection_set_config(conn, config) != S2N_SUCCESS ||
      s2n_connection_set_blinding(conn, S2N_SELF_SERVICE_BLINDING) != S2N_SUCCESS ||
      s2n_connection_set_recv_cb(conn, receive_from) != S2N_SUCCESS || s2n_connection_set_recv_ctx(conn, in) != S2N_SUCCESS ||
      s2n_connection_set_send_cb(conn, send_to) != S2N_SUCCESS || s2n_connection_set_send_ctx(conn, out) != S2N_SUCCESS) {
    fprintf(stderr, "s2n: %s\n", s2n_strerror(s2n_errno, "EN"));
    exit(2);
  }
  return conn;
}

static void call(void) {
  int counts = failing_counts;
  failing_counts = 0;
  to_server.begin = to_server.end = to_client.begin = to_client.end = 0;
  struct s2n_connection *client = end_of(S2N_CLIENT, &to_client, &to_server);
  struct s2n_connection *server = end_of(S2N_SERVER, &to_server, &to_client);
  s2n_blocked_status blocked;
  s2n_negotiate(client, &blocked);
  s2n_negotiate(server, &blocked);
  if (s2n_negotiate(client, &blocked) != S2N_SUCCESS) {
    fprintf(stderr, "s2n: %s\n", s2n_strerror(s2n_errno, "EN"));
    exit(2);
  }
  failing_counts = counts;
  s2n_negotiate(server, &blocked);
  failing_counts = 0;
  s2n_connection_free(client);
  s2n_connection_free(server);
  OPENSSL_thread_stop(); /* its errors */
  failing_counts = counts;
}

int main(void) {
  start_s2n();
  config = s2n_config_new();
  if (config == NULL || s2n_config_set_cipher_preferences(config, "default_tls13") != S2N_SUCCESS ||
      s2n_config_add_cert_chain_and_key(config, failing_certificate, failing_key) != S2N_SUCCESS ||
      s2n_config_set_client_auth_type(config, S2N_CERT_AUTH_REQUIRED) != S2N_SUCCESS ||
      s2n_config_disable_x509_verification(config) != S2N_SUCCESS) {
    fprintf(stderr, "s2n: %s\n", s2n_strerror(s2n_errno, "EN"));
    return 2;
  }
  return failing_run(call, 0);
}
