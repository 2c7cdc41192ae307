/*
 * What s2n-tls 1.3.33 calls in the place of functions of its libcrypto, where
 * it goes on with what they have not given. scripts/native/s2n.sh puts this
 * into its archive, whose calls it redirects. Nothing here is true of a
 * certain version: what newer ones call in the same way gets the same answers.
 *
 * The faults are shown by internal/faultinjection/testdata.
 */
#include <openssl/asn1.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>

/* ASN1_STRING_to_UTF8, which leaves *out alone when it fails and gives an empty
 * string for no text: s2n_cert_chain_and_key_load_cns frees *out in the first
 * case, not having set it, and twice in the second. Here it is NULL in both, and
 * there is nothing to free. */
int polytls_s2n_string_to_utf8(unsigned char **out, const ASN1_STRING *in);
int polytls_s2n_string_to_utf8(unsigned char **out, const ASN1_STRING *in) {
  *out = NULL;
  int len = ASN1_STRING_to_UTF8(out, in);
  if (len <= 0) {
    OPENSSL_free(*out);
    *out = NULL;
  }
  return len;
}

/* X509_STORE_add_cert, which takes no NULL: s2n_x509_trust_store_add_pem does not
 * look at what X509_STORE_new has returned. The error is in the queue already. */
int polytls_s2n_store_add_cert(X509_STORE *store, X509 *cert);
int polytls_s2n_store_add_cert(X509_STORE *store, X509 *cert) {
  return store == NULL ? 0 : X509_STORE_add_cert(store, cert);
}
