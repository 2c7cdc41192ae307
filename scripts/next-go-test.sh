#!/usr/bin/env bash
# Runs the tests of httptls, native providers included, with the Go release after
# the one in go.mod: net/http treats connections differently from Go 1.27 on
# (httptls/http2_go127.go), and cgo accepts fewer linker flags. Where that release
# cannot be had, this says why and succeeds; with POLYTLS_REQUIRE_NEXT_GO=1 it
# fails.
set -euo pipefail
cd "$(dirname "$0")/.."

next=${NEXT_GO:-go1.27.4}
if ! got=$(GOTOOLCHAIN=$next go version 2>&1); then
  echo "skip  httptls with $next: it cannot be had: ${got//$'\n'/ }"
  [ "${POLYTLS_REQUIRE_NEXT_GO:-}" != 1 ]
  exit
fi
echo "$got"
GOTOOLCHAIN=$next exec go test -timeout 10m ./httptls
