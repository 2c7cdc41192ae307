/* What github.com/spacemonkeygo/openssl misses on OpenSSL 3: the function went
 * with the FIPS module of OpenSSL 1. The binding refers to it in a call that
 * the benchmarks do not make; here it fails, as it did without that module. */
#ifndef POLYTLS_BASELINE_OPENSSL3_H
#define POLYTLS_BASELINE_OPENSSL3_H

#ifndef __ASSEMBLER__
#include <openssl/opensslv.h>
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
__attribute__((unused)) static int FIPS_mode_set(int on) { return on == 0; }
#endif
#endif

#endif /* POLYTLS_BASELINE_OPENSSL3_H */
