/* s2n: s2n_encrypt_session_ticket loses the key of the ticket when it cannot be
 * set up. The function is s2n's own; a server's handshake calls it. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

#include <time.h>

struct s2n_stuffer;
int s2n_stuffer_growable_alloc(struct s2n_stuffer *stuffer, uint32_t size);
int s2n_stuffer_free(struct s2n_stuffer *stuffer);
int s2n_encrypt_session_ticket(struct s2n_connection *conn, struct s2n_stuffer *to);

static struct s2n_connection *conn;

static void call(void) {
  /* More than a stuffer has. */
  static union {
    long double aligned;
    uint8_t bytes[512];
  } memory;
  struct s2n_stuffer *stuffer = (struct s2n_stuffer *)(void *)&memory;
  memset(&memory, 0, sizeof(memory));
  if (s2n_stuffer_growable_alloc(stuffer, 1024) == S2N_SUCCESS) {
    s2n_encrypt_session_ticket(conn, stuffer);
    s2n_stuffer_free(stuffer);
  }
  OPENSSL_thread_stop(); /* its errors */
}

int main(void) {
  start_s2n();
  struct s2n_config *config = s2n_config_new();
  uint8_t name[16] = {1}, key[32] = {2};
  if (s2n_config_set_session_tickets_onoff(config, 1) != S2N_SUCCESS ||
      s2n_config_add_ticket_crypto_key(config, name, sizeof(name), key, sizeof(key), (uint64_t)time(NULL) - 10) != S2N_SUCCESS ||
      (conn = s2n_connection_new(S2N_SERVER)) == NULL || s2n_connection_set_config(conn, config) != S2N_SUCCESS) {
    fprintf(stderr, "s2n: %s\n", s2n_strerror(s2n_errno, "EN"));
    return 2;
  }
  return failing_run(call, 0);
}
