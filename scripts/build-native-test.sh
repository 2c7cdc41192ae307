#!/usr/bin/env bash
# Tests build-native.sh: what it refuses, what it leaves behind when it fails or
# is stopped, and that a second run does nothing. Each test has a copy of the
# scripts and a cache of its own; the library that is built is a toy with the
# shape of OpenSSL, so that this takes seconds.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
ROOT=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENSSL S2N_LIBCRYPTO XDG_CACHE_HOME MAKEFLAGS
# Nothing here may install or fetch anything.
export POLYTLS_NO_INSTALL=1

passed=0
failed=0
# check NAME TEST: runs a function in a subshell, in a fresh tree, stopping at
# its first line that fails.
check() {
  local name=$1 status=0
  export TREE=$work/tree POLYTLS_CACHE=$work/cache OUTPUT=$work/output
  rm -rf "$TREE" "$POLYTLS_CACHE"
  mkdir -p "$TREE"
  cp -R "$ROOT/scripts" "$TREE/scripts"
  mkdir -p "$TREE/third_party"
  find "$ROOT/third_party" -mindepth 1 -maxdepth 1 ! -name build -exec cp -R {} "$TREE/third_party/" \;
  : >"$OUTPUT"
  set +e
  (
    set -euo pipefail
    cd "$TREE"
    set -x
    "$2"
  ) >"$work/trace" 2>&1
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

# script STATUS ARGUMENT...: runs the tree's script, which must end with STATUS.
# What it prints is in $OUTPUT.
script() {
  local want=$1 status=0
  shift
  scripts/build-native.sh "$@" >"$OUTPUT" 2>&1 || status=$?
  [ "$status" -eq "$want" ]
}
says() { grep -q -F -e "$1" "$OUTPUT"; }
not() { ! "$@"; }
silent_on() { not says "$1"; }

# nothing_left: no library, no work folder, no generated file.
nothing_left() {
  local left
  left=$(find "$POLYTLS_CACHE" -maxdepth 1 \( -name 'openssl-*' -o -name 'work.*' \) 2>/dev/null
    find . \( -name native_flags_generated.go -o -path './third_party/build/*' \))
  [ -z "$left" ] || {
    echo "left behind: $left"
    return 1
  }
}

# toy MODE [VERSION]: puts a toy OpenSSL into the download cache and the lock.
# MODE says what its build does: ok, fail or sleep.
toy() {
  local version=${2:-9.9.1} dir file sum
  dir=$work/toy/openssl-$version
  rm -rf "$work/toy"
  mkdir -p "$dir/include/openssl" "$POLYTLS_CACHE/downloads"
  printf 'MAJOR=%s\nMINOR=%s\nPATCH=%s\n' "${version%%.*}" 9 "${version##*.}" >"$dir/VERSION.dat"
  echo licence >"$dir/LICENSE.txt"
  cat >"$dir/include/openssl/ssl.h" <<'C'
typedef struct { int x; } SSL_CTX;
const char *OpenSSL_version(int what);
const void *TLS_method(void);
SSL_CTX *SSL_CTX_new(const void *method);
int SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *list);
#define OPENSSL_VERSION 0
C
  : >"$dir/include/openssl/x509v3.h"
  cat >"$dir/crypto.c" <<C
#include <openssl/ssl.h>
const char *OpenSSL_version(int what) { (void)what; return "toy $version"; }
C
  cat >"$dir/ssl.c" <<'C'
#include <openssl/ssl.h>
static SSL_CTX ctx;
const void *TLS_method(void) { return &ctx; }
SSL_CTX *SSL_CTX_new(const void *method) { (void)method; return &ctx; }
int SSL_CTX_set1_groups_list(SSL_CTX *c, const char *list) { (void)c; return list[0] == '*'; }
C
  echo "$1" >"$dir/mode"
  cat >"$dir/Configure" <<'PERL'
use File::Basename;
my $src = dirname($0);
open my $m, '>', 'Makefile';
print $m <<"MAKE";
build_libs:
	\@echo building in mode \$\$(cat $src/mode); date >>$ENV{TOY_BUILDS}
	\@if [ "\$\$(cat $src/mode)" = fail ]; then echo 'toy.c:7: error: the toy is broken'; exit 1; fi
	\@if [ "\$\$(cat $src/mode)" = sleep ]; then echo \$\$\$\$ >$ENV{TOY_BUILDS}.pid; exec sleep 600; fi
	for l in crypto ssl; do gcc -fPIC -I$src/include -c $src/\$\$l.c && ar qc lib\$\$l.a \$\$l.o; done
install_dev:
	mkdir -p \$(DESTDIR)/usr/lib
	cp -R $src/include \$(DESTDIR)/usr/include
	cp lib*.a \$(DESTDIR)/usr/lib/
MAKE
PERL
  file=openssl_$version.orig.tar.gz
  tar -C "$work/toy" -czf "$POLYTLS_CACHE/downloads/$file" "openssl-$version"
  sum=$(sha256sum "$POLYTLS_CACHE/downloads/$file")
  printf 'archive openssl %s openssl sid %s 1 %s .\n' "$version" "$file" "${sum%% *}" >third_party/native.lock
  export TOY_BUILDS=$work/builds
  rm -f "$TOY_BUILDS" "$TOY_BUILDS.pid"
}

