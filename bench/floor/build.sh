#!/usr/bin/env bash
# Builds the plain C programs of the libraries that `make native` has built:
#   bench/floor/build.sh FOLDER
# makes FOLDER/floor-openssl, -boringssl and -s2n. Where the libraries are is
# read from the cgo flags that scripts/build-native.sh has written.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: bench/floor/build.sh FOLDER}
mkdir -p "$out"

# flags LIB KIND prints the flags of a kind, CFLAGS or LDFLAGS.
flags() {
  sed -n "s|^// #cgo $2: ||p" "$root/$1/native_flags_generated.go" | sed "s|\${SRCDIR}|$root/$1|g"
}

for lib in openssl boringssl s2n; do
  if ! [ -f "$root/$lib/native_flags_generated.go" ]; then
    echo "bench/floor/build.sh: $lib is not built (make native LIBS=$lib): there is no floor for it" >&2
    rm -f "$out/floor-$lib"
    continue
  fi
  source=libssl.c
  [ "$lib" != s2n ] || source=s2n.c
  read -ra cflags <<<"$(flags "$lib" CFLAGS)"
  read -ra ldflags <<<"$(flags "$lib" LDFLAGS)"
  "${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Werror -o "$out/floor-$lib" \
    "${cflags[@]}" "$root/bench/floor/$source" "${ldflags[@]}"
done
