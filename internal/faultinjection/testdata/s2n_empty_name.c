/* s2n: s2n_cert_chain_and_key_load_cns frees the text of a common name twice when
 * it is empty. No allocation fails here. */
#include "polytls_s2n_rename.h"
#include "s2n_allocation.h"

/* Self-signed, with the key of failing_certificate and the subject CN=. */
static const char certificate[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBAzCBq6ADAgECAgEBMAoGCCqGSM49BAMCMAsxCTAHBgNVBAMMADAgFw0yNjEx\n"
    "MzAwMDAwMDBaGA8yMTI2MTEzMDAwMDAwMFowCzEJMAcGA1UEAwwAMFkwEwYHKoZI\n"
    "zj0CAQYIKoZIzj0DAQcDQgAEkqNtkw0mDcY2W5wWWrUHrFpj6UBiRDfBAxwIwJy1\n"
    "mL5iSKljwj851G4BGw2x/QFAIhNP5Qqg9k6HAZSo6eAdqDAKBggqhkjOPQQDAgNH\n"
    "ADBEAiAs2A+r/pr1a751RegoPHXn2+S6DX0w6BCJ2PrXDmZ2jQIgXGZ9DpC5P1R/\n"
    "LEE2pUKkBlO0T+8EmbIWnc19g43oqyc=\n"
    "-----END CERTIFICATE-----\n";

int main(void) {
  start_s2n();
  pid_t child = fork();
  if (child == 0) {
    struct s2n_cert_chain_and_key *chain = s2n_cert_chain_and_key_new();
    int loaded = s2n_cert_chain_and_key_load_pem_bytes(chain, (uint8_t *)(uintptr_t)certificate, sizeof(certificate) - 1,
                                                       (uint8_t *)(uintptr_t)failing_key, sizeof(failing_key) - 1);
    _exit(loaded == S2N_SUCCESS ? 0 : 1);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) {
    perror("fork");
    return 2;
  }
  if (!WIFSIGNALED(status)) {
    printf("loading the certificate ends with %d\n", WEXITSTATUS(status));
    return 1;
  }
  printf("loading the certificate: signal %d\n", WTERMSIG(status));
  return 0;
}