# fake_archive RECORD: an apt-get and an apt-cache that know one source package.
fake_archive() {
  mkdir -p "$work/fake"
  cat >"$work/fake/apt-get" <<'SH'
#!/bin/sh
case "$*" in
  *Packages*) echo "Debian Debian file:///nowhere/" ;;
  *Sources*) echo list ;;
  *--download-only*) echo 'E: Failed to fetch http://x/y  404  Not Found [IP: 192.0.2.1 80]' >&2; exit 100 ;;
esac
SH
  printf '#!/bin/sh\ncat <<E\n%s\nE\n' "$1" >"$work/fake/apt-cache"
  printf '#!/bin/sh\necho "fatal: unable to access" >&2; exit 128\n' >"$work/fake/git"
  chmod +x "$work/fake"/*
  PATH=$work/fake:$PATH
}

# --- the tests ------------------------------------------------------------------

help_tells_all() {
  local option
  script 0 --help
  for option in --check --list --update --src --prefix --jobs --clean --openssl POLYTLS_CACHE; do says "$option"; done
}

wrong_usage() {
  script 2 nosuchlib
  says 'unknown library: nosuchlib'
  says 'openssl boringssl s2n'
  script 2 --nosuchoption
  says 'unknown option: --nosuchoption'
  script 2 --jobs many
  script 2 --jobs
  script 2 --src openssl
  script 2 --openssl other
  script 2 --all
  script 1 --src openssl=/nosuchfolder
  says '/nosuchfolder'
  [ ! -e "$POLYTLS_CACHE" ]
}

list_and_check_change_nothing() {
  script 0 --list
  grep -q '^openssl .*not built' "$OUTPUT"
  grep -q '^boringssl .*not built' "$OUTPUT"
  grep -q '^s2n .*not built' "$OUTPUT"
  script 1 --check
  says 'not built'
  [ ! -e "$POLYTLS_CACHE" ]
  nothing_left
}

wrong_checksum() {
  local file want found
  read -r file want < <(awk '$1 == "archive" && $2 == "openssl" { print $6, $8; exit }' third_party/native.lock)
  mkdir -p "$POLYTLS_CACHE/downloads"
  echo garbage >"$POLYTLS_CACHE/downloads/$file"
  found=$(sha256sum "$POLYTLS_CACHE/downloads/$file")
  script 1 openssl
  says 'wrong checksum'
  says "$want"
  says "${found%% *}"
  [ ! -e "$POLYTLS_CACHE/downloads/$file" ]
  nothing_left
}

# basic_tools makes $work/bin: what a minimal system has, no compilers.
basic_tools() {
  local tool
  rm -rf "${work:?}/bin"
  mkdir "$work/bin"
  for tool in bash sh awk sed grep sort tr cut cat head tail date mkdir rm mv cp ls ln uname id sha256sum find mktemp touch flock nproc wc cmp readlink apt-get gzip xz paste env tar chmod true; do
    ln -sf "$(type -P "$tool")" "$work/bin/$tool"
  done
}

missing_tools() {
  local tool
  basic_tools
  PATH=$work/bin script 1 openssl boringssl s2n
  says 'tools are missing'
  for tool in gcc make perl clang cmake ninja objcopy; do says " $tool"; done
  says 'apt-get install'
  says 'ninja-build'
  nothing_left
  PATH=$work/bin script 1 --check
  says 'ninja-build'
}

# As root, or with a sudo that asks nothing, missing tools are installed.
installed_tools() {
  local user
  for user in 0 1000; do
    toy ok
    basic_tools
    rm "$work/bin/apt-get" "$work/bin/id"
    # This apt-get installs by making links.
    cat >"$work/bin/apt-get" <<SH
#!$(command -v bash)
echo "apt-get \$*" >>$work/apt-calls
[ "\$1" = install ] || exit 0
[ -n "\${SUDO:-}" ] || [ $user = 0 ] || exit 1
for t in gcc cc as ld make perl ar ranlib nm objcopy g++; do ln -sf \$(PATH=$PATH command -v \$t) $work/bin/\$t; done
SH
    printf '#!%s\necho %s\n' "$(command -v bash)" "$user" >"$work/bin/id"
    printf '#!%s\nshift; SUDO=1 exec "$@"\n' "$(command -v bash)" >"$work/bin/sudo"
    chmod +x "$work/bin/apt-get" "$work/bin/id" "$work/bin/sudo"
    rm -f "$work/apt-calls"
    POLYTLS_NO_INSTALL=0 PATH=$work/bin script 0 openssl
    says 'missing: gcc'
    grep -q '^apt-get update' "$work/apt-calls"
    grep -q '^apt-get install .*gcc.*perl' "$work/apt-calls"
    says '9.9.1 is built'
    rm -rf "$POLYTLS_CACHE"
  done
}

failed_build() {
  toy fail
  script 1 openssl
  says 'toy.c:7: error: the toy is broken'
  says "$POLYTLS_CACHE/logs/openssl.log"
  grep -q 'the toy is broken' "$POLYTLS_CACHE/logs/openssl.log"
  nothing_left
}

# start_sleeping runs a build that hangs, until it does.
start_sleeping() {
  local i
  toy sleep
  scripts/build-native.sh openssl >"$OUTPUT" 2>&1 &
  builder=$!
  for ((i = 0; i < 600; i++)); do
    [ ! -s "$TOY_BUILDS.pid" ] || return 0
    sleep 0.1
  done
  return 1
}

interrupted_build() {
  local signal status start
  for signal in TERM HUP; do
    # A signal that is ignored from the start (nohup) cannot be trapped: the
    # build then goes on by design.
    [ -z "$(trap -p "SIG$signal" | grep "''" || true)" ] || continue
    start_sleeping
    start=$SECONDS
    kill -"$signal" "$builder"
    status=0
    wait "$builder" || status=$?
    [ $((SECONDS - start)) -lt 300 ]
    [ "$status" -gt 128 ]
    nothing_left
    not kill -0 "$(cat "$TOY_BUILDS.pid")"
  done
}

killed_build() {
  start_sleeping
  kill -KILL "$builder"
  wait "$builder" || true
  kill -KILL "$(cat "$TOY_BUILDS.pid")"
  [ -n "$(find "$POLYTLS_CACHE" -maxdepth 1 -name 'work.*')" ]
  [ -z "$(find "$POLYTLS_CACHE" -maxdepth 1 -name 'openssl-*')" ]
  toy ok
  script 0 openssl
  [ -z "$(find "$POLYTLS_CACHE" -maxdepth 1 -name 'work.*')" ]
  [ -e openssl/native_flags_generated.go ]
}

second_run() {
  local start took before runs
  toy ok
  script 0 openssl
  says 'compile'
  before=$(find "$POLYTLS_CACHE" openssl third_party -printf '%p %T@ %C@\n' | sort)
  # The quickest counts: the machine may do something else meanwhile.
  for ((runs = 0; runs < 20; runs++)); do
    start=$(date +%s%N)
    script 0 openssl
    took=$((($(date +%s%N) - start) / 1000000))
    says 'up to date'
    silent_on 'compile'
    [ "$took" -ge 1000 ] || break
  done
  [ "$took" -lt 1000 ]
  [ "$(find "$POLYTLS_CACHE" openssl third_party -printf '%p %T@ %C@\n' | sort)" = "$before" ]
  [ "$(wc -l <"$TOY_BUILDS")" -eq 1 ]
  script 0 --check openssl
}

what_is_built() {
  local key dir
  toy ok
  script 0 openssl
  head -n 1 openssl/native_flags_generated.go | grep -q -x '// Code generated by scripts/build-native.sh; DO NOT EDIT.'
  grep -q -x '//go:build cgo && !polytls_pkgconfig' openssl/native_flags_generated.go
  key=$(sed -n -E 's|.*third_party/build/openssl-([0-9a-f]{12})/include .*|\1|p' openssl/native_flags_generated.go)
  [ -n "$key" ]
  dir=third_party/build/openssl-$key
  [ -L "$dir" ]
  grep -q '#define POLYTLS_OPENSSL_VERSION_STRING "9.9.1"' "$dir/include/polytls_openssl_probe.h"
  grep -q '#define POLYTLS_OPENSSL_RUNTIME_VERSION "toy 9.9.1"' "$dir/include/polytls_openssl_probe.h"
  grep -q "#define POLYTLS_OPENSSL_KEY \"$key\"" "$dir/include/polytls_openssl_probe.h"
  # The toy knows the key share syntax and no post-quantum group.
  grep -q '#define HAVE_GROUP_KEYSHARE_SYNTAX 1' "$dir/include/polytls_openssl_probe.h"
  not grep -q HAVE_X25519MLKEM768 "$dir/include/polytls_openssl_probe.h"
  # Its symbols are hidden, and it links in the order of the generated flags.
  [ -z "$(readelf -Ws "$dir"/lib/libpolytls_openssl_*.a | awk '$5 == "GLOBAL" && $6 == "DEFAULT" && $7 ~ /^[0-9]+$/ && $8 !~ /native_key/')" ]
  printf '#include <openssl/ssl.h>\n#include "polytls_openssl_probe.h"\nint main(void) { return !SSL_CTX_new(TLS_method()) || !OpenSSL_version(0) || polytls_openssl_native_key()[0] != POLYTLS_OPENSSL_KEY[0]; }\n' >"$work/main.c"
  gcc -I"$dir/include" -o "$work/main" "$work/main.c" -L"$dir/lib" -Lopenssl -lpolytls_openssl_ssl -lpolytls_openssl_crypto
  "$work/main"
  # The go command takes real archives only: linker scripts have no magic.
  for archive in "$dir"/lib/*.a openssl/*.a; do
    [ "$(head -c 8 "$archive")" = '!<arch>' ]
  done
  # Where only the package folder is, as in a vendored copy, the archives are
  # found and empty.
  echo 'int main(void) { return 0; }' >"$work/main.c"
  gcc -o "$work/main" "$work/main.c" -L/nosuchfolder/lib -Lopenssl -lpolytls_openssl_ssl -lpolytls_openssl_crypto
}

new_sources_new_key() {
  local first
  toy ok
  script 0 openssl
  first=$(grep -o 'openssl-[0-9a-f]*/include' openssl/native_flags_generated.go)
  toy ok 9.9.2
  script 1 --check openssl
  script 0 openssl
  says 'compile'
  not grep -q -F "$first" openssl/native_flags_generated.go
  [ "$(find third_party/build -name 'openssl-*' | wc -l)" -eq 1 ]
  # An edited recipe is a new library, too.
  echo '# edited' >>scripts/native/openssl.sh
  script 0 openssl
  says 'compile'
}

