#!/usr/bin/env bash
# job.sh FUNCTION ARGUMENT...: runs one step of build-native.sh in a shell that
# stops at the first failing line. Its variables come from the environment.
set -euo pipefail
export LC_ALL=C
here=$ROOT/scripts/native
# shellcheck source=scripts/native/steps.sh
. "$here/steps.sh"
# shellcheck source=scripts/native/fetch.sh
. "$here/fetch.sh"
# shellcheck source=scripts/native/build.sh
. "$here/build.sh"
# shellcheck source=scripts/native/openssl.sh
. "$here/openssl.sh"
# shellcheck source=scripts/native/boringssl.sh
. "$here/boringssl.sh"
# shellcheck source=scripts/native/s2n.sh
. "$here/s2n.sh"
# shellcheck source=scripts/native/awslc.sh
. "$here/awslc.sh"
"$@"
