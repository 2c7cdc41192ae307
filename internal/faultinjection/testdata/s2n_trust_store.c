/* s2n: s2n_x509_trust_store_add_pem uses what X509_STORE_new returns unseen. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

static struct s2n_config *config;

static void call(void) {
  s2n_config_wipe_trust_store(config);
  s2n_config_add_pem_to_trust_store(config, failing_certificate);
  s2n_config_wipe_trust_store(config);
  OPENSSL_thread_stop(); /* its errors */
}

int main(void) {
  start_s2n();
  config = s2n_config_new();
  return failing_run(call, 1);
}
