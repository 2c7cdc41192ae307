//go:build cgo

// Package poison leaves errors behind in the native libraries' error queues, as
// other C code of a process may. It is for tests.
package poison

/*
#include <stddef.h>
#include <stdint.h>

// The functions of each library's libcrypto, by the names that they have in our
// builds; a library that is not in the binary leaves null pointers. poison fails to
// parse a certificate and leaves the errors where they are. It returns 0 when the
// library is not there, or has left none.
#define POLYTLS_LIBCRYPTO(prefix)                                           \
  extern void *prefix##d2i_X509(void **, const uint8_t **, long)            \
      __attribute__((weak));                                                \
  extern unsigned long prefix##ERR_peek_error(void) __attribute__((weak));  \
  static int prefix##poison(void) {                                         \
    if (prefix##d2i_X509 == NULL || prefix##ERR_peek_error == NULL)         \
      return 0;                                                             \
    static const uint8_t bad[] = {0x30, 0x05, 0x30, 0x03, 0xff, 0xff, 0xff}; \
    const uint8_t *p = bad;                                                 \
    (void)prefix##d2i_X509(NULL, &p, (long)sizeof(bad));                    \
    return prefix##ERR_peek_error() != 0;                                   \
  }
POLYTLS_LIBCRYPTO()
POLYTLS_LIBCRYPTO(polytls_bssl_)
POLYTLS_LIBCRYPTO(polytls_s2nc_)
*/
import "C"

// Queue leaves errors in the queue of the calling thread; false when the library
// of that provider is not in the binary.
func Queue(provider string) bool {
	switch provider {
	case "openssl":
		return C.poison() != 0
	case "boringssl":
		return C.polytls_bssl_poison() != 0
	case "s2n":
		return C.polytls_s2nc_poison() != 0
	}
	return false
}
