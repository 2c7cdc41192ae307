#!/usr/bin/env bash
# Builds the program of the other Go binding:
#   bench/baseline/build.sh PROGRAM
# It needs the system's OpenSSL headers. Where they cannot be had it says so and
# builds nothing: the comparison then goes without the binding.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath -m "${1:?usage: bench/baseline/build.sh PROGRAM}")
mkdir -p "$(dirname "$program")"

if ! pkg-config --exists libssl 2>/dev/null; then
  # The name of a command that is never there: the packages are always wanted.
  "$root/scripts/install-tools.sh" pkg-config:pkg-config libssl-headers:libssl-dev || true
fi
if ! pkg-config --exists libssl 2>/dev/null; then
  echo "bench/baseline/build.sh: no OpenSSL headers of the system (Debian: libssl-dev): the comparison goes without the other binding" >&2
  rm -f "$program"
  exit 0
fi
cd "$root/bench"
CGO_CFLAGS="${CGO_CFLAGS:--O2 -g} -include $root/bench/baseline/openssl3.h" \
  go build -tags polytls_baseline -o "$program" ./baseline