two_at_once() {
  local first=0 second=0
  toy ok
  scripts/build-native.sh openssl >"$OUTPUT" 2>&1 &
  scripts/build-native.sh openssl >"$OUTPUT.2" 2>&1 || second=$?
  wait $! || first=$?
  [ "$first" -eq 0 ]
  [ "$second" -eq 0 ]
  [ "$(wc -l <"$TOY_BUILDS")" -eq 1 ]
}

from_a_folder() {
  toy ok
  cp -R "$work/toy/openssl-9.9.1" "$work/folder"
  : >third_party/native.lock
  script 0 --src "openssl=$work/folder" openssl
  says 'compile'
  script 0 --src "openssl=$work/folder" openssl
  silent_on 'compile'
  echo '/* edited */' >>"$work/folder/ssl.c"
  script 0 --src "openssl=$work/folder" openssl
  says 'compile'
  [ -z "$(find "$work/folder" -name '*.o' -o -name '*.a')" ]
}

prefix_for_others() {
  toy ok
  script 0 --prefix "$work/prefix" openssl
  says 'export PKG_CONFIG_PATH='
  says '-DPOLYTLS_NATIVE_KEY='
  # The tree is left alone: it may be a read-only module cache.
  [ ! -e openssl ]
  [ ! -e third_party/build ]
  echo 'int main(void) { return 0; }' >"$work/main.c"
  PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig pkg-config --cflags polytls-openssl | grep -q -e '-DPOLYTLS_HAVE_OPENSSL=1'
  # shellcheck disable=SC2046
  gcc -o "$work/main" "$work/main.c" $(PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig pkg-config --cflags --libs polytls-openssl)
}

