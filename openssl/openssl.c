/* The provider "openssl": OpenSSL 3.0 and later through the shim of the libssl
 * family. */
#if defined(POLYTLS_HAVE_OPENSSL)
#if defined(__has_include)
#if __has_include("polytls_openssl_probe.h")
#define POLYTLS_OPENSSL_BUILT_IN 1
#endif
#endif
#endif

#ifdef POLYTLS_OPENSSL_BUILT_IN

#include "polytls_openssl_probe.h"

#define POLYTLS_LIBSSL_FUNCTION polytls_openssl_library
#define POLYTLS_LIBSSL_NAME "openssl"
#if defined(POLYTLS_OPENSSL_SYSTEM)
#define POLYTLS_LIBSSL_SYSTEM 1
#elif defined(POLYTLS_OPENSSL_RUNTIME_VERSION)
/* Archives of our own build answer with the key of their build. */
#define POLYTLS_LIBSSL_KEY POLYTLS_OPENSSL_KEY
#define POLYTLS_LIBSSL_NATIVE_KEY() polytls_openssl_native_key()
#endif

#include "polytls_libssl.h"

#ifdef OPENSSL_IS_BORINGSSL
#error "the headers of BoringSSL were found where OpenSSL's were expected"
#endif

#else

#include "polytls_native.h"

const struct polytls_library *polytls_openssl_library(void);

const struct polytls_library *polytls_openssl_library(void) {
  static const struct polytls_library library = {
      .unavailable = "not built in: run `make native LIBS=openssl` and build again",
      .name = "openssl",
  };
  return &library;
}

#endif
