#!/usr/bin/env bash
# Lets BoringSSL's test runner (ssl/test/runner, "BoGo") judge the providers.
# bogo.sh --help says how it is used.
set -euo pipefail
export LC_ALL=C
umask 022

ROOT=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd -P)
LOCK=$ROOT/third_party/native.lock
CACHE=${POLYTLS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/polytls}
export ROOT LOCK CACHE

# shellcheck source=scripts/native/steps.sh
. "$ROOT/scripts/native/steps.sh"
# shellcheck source=scripts/native/fetch.sh
. "$ROOT/scripts/native/fetch.sh"

usage() {
  cat <<'TEXT'
usage: scripts/bogo.sh [OPTION]... [PROVIDER]...

Builds BoringSSL's test runner from the locked sources and cmd/bogoshim, and runs
the tests for the providers: openssl, boringssl, s2n, std. Without a PROVIDER,
all of them. Results go to bin/bogo: per provider the runner's log, its results
as JSON, and what the unimplemented tests want.

options
  --test PATTERN     only tests of these names (globs, separated by semicolons)
  --include-disabled also the tests that cmd/bogoshim/config disables
  --race, --asan     build the shim with Go's race detector, AddressSanitizer
  --workers N        tests at a time (default: one per processor)
  --help             this text

environment
  POLYTLS_CACHE      cache folder (default: ${XDG_CACHE_HOME:-~/.cache}/polytls)
  BOGO_SRC           a folder with BoringSSL's sources, instead of the locked ones

A whole run fails, too, when fewer tests pass than cmd/bogoshim/config/floors
says: a provider, or the shim, can do less than before.

status: 0 no unexpected result, 1 there was one or something failed, 2 wrong usage
TEXT
}

# A busy machine may keep a shim from answering for the runner's 15 s.
PROVIDERS='' RUNNER_FLAGS=(-idle-timeout 2m) BUILD_FLAGS=() WORKERS='' WHOLE=1
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --test) RUNNER_FLAGS+=(-test "${2:?--test wants a pattern}") WHOLE=; shift ;;
    --include-disabled) RUNNER_FLAGS+=(-include-disabled) WHOLE= ;;
    --race) BUILD_FLAGS+=(-race) ;;
    --asan) BUILD_FLAGS+=(-asan) ;;
    --workers) WORKERS=${2:?--workers wants a number}; shift ;;
    openssl | boringssl | s2n | std) PROVIDERS="$PROVIDERS $1" ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
PROVIDERS=${PROVIDERS:-openssl boringssl s2n std}
WORKERS=${WORKERS:-$(nproc 2>/dev/null || echo 2)}
OUT=$ROOT/bin/bogo

# unpack_runner FILE DIR takes the runner out of the tarball; the rest of the
# source is not needed.
unpack_runner() {
  local strip
  mkdir -p "$2"
  strip=$(($(printf '%s' "$S_FOLDER" | tr -cd / | wc -c) + 2))
  tar -xf "$1" -C "$2" --strip-components="$strip" --wildcards \
    "*/$S_FOLDER/ssl/test/runner/*" "*/$S_FOLDER/util/testresult/*" "*/$S_FOLDER/go.mod" "*/$S_FOLDER/go.sum"
}

# runner_source sets SRC to a folder with the runner. Only the newest BoringSSL of
# the lock will do: runners of 2023 have certificates that are out of date.
runner_source() {
  local line folder newest=
  if [ -n "${BOGO_SRC:-}" ]; then
    SRC=$BOGO_SRC
    return
  fi
  while IFS= read -r line; do
    parse_source "$line"
    folder=$CACHE/bogo-$(printf '%s' "$S_ID" | sha256_text | cut -c1-12)
    if [ -d "$folder" ]; then
      SRC=$folder
      return
    fi
    [ "$S_VERSION" = "${newest:=$S_VERSION}" ] || continue
    if [ "$S_KIND" = archive ]; then
      fetch_archive boringssl || { note bogo "$REASON"; continue; }
      note bogo "unpack the runner from $S_FILE"
      unpack_runner "$CACHE/downloads/$S_FILE" "$WORK/src"
    else
      fetch_git boringssl "$WORK/src" || { note bogo "$REASON"; continue; }
    fi
    mv "$WORK/src" "$folder"
    SRC=$folder
    return
  done < <(lock_lines boringssl)
  die "no source of BoringSSL's test runner can be had; BOGO_SRC names a folder with one"
}

