# shellcheck shell=bash disable=SC2034,SC2153
# BoringSSL, every symbol prefixed: by its own build where it can
# (BORINGSSL_PREFIX), with objcopy for the version of 2023.

BSSL_PREFIX=polytls_bssl

boringssl_flags() {
  printf '%s' "-DCMAKE_BUILD_TYPE=Release -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_TESTING=OFF -DCMAKE_C_VISIBILITY_PRESET=hidden -DCMAKE_CXX_VISIBILITY_PRESET=hidden -DCMAKE_VISIBILITY_INLINES_HIDDEN=ON"
}

# boringssl_prefixes says whether the sources prefix their symbols themselves.
boringssl_prefixes() { [ -f "$SRC/include/openssl/prefix_symbols.h" ]; }

# BoringSSL asks for Go because of a target of its own that checks the prefix. It
# is not built here, boringssl_check_prefix does that.
boringssl_configure() {
  local source=$SRC prefix=-DBORINGSSL_PREFIX=$BSSL_PREFIX
  if ! boringssl_prefixes; then
    source=$ROOT/third_party/boringssl-2023
    prefix=-DBORINGSSL_SOURCE=$SRC
  fi
  # shellcheck disable=SC2046
  CC=$CLANG CXX=$CLANGXX CFLAGS=$(common_cflags) CXXFLAGS=$(common_cflags) \
    cmake -S "$source" -B "$BUILD" -G "$(use_ninja)" $(boringssl_flags) "$prefix" -DGO_EXECUTABLE="$(type -P false)"
}

boringssl_compile() { cmake --build "$BUILD" --parallel "$JOBS" --target crypto ssl; }

boringssl_install() {
  local library symbols=$BUILD/prefix.symbols
  mkdir -p "$OUT"
  cp -R "$SRC/include" "$OUT/include"
  find "$BUILD" -name libcrypto.a -o -name libssl.a | while IFS= read -r library; do
    case $library in
      */libcrypto.a) install_archive "$library" polytls_boringssl_crypto ;;
      *) install_archive "$library" polytls_boringssl_ssl ;;
    esac
  done
  if [ -d "$SRC/src/include" ]; then
    rm -rf "$OUT/include"
    cp -R "$SRC/src/include" "$OUT/include"
  fi
  # Its own build leaves a few C++ symbols without the prefix: members of
  # structs that C code sees, too.
  {
    strong_symbols "$OUT/lib/libpolytls_boringssl_crypto.a"
    strong_symbols "$OUT/lib/libpolytls_boringssl_ssl.a"
  } | sort -u | awk -v prefix="$BSSL_PREFIX" 'index($1, prefix) == 0 { print $1, prefix "_" $1 }' >"$symbols"
  for library in crypto ssl; do
    objcopy --redefine-syms="$symbols" "$OUT/lib/libpolytls_boringssl_$library.a"
  done
  if ! boringssl_prefixes; then
    # The header that base.h includes when BORINGSSL_PREFIX is defined.
    rename_header "$symbols" "$OUT/include/openssl" >"$OUT/include/boringssl_prefix_symbols.h"
  fi
  hide_symbols "$OUT/lib/libpolytls_boringssl_crypto.a" "$OUT/lib/libpolytls_boringssl_ssl.a"
  cp "$SRC/LICENSE" "$OUT/LICENSE" 2>/dev/null || cp "$SRC/src/LICENSE" "$OUT/LICENSE"
  boringssl_check_prefix
}

# Every symbol that is not the C++ library's must carry the prefix, or it could
# clash with another library of the binary.
boringssl_check_prefix() {
  local bare
  bare=$({
    strong_symbols "$OUT/lib/libpolytls_boringssl_crypto.a"
    strong_symbols "$OUT/lib/libpolytls_boringssl_ssl.a"
  } | awk -v prefix="$BSSL_PREFIX" 'index($1, prefix) == 0' | head -n 5)
  [ -z "$bare" ] || {
    printf 'symbols without the prefix:\n%s\n' "$bare"
    return 1
  }
}

boringssl_probes() {
  probe_header boringssl
  PROBE_CC=("$CC" "-DBORINGSSL_PREFIX=$BSSL_PREFIX" "-I$OUT/include")
  PROBE_LIBS=("-L$OUT/lib" -lpolytls_boringssl_ssl -lpolytls_boringssl_crypto "$(cxx_library)" -lpthread)
  PROBE_PRELUDE='#include <openssl/ssl.h>
#include <openssl/x509.h>'
  probe_text POLYTLS_BORINGSSL_RUNTIME_VERSION 'OpenSSL_version(OPENSSL_VERSION)'
  probe_link HAVE_SSL_SET1_CLIENT_KEY_SHARES SSL_set1_client_key_shares
  probe_run HAVE_X25519MLKEM768 'SSL_CTX *c = SSL_CTX_new(TLS_method()); return SSL_CTX_set1_groups_list(c, "X25519MLKEM768") != 1;'
  probe_link HAVE_SSL_CREDENTIAL SSL_CREDENTIAL_new_x509
  probe_link HAVE_SSL_CREDENTIAL_PRE_SHARED_KEY SSL_CREDENTIAL_new_pre_shared_key
  probe_link HAVE_SSL_GET_GROUP_ID SSL_get_group_id
  probe_link HAVE_SSL_GET_GROUP_NAME SSL_get_group_name
  probe_link HAVE_SSL_CTX_SET1_GROUP_IDS SSL_CTX_set1_group_ids
  probe_link HAVE_SSL_GET_PEER_SIGNATURE_ALGORITHM SSL_get_peer_signature_algorithm
  probe_link HAVE_SSL_GET0_SELECTED_CREDENTIAL SSL_get0_selected_credential
  add_key boringssl polytls_boringssl_ssl
  probe_footer
}
