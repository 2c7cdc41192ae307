/* s2n: s2n_cert_chain_and_key_load_cns frees a pointer that it has not set when
 * ASN1_STRING_to_UTF8 fails. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

static void call(void) {
  struct s2n_cert_chain_and_key *chain = s2n_cert_chain_and_key_new();
  if (chain != NULL) {
    /* Without the key, whose check makes a varying number of allocations. */
    s2n_cert_chain_and_key_load_public_pem_bytes(chain, (uint8_t *)(uintptr_t)failing_certificate, sizeof(failing_certificate) - 1);
    s2n_cert_chain_and_key_free(chain);
  }
  OPENSSL_thread_stop(); /* its errors */
}

int main(void) {
  start_s2n();
  return failing_run(call, 1);
}