clean() {
  toy ok
  script 0 openssl
  script 0 --clean
  [ ! -e openssl/native_flags_generated.go ]
  [ -z "$(find openssl -name '*.a')" ]
  [ ! -e third_party/build ]
  [ -n "$(find "$POLYTLS_CACHE" -maxdepth 1 -name 'openssl-*')" ]
  echo mine >"$POLYTLS_CACHE/notes"
  script 0 --clean --all
  [ -z "$(find "$POLYTLS_CACHE" -maxdepth 1 -name 'openssl-*' -o -name downloads)" ]
  # What the script did not make, it does not remove.
  [ -e "$POLYTLS_CACHE/notes" ]
}

version_gone() {
  toy ok
  rm "$POLYTLS_CACHE"/downloads/*
  fake_archive 'Package: openssl
Version: 9.9.7-1
Checksums-Sha256:
 00aa 10 openssl_9.9.7.orig.tar.gz'
  script 1 openssl
  says 'openssl_9.9.1.orig.tar.gz is not in the archive any more; it has now: 9.9.7-1'
  says '--update'
  nothing_left
}

checksum_changed_in_the_archive() {
  local want
  toy ok
  want=$(awk '{ print $8 }' third_party/native.lock)
  rm "$POLYTLS_CACHE"/downloads/*
  fake_archive 'Package: openssl
Version: 9.9.1-1
Checksums-Sha256:
 00aa 10 openssl_9.9.1.orig.tar.gz'
  script 1 openssl
  says "$want"
  says '00aa'
}

next_candidate() {
  toy ok
  {
    echo 'archive openssl 9.9.8 openssl sid openssl_9.9.8.orig.tar.gz 10 00bb .'
    cat third_party/native.lock
  } >"$work/lock"
  cp "$work/lock" third_party/native.lock
  fake_archive 'Package: openssl
Version: 9.9.8-1
Checksums-Sha256:
 00bb 10 openssl_9.9.8.orig.tar.gz'
  script 0 openssl
  says 'openssl_9.9.8.orig.tar.gz: the archive answers: 404  Not Found'
  says '9.9.1 is built'
  # It is remembered for a while that the first cannot be had ...
  script 0 openssl
  silent_on 'compile'
  silent_on 'fetch'
  says '9.9.1 is up to date'
  # ... then it is tried again, and what is built stays where that fails.
  touch -d '100 days ago' "$POLYTLS_CACHE"/downloads/.unavailable-*
  script 0 openssl
  says 'the archive answers: 404  Not Found'
  silent_on 'compile'
  says '9.9.1 is up to date'
  script 0 openssl
  silent_on 'fetch'
}

# A list that cannot be had is not taken for an archive without the package.
partial_lists() {
  toy ok
  rm "$POLYTLS_CACHE"/downloads/*
  fake_archive ''
  sed -i 's/^  \*--download-only.*/  *update*) echo "E: The list of sid is nowhere" >\&2; exit 100 ;;/' "$work/fake/apt-get"
  script 1 openssl
  says 'E: The list of sid is nowhere'
  silent_on 'not in the archive any more'
}

