#!/usr/bin/env bash
# Tests bogo.sh: what it counts, which failures it forgives, and which never. The
# runner is a toy with the shape of BoringSSL's, the shim does nothing, so that this
# takes seconds.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
ROOT=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset GORACE ASAN_OPTIONS
export POLYTLS_CACHE=$work/cache BOGO_SRC=$work/src TREE=$work/tree TOY=$work/toy OUTPUT=$work/output

mkdir -p "$BOGO_SRC/ssl/test/runner" "$TREE/cmd/bogoshim/config" "$TREE/third_party"
cp "$ROOT/scripts/testdata/bogorunner_test.go.txt" "$BOGO_SRC/ssl/test/runner/runner_test.go"
printf 'module toy\n\ngo 1.26\n' >"$BOGO_SRC/go.mod"
cp -R "$ROOT/scripts" "$TREE/scripts"
printf 'module toy\n\ngo 1.26\n' >"$TREE/go.mod"
printf 'package main\n\nfunc main() {}\n' >"$TREE/cmd/bogoshim/main.go"

# shellcheck source=scripts/checks.sh
. "$ROOT/scripts/checks.sh"

# check NAME TEST: runs a function. Two of the toy's tests must pass.
check() {
  rm -f "$TOY" "$TOY.calls"
  printf 'std 2\n' >"$TREE/cmd/bogoshim/config/floors"
  : >"$OUTPUT"
  run_check "$@"
}

# tests LINE...: the toy's tests and what becomes of them.
tests() { printf '%s\n' "$@" >"$TOY"; }

# script STATUS ARGUMENT...: runs bogo.sh, which must end with STATUS. What it
# prints is in $OUTPUT.
script() {
  local want=$1
  shift
  ends_with "$want" scripts/bogo.sh --workers 7 "$@" std
}
# row PASSED FAILED UNIMPLEMENTED DISABLED AGAIN
row() { grep -q -E "^std +$1 +$2 +$3 +$4 +$5 +[0-9]+ s\$" "$OUTPUT"; }
# runs NUMBER: how often the runner ran.
runs() { [ "$(wc -l <"$TOY.calls")" -eq "$1" ]; }

counts() {
  tests 'A passes' 'B skips' 'C passes' 'D disabled'
  script 0
  row 2 0 1 1 0
  runs 1
  grep -q '^workers=7 test= ' "$TOY.calls"
}

forgives() {
  tests 'A passes' 'B fails-first' 'C fails-first' 'D skips'
  script 0
  row 3 0 1 0 2
  says 'passed when run again: B'
  says 'passed when run again: C'
  says 'i/o timeout in B'
  not says 'failed:'
  runs 2
  tail -n 1 "$TOY.calls" | grep -q '^workers=1 test=B;C '
}

fails_twice() {
  tests 'A passes' 'B fails' 'C passes'
  script 1
  row 2 1 0 0 0
  says '  failed: B'
  says 'i/o timeout in B'
  not says 'passed when run again'
  runs 2
}

tells_apart() {
  tests 'A passes' 'B fails' 'C fails-first'
  script 1
  row 2 1 0 0 1
  says '  failed: B'
  says 'passed when run again: C'
  not says 'failed: C'
}

race() {
  tests 'A passes' 'B races-first'
  script 1
  row 2 0 0 0 1
  says 'a race, an error in memory or a crash, bin/bogo/std.races.123:'
  says 'WARNING: DATA RACE'
}

crash() {
  tests 'A passes' 'B crashes-first'
  script 1
  row 2 0 0 0 1
  says 'a race, an error in memory or a crash, bin/bogo/std.crashes:'
  says 'panic: seen'
}

unseen_crash() {
  tests 'A passes' 'B crashes-unseen'
  script 1
  row 2 0 0 0 0
  says 'a race, an error in memory or a crash, bin/bogo/std.crashes:'
  says 'panic: nobody sees this'
}

sanitizers() {
  tests 'A passes' 'B passes'
  script 0
  grep -q 'GORACE=.*exitcode=90.*log_path=' "$TOY.calls"
  grep -q 'ASAN_OPTIONS=.*exitcode=90.*log_path=' "$TOY.calls"
}

too_many() {
  local i lines=()
  for i in $(seq 21); do lines+=("T$i fails-first"); done
  tests 'A passes' 'B passes' "${lines[@]}"
  script 1
  row 2 21 0 0 0
  says '  failed: T21'
  runs 1
}

floor() {
  tests 'A passes' 'B skips'
  script 1
  says 'std passes 1 tests, cmd/bogoshim/config/floors wants 2'
  script 0 --test 'A'
}

floor_forgives() {
  tests 'A passes' 'B fails-first'
  script 0
}

runner_ends() {
  tests 'A passes' 'B passes' 'C ends'
  script 1
  says 'the runner ended early, with status 2'
}

lost() {
  tests 'A passes' 'B passes' 'C fails-first' 'D lost'
  script 1
  says 'not every test was run again'
}

check "counts are the runner's" counts
check "a failure that passes alone is named, not fatal" forgives
check "a test that fails twice is a failure" fails_twice
check "the two are told apart" tells_apart
check "a race fails the run although the test passes again" race
check "so does a crash" crash
check "a crash behind an expected failure is found" unseen_crash
check "sanitizers end with a status that fails" sanitizers
check "many failures are not run again" too_many
check "fewer passes than the floor fail a whole run" floor
check "what passes again counts for the floor" floor_forgives
check "a runner that ends early fails" runner_ends
check "a test without a second result fails" lost

end_checks
