# shellcheck shell=bash
# What the tests of scripts share. The sourcing test sets $work, $TREE and $OUTPUT.

passed=0
failed=0

# run_check NAME TEST: runs a function in a subshell, in the tree, stopping at its
# first line that fails.
run_check() {
  local name=$1 status=0
  set +e
  (
    set -euo pipefail
    cd "$TREE"
    set -x
    "$2"
  ) >"${work:?}/trace" 2>&1
  status=$?
  set -e
  if [ "$status" -eq 0 ]; then
    echo "ok    $name"
    passed=$((passed + 1))
  else
    echo "FAIL  $name"
    sed 's/^/      /' "$work/trace" | tail -n 15
    echo "      output of the script:"
    sed 's/^/      /' "$OUTPUT" | tail -n 15
    failed=$((failed + 1))
  fi
}

# end_checks prints the sum and is the test's status.
end_checks() {
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}

# ends_with STATUS COMMAND...: the command ends with STATUS; what it prints is in $OUTPUT.
ends_with() {
  local want=$1 status=0
  shift
  "$@" >"$OUTPUT" 2>&1 || status=$?
  [ "$status" -eq "$want" ]
}
says() { grep -q -F -e "$1" "$OUTPUT"; }
not() { ! "$@"; }
