/* s2n: s2n_connection_new loses what the connection has so far when
 * s2n_connection_wipe, its last step, fails. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

static void call(void) {
  struct s2n_connection *conn = s2n_connection_new(S2N_SERVER);
  if (conn != NULL) {
    s2n_connection_free(conn);
  }
  OPENSSL_thread_stop(); /* its errors */
}

int main(void) {
  start_s2n();
  return failing_run(call, 0);
}