# All candidates were marked as not to be had: they are tried all the same.
nothing_but_marks() {
  toy ok
  mv "$POLYTLS_CACHE"/downloads/*.tar.gz "$work/kept"
  {
    sed 's/9\.9\.1/9.9.8/g' third_party/native.lock
    cat third_party/native.lock
  } >"$work/lock"
  cp "$work/lock" third_party/native.lock
  fake_archive ''
  script 1 openssl
  says 'not in the archive any more'
  mv "$work/kept" "$POLYTLS_CACHE/downloads/openssl_9.9.1.orig.tar.gz"
  script 0 openssl
  says '9.9.1 is built'
}

no_registry_host() {
  not grep -r -n -E '([a-z0-9-]+\.)*(debian|ubuntu)\.(org|com|net)|registry\.npmjs|proxy\.golang|pypi\.' scripts third_party --include='*' --exclude=build-native-test.sh
}

check "--help names every option" help_tells_all
check "wrong usage: status 2, says what is wrong" wrong_usage
check "--list and --check change nothing" list_and_check_change_nothing
check "a wrong checksum names both sums" wrong_checksum
check "missing tools are listed with the command that installs them" missing_tools
check "missing tools are installed by root and by sudo" installed_tools
check "a failed build shows the log's end and leaves nothing" failed_build
check "an interrupted build leaves nothing, no process either" interrupted_build
check "after kill -9 the next run cleans up and builds" killed_build
check "a second run does nothing, in under a second" second_run
check "generated file, probes, archives" what_is_built
check "new sources or recipe, new key" new_sources_new_key
check "two runs at once build once" two_at_once
check "--src: built from, never in, the folder" from_a_folder
check "--prefix leaves the tree alone, pkg-config finds it" prefix_for_others
check "--clean" clean
check "a version that left the archive" version_gone
check "a checksum that changed in the archive" checksum_changed_in_the_archive
check "the next source when one cannot be had" next_candidate
check "lists that cannot be had are named" partial_lists
check "sources that could not be had come back" nothing_but_marks
check "no registry's host name is written anywhere" no_registry_host

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
