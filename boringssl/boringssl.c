/* The provider "boringssl": BoringSSL, with all of its symbols renamed, through
 * the shim of the libssl family. */
#if defined(POLYTLS_HAVE_BORINGSSL)
#if defined(__has_include)
#if __has_include("polytls_boringssl_probe.h")
#define POLYTLS_BORINGSSL_BUILT_IN 1
#endif
#endif
#endif

#ifdef POLYTLS_BORINGSSL_BUILT_IN

#include "polytls_boringssl_probe.h"

/* The headers of versions that cannot rename themselves come with this one. */
#if __has_include("polytls_boringssl_rename.h")
#include "polytls_boringssl_rename.h"
#endif

#define POLYTLS_LIBSSL_FUNCTION polytls_boringssl_library
#define POLYTLS_LIBSSL_NAME "boringssl"
#define POLYTLS_LIBSSL_SOURCE_VERSION POLYTLS_BORINGSSL_VERSION_STRING
#if defined(POLYTLS_BORINGSSL_RUNTIME_VERSION)
/* Archives of our own build answer with the key of their build. */
#define POLYTLS_LIBSSL_KEY POLYTLS_BORINGSSL_KEY
#define POLYTLS_LIBSSL_NATIVE_KEY() polytls_boringssl_native_key()
#endif

#include "polytls_libssl.h"

#ifndef OPENSSL_IS_BORINGSSL
#error "headers of another library were found where BoringSSL's were expected"
#endif

#else

#include "polytls_native.h"

const struct polytls_library *polytls_boringssl_library(void);

const struct polytls_library *polytls_boringssl_library(void) {
  static const struct polytls_library library = {
      .unavailable = "not built in: run `make native LIBS=boringssl` and build again",
      .name = "boringssl",
  };
  return &library;
}

#endif
