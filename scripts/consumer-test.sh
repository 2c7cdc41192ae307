#!/usr/bin/env bash
# Builds and runs programs of another module that link Polytls from elsewhere:
# a module proxy serves the committed files, the module cache is read-only, the
# build cache is empty, and the native libraries come from a prefix through
# pkg-config (build tag polytls_pkgconfig).
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD

work=$(mktemp -d)
cleanup() {
  chmod -R u+w "$work"
  rm -rf "$work"
}
trap cleanup EXIT

module=github.com/polytls/polytls
version=v0.0.1
passed=0
failed=0
check() { # NAME COMMAND...
  local name=$1 log=$work/log
  shift
  if "$@" >"$log" 2>&1; then
    echo "ok    $name: $(tail -n 1 "$log")"
    passed=$((passed + 1))
  else
    echo "FAIL  $name"
    tail -n 30 "$log" | sed 's/^/      /'
    failed=$((failed + 1))
  fi
}

# The module as a proxy serves it: the committed files without nested modules.
proxy=$work/proxy/$module/@v
mkdir -p "$proxy"
mapfile -t nested < <(git ls-files '*/go.mod' | sed 's|/go.mod$||; s|^|:!|')
git archive --format=zip --prefix="$module@$version/" -o "$proxy/$version.zip" HEAD . "${nested[@]}"
git show HEAD:go.mod >"$proxy/$version.mod"
printf '{"Version":"%s","Time":"2026-01-01T00:00:00Z"}\n' "$version" >"$proxy/$version.info"
echo "$version" >"$proxy/list"

upstream=$(go env GOPROXY)
export GOPROXY="file://$work/proxy,$upstream"
export GONOSUMDB="$module" GOFLAGS=-mod=mod GOWORK=off
export GOMODCACHE=$work/modcache GOCACHE=$work/gocache

scripts/build-native.sh --prefix "$work/static" >/dev/null
scripts/build-native.sh --openssl system --prefix "$work/system" openssl >/dev/null

# consumer FOLDER IMPORT EXPRESSION writes a program that runs a verified
# handshake with every provider of the list EXPRESSION and prints the versions.
consumer() {
  mkdir -p "$1"
  sed -e "s|IMPORT|$2|" -e "s|EXPRESSION|$3|" "$ROOT/scripts/testdata/consumer.go.txt" >"$1/main.go"
  (cd "$1" && go mod init example.org/consumer && go get "$module@$version" && go mod tidy) >"$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
  }
}
pkgconfig() { # PREFIX COMMAND...
  local prefix=$1
  shift
  PKG_CONFIG_PATH=$prefix/lib/pkgconfig \
    CGO_CFLAGS="-O2 -g -DPOLYTLS_NATIVE_KEY=$(cat "$prefix"/lib/pkgconfig/*.pc | cksum | cut -d ' ' -f 1)" "$@"
}
in_folder() (cd "$1" && shift && "$@")

consumer "$work/one" "$module/openssl" "[]tlsapi.Provider{openssl.Provider}"
consumer "$work/all" "$module/providers" "providers.All()"

check "OpenSSL alone, static" in_folder "$work/one" pkgconfig "$work/static" go run -tags polytls_pkgconfig . openssl
check "OpenSSL alone, the system's" in_folder "$work/one" pkgconfig "$work/system" go run -tags polytls_pkgconfig . openssl
check "all providers, static" in_folder "$work/all" pkgconfig "$work/static" go run -tags polytls_pkgconfig . openssl boringssl s2n std
check "no tag: std works, the others are not built in" in_folder "$work/all" go run . std
check "without cgo" in_folder "$work/all" env CGO_ENABLED=0 go run . std

check "go mod vendor" in_folder "$work/all" go mod vendor
check "vendored, static" in_folder "$work/all" env GOFLAGS=-mod=vendor PKG_CONFIG_PATH="$work/static/lib/pkgconfig" go run -tags polytls_pkgconfig . openssl boringssl s2n std
# A tree in which `make native` has run is vendored with its generated files,
# whose paths then lead nowhere.
for provider in openssl boringssl s2n; do
  cp "$provider"/*_generated.go "$provider"/libpolytls_*.a "$work/all/vendor/$module/$provider/"
done
check "vendored with generated files, no tag" in_folder "$work/all" env GOFLAGS=-mod=vendor go run . std
check "vendored with generated files, static" in_folder "$work/all" env GOFLAGS=-mod=vendor PKG_CONFIG_PATH="$work/static/lib/pkgconfig" go run -tags polytls_pkgconfig . openssl boringssl s2n std

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
