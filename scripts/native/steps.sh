# shellcheck shell=bash
# Messages, timed steps, checksums. Sourced by build-native.sh; bash 3.2 will do.

# die prints an error and ends the script: die MESSAGE [STATUS].
die() {
  printf 'build-native: %s\n' "$1" >&2
  exit "${2:-1}"
}

note() { printf '%-10s %s\n' "$1" "$2"; }

upper() { printf '%s' "$1" | tr '[:lower:]' '[:upper:]'; }

have() { command -v "$1" >/dev/null 2>&1; }

now_ms() {
  if [ -n "${EPOCHREALTIME:-}" ]; then
    local t=${EPOCHREALTIME/[.,]/}
    printf '%s' "${t%???}"
  else
    printf '%s000' "$(date +%s)"
  fi
}

if have sha256sum; then SHA256_TOOL='sha256sum'; else SHA256_TOOL='shasum -a 256'; fi

# sha256_of prints the checksum of one file, sha256_text that of its input.
sha256_of() {
  local sum
  sum=$($SHA256_TOOL "$1") || return 1
  printf '%s' "${sum%% *}"
}
sha256_text() {
  local sum
  sum=$($SHA256_TOOL)
  printf '%s' "${sum%% *}"
}

# run_logged runs a function of these files with its output in $LOG. It runs in
# a bash of its own, so that it stops at its first failing line even where this
# function is called in a condition, and as a job of its own, so that a signal
# to this script ends it at once and completely.
CHILD=
run_logged() {
  local status=0
  set -m
  bash "$ROOT/scripts/native/job.sh" "$@" >>"$LOG" 2>&1 </dev/null &
  CHILD=$!
  set +m
  wait "$CHILD" || status=$?
  CHILD=
  return "$status"
}

# try LIBRARY WHAT COMMAND...: one line of progress with its time; a failure is
# told to the caller, who may have something else to try.
try() {
  local library=$1 what=$2 start status=0 ms
  shift 2
  printf '%-10s %-64s' "$library" "$what"
  printf '\n== %s\n' "$what" >>"$LOG"
  start=$(now_ms)
  run_logged "$@" || status=$?
  ms=$(($(now_ms) - start))
  if [ "$status" -ne 0 ]; then
    printf '%5d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$([ -n "${STEP:-}" ] && echo failed || echo no)"
    return "$status"
  fi
  printf '%5d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100))
}

# step is try, except that a failure shows the log's end and ends the script.
step() {
  STEP=1 try "$@" && return
  {
    printf '\n-- the last lines of the log:\n'
    tail -n 20 "$LOG"
    printf -- '-- %s\n' "the whole log: $LOG"
  } >&2
  die "$1: \"$2\" failed"
}

# install_packages SUDO PACKAGES
install_packages() {
  # shellcheck disable=SC2086
  $1 apt-get update -q
  # shellcheck disable=SC2086
  $1 env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $2
}

megabytes() { printf '%d.%d MB' $(($1 / 1000000)) $(($1 % 1000000 / 100000)); }
