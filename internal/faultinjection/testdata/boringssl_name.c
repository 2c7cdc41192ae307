/* BoringSSL: x509_name_get_cache allocates the cache of a name and writes to it
 * without a look at what it got, so that parsing any name can crash. */
#include <openssl/err.h>
#include <openssl/x509.h>

#include "failing.h"

static void call(void) {
  /* CN=a */
  static const uint8_t name[] = {0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, 'a'};
  const uint8_t *p = name;
  X509_NAME_free(d2i_X509_NAME(NULL, &p, sizeof(name)));
  ERR_clear_error();
}

int main(void) { return failing_run(call, 1); }
