#!/usr/bin/env bash
# Builds a clean clone of the committed files at every stage: before the native
# libraries are there, with them, with another build of one of them, after they
# were removed, and without cgo. Every stage must build and vet, and the command
# must tell what it was built with.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
cleanup() {
  chmod -R u+w "$work"
  rm -rf "$work"
}
trap cleanup EXIT

git clone -q . "$work/clone"
cd "$work/clone"

passed=0
failed=0
# stage NAME WANTED [VARIABLE=VALUE]... builds everything and compares what
# `polytls providers` says with the words of WANTED, in the providers' order.
stage() {
  local name=$1 wanted=$2 got
  shift 2
  if ! env "$@" sh -c 'go build ./... && go vet ./... && cd cmd/polytls && go build -o ../../polytls . && go vet ./...' >"$work/log" 2>&1; then
    echo "FAIL  $name"
    tail -n 30 "$work/log" | sed 's/^/      /'
    failed=$((failed + 1))
    return
  fi
  # Compact JSON, one provider a line.
  got=$(./polytls providers --json | tr -d '\n ' | sed 's/{"name"/\n{"name"/g' |
    sed -n 's/.*"version":"\([^"]*\)","available":true.*/\1/p; s/.*"available":false,"reason":"[^"]*notbuiltin[^"]*".*/-/p' | paste -sd ' ' -)
  # shellcheck disable=SC2254 # WANTED is a pattern
  case $got in
    $wanted)
      echo "ok    $name: $got"
      passed=$((passed + 1))
      ;;
    *)
      echo "FAIL  $name: got \"$got\", wanted \"$wanted\""
      failed=$((failed + 1))
      ;;
  esac
}

stage "before make native" "- - - go1.*"
make -s native >/dev/null
stage "after make native" "3.5.* 0.* 1.*(OpenSSL3.5.*) go1.*"
stage "without cgo, libraries present" "- - - go1.*" CGO_ENABLED=0
make -s native LIBS=openssl OPENSSL=system >/dev/null
system=$(pkg-config --modversion openssl)
stage "with the system's OpenSSL" "$system 0.* 1.* go1.*"
make -s native LIBS=openssl >/dev/null
stage "with the built OpenSSL again" "3.5.* 0.* 1.* go1.*"
scripts/build-native.sh --clean >/dev/null
stage "after removing the libraries" "- - - go1.*"
stage "without cgo" "- - - go1.*" CGO_ENABLED=0

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
