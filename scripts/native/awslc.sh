# shellcheck shell=bash disable=SC2034,SC2153
# AWS-LC, its libcrypto only: an optional libcrypto for s2n-tls
# (S2N_LIBCRYPTO=awslc). It is never linked by itself.

awslc_flags() {
  printf '%s' '-DCMAKE_BUILD_TYPE=Release -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_SHARED_LIBS=OFF -DBUILD_TESTING=OFF -DBUILD_TOOL=OFF -DBUILD_LIBSSL=OFF -DDISABLE_GO=ON -DDISABLE_PERL=ON -DCMAKE_INSTALL_LIBDIR=lib'
}

awslc_configure() {
  # shellcheck disable=SC2046
  CC=$CC CFLAGS=$(common_cflags) CXXFLAGS=$(common_cflags) \
    cmake -S "$SRC" -B "$BUILD" -G "$(use_ninja)" $(awslc_flags) -DCMAKE_INSTALL_PREFIX="$BUILD/install"
}

awslc_compile() { cmake --build "$BUILD" --parallel "$JOBS" --target crypto; }

awslc_install() {
  mkdir -p "$OUT"
  cp -R "$SRC/include" "$OUT/include"
  if [ -d "$BUILD/symbol_prefix_include" ]; then cp -R "$BUILD/symbol_prefix_include/." "$OUT/include/"; fi
  install_archive "$(find "$BUILD" -name libcrypto.a | head -n 1)" polytls_awslc_crypto
  cp "$SRC/LICENSE" "$OUT/LICENSE"
}

awslc_probes() {
  probe_header awslc
  probe_footer
}
