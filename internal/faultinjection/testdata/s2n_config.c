/* s2n: s2n_config_new loses the map of a configuration's certificates when the
 * steps after it fail. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

static void call(void) {
  struct s2n_config *config = s2n_config_new();
  if (config != NULL) {
    s2n_config_free(config);
  }
  OPENSSL_thread_stop(); /* its errors */
}

int main(void) {
  /* Not the system's roots, each of which is some allocations. */
  setenv("SSL_CERT_FILE", "/dev/null", 1);
  setenv("SSL_CERT_DIR", "/dev/null", 1);
  start_s2n();
  return failing_run(call, 0);
}
