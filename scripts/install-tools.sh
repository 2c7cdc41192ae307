#!/usr/bin/env bash
# Installs the programs that tests and linters call, where they are missing.
# Usage: install-tools.sh COMMAND:PACKAGE...
set -euo pipefail

packages=()
for pair in "$@"; do
  # Daemons may not be in an ordinary user's path.
  PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || packages+=("${pair#*:}")
done
[ "${#packages[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "missing packages: ${packages[*]}" >&2
    echo "install them, on Debian or Ubuntu with: sudo apt-get install ${packages[*]}" >&2
    exit 1
  fi
  as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "missing programs, by their Debian package names: ${packages[*]}" >&2
  exit 1
fi
echo "installing with apt-get: ${packages[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
