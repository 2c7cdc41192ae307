# shellcheck shell=bash disable=SC2034,SC2153
# s2n-tls with a libcrypto of its own, whose symbols are renamed: s2n_cleanup of
# some versions unloads every provider of the libcrypto that it uses, and no
# other library of the binary may be that libcrypto's user.

S2N_CRYPTO_PREFIX=polytls_s2nc_

s2n_flags() {
  printf '%s' '-DCMAKE_BUILD_TYPE=Release -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF -DUNSAFE_TREAT_WARNINGS_AS_ERRORS=OFF -DCMAKE_INSTALL_LIBDIR=lib'
}

# s2n_configure shows s2n the libcrypto that was built for it ($CRYPTO) in the
# layout that it looks for.
s2n_configure() {
  local flags
  mkdir -p "$BUILD/libcrypto/lib" "$BUILD/s2n"
  cp -R "$CRYPTO/include" "$BUILD/libcrypto/include"
  cp "$CRYPTO/lib/libpolytls_${CRYPTO_NAME}_crypto.a" "$BUILD/libcrypto/lib/libcrypto.a"
  flags="$(common_cflags) -DS2N_INTERN_LIBCRYPTO"
  # shellcheck disable=SC2046
  CC=$CC CFLAGS=$flags cmake -S "$SRC" -B "$BUILD/s2n" -G "$(use_ninja)" $(s2n_flags) \
    -DCMAKE_PREFIX_PATH="$BUILD/libcrypto" -DCMAKE_INSTALL_PREFIX="$BUILD/install"
}

s2n_compile() { cmake --build "$BUILD/s2n" --parallel "$JOBS"; }

