/* What the programs about s2n have in common: memory that is not locked, and
 * comes from malloc, and s2n without the guards of third_party/s2n-guards.c. */
#include <openssl/asn1.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <s2n.h>

#include "failing.h"

static int memory_none(void) { return S2N_SUCCESS; }

static int memory_allocate(void **memory, uint32_t requested, uint32_t *allocated) {
  *memory = malloc(requested);
  *allocated = requested;
  return *memory == NULL ? S2N_FAILURE : S2N_SUCCESS;
}

static int memory_free(void *memory, uint32_t size) {
  (void)size;
  free(memory);
  return S2N_SUCCESS;
}

static void start_s2n(void) {
  if (s2n_disable_atexit() != S2N_SUCCESS ||
      s2n_mem_set_callbacks(memory_none, memory_none, memory_allocate, memory_free) != S2N_SUCCESS || s2n_init() != S2N_SUCCESS) {
    fprintf(stderr, "s2n does not start: %s\n", s2n_strerror(s2n_errno, "EN"));
    exit(2);
  }
}

/* The archive calls this instead of X509_verify_cert. Nothing is verified here. */
int polytls_s2n_x509_verify_cert(void *context);
int polytls_s2n_x509_verify_cert(void *context) {
  (void)context;
  return 0;
}

/* What the archive calls in the place of two functions of libcrypto. Without
 * these, Polytls's guards would be linked, and show nothing. */
int polytls_s2n_store_add_cert(X509_STORE *store, X509 *cert);
int polytls_s2n_store_add_cert(X509_STORE *store, X509 *cert) { return X509_STORE_add_cert(store, cert); }

/* *out is not set by its one caller, and stays as it is when there is no memory.
 * What it holds by chance is replaced by what can never be freed. */
int polytls_s2n_string_to_utf8(unsigned char **out, const ASN1_STRING *in);
int polytls_s2n_string_to_utf8(unsigned char **out, const ASN1_STRING *in) {
  *out = (unsigned char *)16;
  return ASN1_STRING_to_UTF8(out, in);
}