mkdir -p "$CACHE/logs" "$OUT"
WORK=$(mktemp -d "$CACHE/bogo-work.XXXXXX")
LOG=$CACHE/logs/bogo.log
export WORK LOG
: >"$LOG"
trap 'rm -rf "$WORK"' EXIT

SRC=
runner_source
note bogo "build the runner and the shim"
(cd "$SRC" && go test -c -o "$OUT/runner" ./ssl/test/runner)
(cd "$ROOT" && go build "${BUILD_FLAGS[@]+"${BUILD_FLAGS[@]}"}" -o "$OUT/shim" ./cmd/bogoshim)

# A shim under the race detector would sleep for a second at its end; leaks are
# those of a process that ends in the middle of its work.
export GORACE=atexit_sleep_ms=0 ASAN_OPTIONS=detect_leaks=0

status=0
printf '%-10s %8s %8s %14s %9s %6s\n' provider passed failed unimplemented disabled time
for provider in $PROVIDERS; do
  rm -f "$OUT/$provider".*
  start=$(now_ms)
  failed=
  (cd "$SRC/ssl/test/runner" &&
    BOGO_PROVIDER=$provider BOGO_UNIMPLEMENTED=$OUT/$provider.unimplemented \
      "$OUT/runner" -shim-path "$OUT/shim" -shim-config "$ROOT/cmd/bogoshim/config/$provider.json" \
      -allow-unimplemented -loose-errors -num-workers "$WORKERS" -json-output "$OUT/$provider.json" \
      "${RUNNER_FLAGS[@]+"${RUNNER_FLAGS[@]}"}") >"$OUT/$provider.log" 2>&1 || failed=1
  # The runner's status lines overwrite each other: failed/unimplemented/done/started/total.
  counts=$(tr '\b' '\n' <"$OUT/$provider.log" | grep -o -E '^ *[0-9]+/[0-9]+/[0-9]+/[0-9]+/[0-9]+' | tail -n 1 | tr -d ' ')
  if [ -z "$counts" ]; then
    tail -n 20 "$OUT/$provider.log" >&2
    die "$provider: the runner did not run"
  fi
  IFS=/ read -r bad skipped ended _ total <<<"$counts"
  ms=$(($(now_ms) - start))
  passes=$((ended - bad - skipped))
  printf '%-10s %8d %8d %14d %9d %4d s\n' "$provider" "$passes" "$bad" "$skipped" $((total - ended)) $((ms / 1000))
  floor=$(awk -v p="$provider" '$1 == p { print $2 }' "$ROOT/cmd/bogoshim/config/floors")
  if [ -n "$WHOLE" ] && [ "$passes" -lt "${floor:?cmd/bogoshim/config/floors has no line for $provider}" ]; then
    status=1
    printf '  %s passes %d tests, cmd/bogoshim/config/floors wants %d\n' "$provider" "$passes" "$floor"
  fi
  if [ -n "$failed" ]; then
    status=1
    tr '\b' '\n' <"$OUT/$provider.log" | sed -n -E 's/^.*FAILED \((.*)\)$/  failed: \1/p' | sort | head -n 50
  fi
  # What would open the most tests.
  if [ -s "$OUT/$provider.unimplemented" ]; then
    sort "$OUT/$provider.unimplemented" | uniq -c | sort -rn >"$OUT/$provider.wanted"
    rm -f "$OUT/$provider.unimplemented"
  fi
done
exit "$status"
