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

A test that fails is run once more, alone: on a machine that stood still for a
second, an end has given up waiting. One that passes then counts as passed, with
a line of its own in the output. Not where more than 20 tests of a provider fail,
and a race, an error in memory or a crash fails the run in any case.

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

# Status 90 fails a test even where the runner expects the shim to fail. A shim
# under the race detector would sleep for a second at its end; leaks are those of a
# process that ends in the middle of its work.
export GORACE="halt_on_error=1 exitcode=90 atexit_sleep_ms=0" ASAN_OPTIONS=detect_leaks=0:exitcode=90

# More failures than this are no accident.
AGAIN_MAX=20

# run_tests LOG WORKERS [FLAG]... lets the runner judge $provider and sets what it
# counted: BAD, SKIPPED, ENDED and TOTAL tests, and its exit status RUNNER_STATUS.
run_tests() {
  local log=$1 workers=$2 counts
  shift 2
  RUNNER_STATUS=0
  (cd "$SRC/ssl/test/runner" &&
    export BOGO_PROVIDER=$provider BOGO_UNIMPLEMENTED=$OUT/$provider.unimplemented BOGO_CRASHES=$OUT/$provider.crashes &&
    export GORACE="$GORACE log_path=$OUT/$provider.races" ASAN_OPTIONS="$ASAN_OPTIONS:log_path=$OUT/$provider.asan" &&
    exec "$OUT/runner" -shim-path "$OUT/shim" -shim-config "$ROOT/cmd/bogoshim/config/$provider.json" \
      -allow-unimplemented -loose-errors -num-workers "$workers" \
      "${RUNNER_FLAGS[@]+"${RUNNER_FLAGS[@]}"}" "$@") >"$WORK/log" 2>&1 || RUNNER_STATUS=$?
  # The status lines overwrite each other: failed/unimplemented/done/started/total.
  tr '\b' '\n' <"$WORK/log" >"$log"
  counts=$(grep -o -E '^ *[0-9]+/[0-9]+/[0-9]+/[0-9]+/[0-9]+' "$log" | tail -n 1 | tr -d ' ' || true)
  if [ -z "$counts" ]; then
    tail -n 20 "$log" >&2
    die "$provider: the runner did not run"
  fi
  IFS=/ read -r BAD SKIPPED ENDED STARTED TOTAL <<<"$counts"
}

# failures LOG prints the names of the tests that failed.
failures() { sed -n -E 's/^.*FAILED \((.*)\)$/\1/p' "$1" | sort; }

# found prints the files in which a race, an error in memory or a crash stands.
found() {
  find "$OUT" -size +0c \( -name "$provider.races.*" -o -name "$provider.asan.*" -o -name "$provider.crashes" \) | sort
}

# tell WORDS NAMES prints the names of tests, each with what the runner has said
# about it.
tell() {
  awk -v words="$1" -v names="$2" 'BEGIN { while ((getline line <names) > 0) wanted[line] = 1 }
    /FAILED \(.*\)$/ {
      name = $0; sub(/^.*FAILED \(/, "", name); sub(/\)$/, "", name); shown = 0
      if (name in wanted) print "  " words ": " name
      next
    }
    /^ *[0-9]+\/[0-9]+\/[0-9]+\/[0-9]+\/[0-9]+/ { name = "" }
    (name in wanted) && NF && !/^extra stderr:$/ && shown++ < 12 { print "      " $0 }' "$OUT/$provider.log"
}

# again decides about the tests of $WORK/failed: those that pass alone go to
# $WORK/passed, those that fail once more stay.
again() {
  local wanted
  wanted=$(wc -l <"$WORK/failed")
  [ "$wanted" -le $AGAIN_MAX ] || return 0
  run_tests "$OUT/$provider.again.log" 1 -json-output "$OUT/$provider.again.json" -test "$(paste -sd ';' "$WORK/failed")"
  failures "$OUT/$provider.again.log" >"$WORK/twice"
  # A test without a result has not passed.
  if [ $((ENDED - SKIPPED - BAD + $(wc -l <"$WORK/twice"))) -ne "$wanted" ]; then
    tail -n 20 "$OUT/$provider.again.log" >&2
    die "$provider: not every test was run again"
  fi
  comm -23 "$WORK/failed" "$WORK/twice" >"$WORK/passed"
  mv "$WORK/twice" "$WORK/failed"
}

status=0
printf '%-10s %8s %8s %14s %9s %6s %7s\n' provider passed failed unimplemented disabled again time
for provider in $PROVIDERS; do
  rm -f "$OUT/$provider".*
  start=$(now_ms)
  run_tests "$OUT/$provider.log" "$WORKERS" -json-output "$OUT/$provider.json"
  bad=$BAD skipped=$SKIPPED ended=$ENDED total=$TOTAL
  # Status 1 is that of tests that fail; anything else ended the runner early.
  if [ "$RUNNER_STATUS" -gt 1 ] || [ "$ended" -ne "$STARTED" ] || { [ "$RUNNER_STATUS" -ne 0 ] && [ "$bad" -eq 0 ]; }; then
    tail -n 20 "$OUT/$provider.log" >&2
    die "$provider: the runner ended early, with status $RUNNER_STATUS"
  fi
  failures "$OUT/$provider.log" >"$WORK/failed"
  : >"$WORK/passed"
  [ "$bad" -eq 0 ] || again
  bad=$(wc -l <"$WORK/failed")
  flaky=$(wc -l <"$WORK/passed")
  passes=$((ended - bad - skipped))
  ms=$(($(now_ms) - start))
  printf '%-10s %8d %8d %14d %9d %6d %5d s\n' "$provider" "$passes" "$bad" "$skipped" $((total - ended)) "$flaky" $((ms / 1000))
  floor=$(awk -v p="$provider" '$1 == p { print $2 }' "$ROOT/cmd/bogoshim/config/floors")
  if [ -n "$WHOLE" ] && [ "$passes" -lt "${floor:?cmd/bogoshim/config/floors has no line for $provider}" ]; then
    status=1
    printf '  %s passes %d tests, cmd/bogoshim/config/floors wants %d\n' "$provider" "$passes" "$floor"
  fi
  tell 'passed when run again' "$WORK/passed"
  if [ "$bad" -gt 0 ]; then
    status=1
    if [ "$bad" -gt $AGAIN_MAX ]; then
      head -n 50 "$WORK/failed" | sed 's/^/  failed: /'
    else
      tell failed "$WORK/failed"
    fi
  fi
  # The test may have passed when run again, or the runner may have taken a crash
  # for the failure that it expects.
  found >"$WORK/found"
  if [ -s "$WORK/found" ]; then
    status=1
    while IFS= read -r file; do
      printf '  a race, an error in memory or a crash, %s:\n' "${file#"$ROOT/"}"
      head -n 60 "$file" | sed 's/^/    /'
    done < <(head -n 5 "$WORK/found")
  fi
  # What would open the most tests.
  if [ -s "$OUT/$provider.unimplemented" ]; then
    sort "$OUT/$provider.unimplemented" | uniq -c | sort -rn >"$OUT/$provider.wanted"
    rm -f "$OUT/$provider.unimplemented"
  fi
done
exit "$status"
