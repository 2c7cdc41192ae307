# shellcheck shell=bash disable=SC2034,SC2153
# OpenSSL: static, position-independent, every symbol hidden, no configuration
# file, no modules, no code at exit.

openssl_flags() {
  printf '%s' 'no-shared no-tests no-docs no-apps no-engine no-legacy no-rc4 no-comp no-ssl3 no-module no-dso no-autoload-config no-atexit'
  case $(uname -s -m) in
    Linux\ x86_64 | Linux\ aarch64) printf ' enable-ktls enable-ec_nistp_64_gcc_128' ;;
    Linux\ *) printf ' enable-ktls' ;;
    Darwin\ *) printf ' enable-ec_nistp_64_gcc_128' ;;
  esac
}

openssl_configure() {
  cd "$BUILD" || return
  # shellcheck disable=SC2046
  CC=$CC perl "$SRC/Configure" $(openssl_flags) $(common_cflags) --prefix=/usr --libdir=lib --openssldir=/etc/ssl
}

openssl_compile() {
  cd "$BUILD" || return
  make -s -j "$JOBS" build_libs
}

openssl_install() {
  cd "$BUILD" || return
  make -s DESTDIR="$BUILD/install" install_dev
  mkdir -p "$OUT"
  cp -R "$BUILD/install/usr/include" "$OUT/include"
  install_archive "$BUILD/install/usr/lib/libcrypto.a" polytls_openssl_crypto
  install_archive "$BUILD/install/usr/lib/libssl.a" polytls_openssl_ssl
  hide_symbols "$OUT/lib/libpolytls_openssl_crypto.a" "$OUT/lib/libpolytls_openssl_ssl.a"
  cp "$SRC/LICENSE.txt" "$OUT/LICENSE"
}

openssl_probes() {
  probe_header openssl
  PROBE_CC=("$CC" "-I$OUT/include")
  PROBE_LIBS=("-L$OUT/lib" -lpolytls_openssl_ssl -lpolytls_openssl_crypto -lpthread)
  openssl_probe_list
  add_key openssl polytls_openssl_ssl
  probe_footer
}

# The system's library: no build, its headers and shared library as they are.
openssl_system_probes() {
  local words
  words=$(pkg-config --cflags openssl)
  probe_header openssl
  # shellcheck disable=SC2206
  PROBE_CC=("$CC" $words)
  words=$(pkg-config --libs openssl)
  # shellcheck disable=SC2206
  PROBE_LIBS=($words)
  openssl_probe_list
  probe_footer
}

openssl_probe_list() {
  local list
  PROBE_PRELUDE='#include <openssl/ssl.h>
#include <openssl/x509v3.h>'
  probe_text POLYTLS_OPENSSL_RUNTIME_VERSION 'OpenSSL_version(OPENSSL_VERSION)'
  for list in 'HAVE_GROUP_KEYSHARE_SYNTAX *X25519' 'HAVE_GROUP_TUPLE_SYNTAX X25519/P-256' 'HAVE_X25519MLKEM768 X25519MLKEM768'; do
    probe_run "${list%% *}" "SSL_CTX *c = SSL_CTX_new(TLS_method()); return SSL_CTX_set1_groups_list(c, \"${list#* }\") != 1;"
  done
  probe_link HAVE_SSL_GET0_GROUP_NAME SSL_get0_group_name
  # These two are macros.
  probe_uses HAVE_SSL_GET0_SIGNATURE_NAME 'const char *n; return (int)SSL_get0_signature_name((SSL *)0, &n);'
  probe_uses HAVE_SSL_GET0_PEER_SIGNATURE_NAME 'const char *n; return (int)SSL_get0_peer_signature_name((SSL *)0, &n);'
  probe_link HAVE_SSL_CTX_SET_NUM_TICKETS SSL_CTX_set_num_tickets
  probe_link HAVE_SSL_CTX_SET1_CERT_COMP_PREFERENCE SSL_CTX_set1_cert_comp_preference
  probe_run HAVE_SSL_KTLS '
#ifdef OPENSSL_NO_KTLS
    return 1;
#else
    return 0;
#endif
    '
}