s2n_install() {
  local archive=$OUT/lib/libpolytls_s2n.a crypto=$OUT/lib/libpolytls_s2n_crypto.a count
  cmake --install "$BUILD/s2n"
  mkdir -p "$OUT/include"
  cp -R "$BUILD/libcrypto/include/openssl" "$OUT/include/openssl"
  cp -R "$BUILD/install/include/." "$OUT/include/"
  # Headers of s2n/unstable that some versions forget to install.
  if [ -d "$SRC/api/unstable" ]; then
    mkdir -p "$OUT/include/s2n/unstable"
    cp "$SRC"/api/unstable/*.h "$OUT/include/s2n/unstable/"
  fi
  install_archive "$(find "$BUILD/install" -name libs2n.a | head -n 1)" polytls_s2n
  install_archive "$BUILD/libcrypto/lib/libcrypto.a" polytls_s2n_crypto

  # libcrypto's symbols get a prefix, in both archives.
  strong_symbols "$crypto" | awk -v prefix="$S2N_CRYPTO_PREFIX" '{ print $1, prefix $1 }' >"$BUILD/crypto.symbols"
  objcopy --redefine-syms="$BUILD/crypto.symbols" "$crypto"

  # s2n's one call of X509_verify_cert goes to our verification instead.
  count=$(nm -A -P "$archive" 2>/dev/null | awk '$2 == "X509_verify_cert" && $3 == "U"' | wc -l)
  [ "$count" -eq 1 ] || {
    printf 'X509_verify_cert is used by %s objects of s2n, not by 1: look at how this version verifies\n' "$count"
    return 1
  }
  s2n_redirects >"$BUILD/redirects"
  awk 'NR == FNR { print; seen[$1] = 1; next } !($1 in seen)' "$BUILD/redirects" "$BUILD/crypto.symbols" >"$BUILD/s2n.symbols"
  objcopy --redefine-syms="$BUILD/s2n.symbols" "$archive"
  rename_header "$BUILD/crypto.symbols" "$OUT/include/openssl" >"$OUT/include/polytls_s2n_rename.h"
  s2n_extras "$archive"
  hide_symbols "$archive" "$crypto"
  cp "$SRC/LICENSE" "$OUT/LICENSE"
  cp "$CRYPTO/LICENSE" "$OUT/LICENSE.libcrypto"
  s2n_check_symbols "$archive" "$crypto"
}

# What s2n asks its libcrypto must be answered by the renamed one.
s2n_check_symbols() {
  local bare
  strong_symbols "$1" >"$BUILD/defined"
  strong_symbols "$2" >>"$BUILD/defined"
  bare=$(awk 'NR == FNR { renamed[$1] = 1; next } $1 in renamed' "$BUILD/crypto.symbols" "$BUILD/defined" | head -n 5)
  [ -z "$bare" ] || {
    printf 'symbols that were not renamed:\n%s\n' "$bare"
    return 1
  }
}

# What s2n calls instead of functions of libcrypto: our verification, and the
# guards of third_party/s2n-guards.c.
#
# AWS-LC answers its name with its version since 5.0; s2n 1.3.33 compares it
# with the name alone. The two are linked to each other here and nowhere else,
# so s2n is given the name alone.
s2n_redirects() {
  printf '%s\n' 'X509_verify_cert polytls_s2n_x509_verify_cert' \
    'ASN1_STRING_to_UTF8 polytls_s2n_string_to_utf8' 'X509_STORE_add_cert polytls_s2n_store_add_cert'
  [ "$CRYPTO_NAME" = awslc ] || return 0
  printf 'OpenSSL_version polytls_s2n_libcrypto_name\nSSLeay_version polytls_s2n_libcrypto_name_2\n'
}

s2n_extras() {
  # An object of its own: a program may have guards of its own in their place.
  "$CC" -std=gnu11 -O2 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -include "$OUT/include/polytls_s2n_rename.h" "-I$OUT/include" \
    -c -o "$BUILD/polytls_s2n_guards.o" "$ROOT/third_party/s2n-guards.c"
  ar qc "$1" "$BUILD/polytls_s2n_guards.o"
  ranlib "$1"
  [ "$CRYPTO_NAME" = awslc ] || return 0
  cat >"$BUILD/polytls_s2n_name.c" <<'EOC'
const char *polytls_s2n_libcrypto_name(int what);
const char *polytls_s2n_libcrypto_name(int what) { (void)what; return "AWS-LC"; }
const char *polytls_s2n_libcrypto_name_2(int what);
const char *polytls_s2n_libcrypto_name_2(int what) { (void)what; return "AWS-LC"; }
EOC
  (cd "$BUILD" && "$CC" -O2 -fPIC -fvisibility=hidden -c polytls_s2n_name.c && ar qc "$1" polytls_s2n_name.o && ranlib "$1")
}

s2n_probes() {
  local name
  probe_header s2n
  printf '#define POLYTLS_S2N_LIBCRYPTO "%s"\n' "$CRYPTO_NAME" >>"$PROBES"
  PROBE_CC=("$CC" "-I$OUT/include")
  PROBE_LIBS=("-L$OUT/lib" "-Wl,--start-group" -lpolytls_s2n -lpolytls_s2n_crypto "-Wl,--end-group" -lpthread -lm)
  # shellcheck disable=SC2016
  PROBE_PRELUDE='#include "polytls_s2n_rename.h"
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <s2n.h>
#if __has_include("s2n/unstable/renegotiate.h")
#include "s2n/unstable/renegotiate.h"
#endif
#if __has_include("s2n/unstable/ktls.h")
#include "s2n/unstable/ktls.h"
#endif
#if __has_include("s2n/unstable/fingerprint.h")
#include "s2n/unstable/fingerprint.h"
#endif
int polytls_s2n_x509_verify_cert(X509_STORE_CTX *c);
int polytls_s2n_x509_verify_cert(X509_STORE_CTX *c) { return X509_verify_cert(c); }'
  probe_text POLYTLS_S2N_LIBCRYPTO_VERSION 'OpenSSL_version(OPENSSL_VERSION)'
  # It must start, or nothing else is worth anything.
  probe_run POLYTLS_S2N_STARTS 'return s2n_init() != S2N_SUCCESS;'
  grep -q POLYTLS_S2N_STARTS "$PROBES" || {
    printf 's2n_init fails with this libcrypto\n'
    return 1
  }
  while read -r name; do
    [ -n "$name" ] && probe_link "HAVE_$(upper "$name")" "$name"
  done <<'EOL'
s2n_config_set_max_blinding_delay
s2n_config_new_minimal
s2n_config_set_cert_validation_cb
s2n_config_add_cert_chain_and_key_to_store
s2n_config_set_cipher_preferences
s2n_config_set_psk_selection_callback
s2n_config_set_key_log_cb
s2n_config_disable_x509_time_verification
s2n_config_set_verify_after_sign
s2n_config_set_recv_multi_record
s2n_config_set_serialization_version
s2n_connection_request_key_update
s2n_connection_get_key_exchange_group
s2n_connection_get_signature_scheme
s2n_connection_get_kem_group_name
s2n_connection_get_selected_signature_algorithm
s2n_connection_get_certificate_match
s2n_connection_get_master_secret
s2n_connection_set_verify_host_callback
s2n_connection_set_request_ocsp_status
s2n_client_hello_parse_message
s2n_shutdown_send
s2n_peek_buffered
s2n_negotiate_half_close
s2n_cleanup_final
s2n_cleanup_thread
s2n_security_policy_get
EOL
  probe_link HAVE_S2N_TLS_EXPORTER s2n_connection_tls_exporter
  probe_link HAVE_S2N_KTLS s2n_connection_ktls_enable_send
  probe_link HAVE_S2N_CERT_VALIDATION_CB s2n_config_set_cert_validation_cb
  add_key s2n polytls_s2n
  probe_footer
}

# The policy table is read from the library itself.
s2n_policies() {
  "$CC" -std=gnu11 -O1 "-I$SRC" "-I$SRC/api" -include "$OUT/include/polytls_s2n_rename.h" "-I$OUT/include" \
    -o "$BUILD/s2n-policies" "$ROOT/third_party/s2n-policies.c" \
    "-L$OUT/lib" "-Wl,--start-group" -lpolytls_s2n -lpolytls_s2n_crypto "-Wl,--end-group" -lpthread -lm
  "$BUILD/s2n-policies" >"$OUT/include/polytls_s2n_policies.h"
  printf '#include "polytls_s2n_policies.h"\nint main(void) { return polytls_s2n_policies_len == 0; }\n' >"$BUILD/policies.c"
  "$CC" -Wall -Wextra -Werror "-I$OUT/include" -o "$BUILD/policies" "$BUILD/policies.c"
  "$BUILD/policies"
}
