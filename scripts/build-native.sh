#!/usr/bin/env bash
# Builds the native TLS libraries and tells the Go packages where they are.
# build-native.sh --help says how it is used.
#
# The real files are in the user's cache folder, one prefix per library and key;
# third_party/build has links to them, and each provider package gets one
# generated Go file with its cgo flags. The key covers all that the result
# depends on, because Go's build cache does not notice that an archive or a
# header changed at the same path.
set -euo pipefail
export LC_ALL=C
umask 022

SELF=${BASH_SOURCE[0]}
case $SELF in */*) ROOT=${SELF%/*}/.. ;; *) ROOT=.. ;; esac
ROOT=$(cd "$ROOT" && pwd -P)
LOCK=$ROOT/third_party/native.lock
CACHE=${POLYTLS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/polytls}
export ROOT LOCK CACHE

# shellcheck source=scripts/native/steps.sh
. "$ROOT/scripts/native/steps.sh"
# shellcheck source=scripts/native/fetch.sh
. "$ROOT/scripts/native/fetch.sh"
# shellcheck source=scripts/native/build.sh
. "$ROOT/scripts/native/build.sh"
# shellcheck source=scripts/native/openssl.sh
. "$ROOT/scripts/native/openssl.sh"
# shellcheck source=scripts/native/boringssl.sh
. "$ROOT/scripts/native/boringssl.sh"
# shellcheck source=scripts/native/s2n.sh
. "$ROOT/scripts/native/s2n.sh"
# shellcheck source=scripts/native/awslc.sh
. "$ROOT/scripts/native/awslc.sh"

ALL_LIBRARIES='openssl boringssl s2n'

usage() {
  cat <<'TEXT'
usage: scripts/build-native.sh [OPTION]... [LIBRARY]...

Builds the native TLS libraries that Polytls's providers link: openssl,
boringssl, s2n. Without a LIBRARY, all of them. What is built already and
unchanged is not built again.

options
  --openssl static|system
                     the OpenSSL to use: one built here (the default), or the
                     system's shared library, which keeps the distribution's
                     configuration and policy. OPENSSL=system does the same.
  --src LIBRARY=DIR  build from this folder instead of the locked sources
  --prefix DIR       install headers, archives and .pc files below DIR, for
                     modules that link Polytls from elsewhere with the build tag
                     polytls_pkgconfig; this source tree is left as it is
  --jobs N           compile with N processes (default: one per processor)
  --check            change nothing; say what is missing, status 1 if anything is
  --list             change nothing; list libraries, versions, sources and state
  --update           re-pin third_party/native.lock to what the distribution's
                     archive has now; builds nothing
  --clean            remove the generated files and links from this tree;
                     with --all also the cache: downloads, libraries, logs
  --help             this text

environment
  POLYTLS_CACHE      cache folder (default: ${XDG_CACHE_HOME:-~/.cache}/polytls)
  OPENSSL            static or system, as --openssl
  S2N_LIBCRYPTO      openssl (default) or awslc: the libcrypto built into s2n
  CC                 C compiler for OpenSSL and s2n (default: gcc, or else cc)
  CLANG, CLANGXX     compilers for BoringSSL (default: clang, clang++)
  POLYTLS_NO_INSTALL set to 1, missing tools are listed and never installed

Sources are looked for in this order: --src, the download cache, the
distribution's source packages, the upstream repository at the pinned commit.

status: 0 done, 1 something failed or is missing, 2 wrong usage
TEXT
}

bad_usage() { die "$1
Try scripts/build-native.sh --help" 2; }

# --- command line -------------------------------------------------------------

MODE=build LIBRARIES='' PREFIX='' CLEAN_ALL='' SOURCES=''
OPENSSL=${OPENSSL:-static}
S2N_LIBCRYPTO=${S2N_LIBCRYPTO:-openssl}
JOBS=

argument() { [ $# -ge 2 ] || bad_usage "$1 wants a value"; }

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --check | --list | --update | --clean) MODE=${1#--} ;;
    --all) CLEAN_ALL=1 ;;
    --openssl) argument "$@"; OPENSSL=$2; shift ;;
    --openssl=*) OPENSSL=${1#*=} ;;
    --prefix) argument "$@"; PREFIX=$2; shift ;;
    --prefix=*) PREFIX=${1#*=} ;;
    --jobs | -j) argument "$@"; JOBS=$2; shift ;;
    --jobs=*) JOBS=${1#*=} ;;
    --src) argument "$@"; SOURCES="$SOURCES$2"$'\n'; shift ;;
    --src=*) SOURCES="$SOURCES${1#*=}"$'\n' ;;
    -*) bad_usage "unknown option: $1" ;;
    openssl | boringssl | s2n) LIBRARIES="$LIBRARIES $1" ;;
    *) bad_usage "unknown library: $1 (there are: $ALL_LIBRARIES)" ;;
  esac
  shift
done
case $OPENSSL in static | system) ;; *) bad_usage "OPENSSL is static or system, not \"$OPENSSL\"" ;; esac
case $S2N_LIBCRYPTO in openssl | awslc) ;; *) bad_usage "S2N_LIBCRYPTO is openssl or awslc, not \"$S2N_LIBCRYPTO\"" ;; esac
case $JOBS in *[!0-9]* | 0) bad_usage "--jobs wants a number, not \"$JOBS\"" ;; esac
[ -z "$CLEAN_ALL" ] || [ "$MODE" = clean ] || bad_usage "--all goes with --clean"
# Each once, OpenSSL before s2n, which may use it.
LIBRARIES=$(for library in $ALL_LIBRARIES; do
  case " ${LIBRARIES:-$ALL_LIBRARIES} " in *" $library "*) printf '%s ' "$library" ;; esac
done)

# source_folder LIBRARY prints the folder that --src names for it.
source_folder() {
  printf '%s' "$SOURCES" | sed -n "s/^$1=//p" | tail -n 1
}
while IFS= read -r line; do
  [ -n "$line" ] || continue
  case $line in
    openssl=* | boringssl=* | s2n=* | awslc=*) ;;
    *) bad_usage "--src wants LIBRARY=DIR with one of $ALL_LIBRARIES awslc, not \"$line\"" ;;
  esac
  [ -d "${line#*=}" ] || die "--src $line: no such folder"
done <<<"$SOURCES"

# Flags meant for other builds must not reach these, nor make's job server.
unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS MAKEFLAGS MFLAGS MAKEOVERRIDES

if [ -z "$JOBS" ]; then
  if have nproc; then JOBS=$(nproc); else JOBS=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); fi
fi
if [ -z "${CC:-}" ]; then
  CC=gcc
  if ! have gcc && have cc; then CC=cc; fi
fi
CLANG=${CLANG:-clang} CLANGXX=${CLANGXX:-clang++}
export CC CLANG CLANGXX JOBS

# --- keys ---------------------------------------------------------------------

# compiler_text LIBRARY prints what compiles it; empty where that is missing.
compiler_text() {
  local compiler=$CC text
  [ "$1" = boringssl ] && compiler=$CLANG
  # The first word may be a compiler cache.
  # shellcheck disable=SC2086
  text=$($compiler --version 2>/dev/null) || return 0
  printf '%s' "${text%%$'\n'*}"
}

MACHINE=$(uname -s -m)

# recipe_text LIBRARY prints the checksums of the files that make it.
recipe_text() {
  local files=()
  case $1 in
    openssl) files=(scripts/native/openssl.sh) ;;
    boringssl) files=(scripts/native/boringssl.sh third_party/boringssl-2023/CMakeLists.txt) ;;
    s2n) files=(scripts/native/s2n.sh third_party/s2n-policies.c third_party/s2n-guards.c) ;;
    awslc) files=(scripts/native/awslc.sh) ;;
  esac
  (cd "$ROOT" && $SHA256_TOOL scripts/native/build.sh third_party/hide-symbols.pl "${files[@]}")
}

# folder_text DIR stands for a folder's content: names, sizes and times.
folder_text() {
  (
    cd "$1" || exit
    if find . -maxdepth 0 -printf '' 2>/dev/null; then
      find . -type f -not -path './.git/*' -printf '%P %s %T@\n'
    else
      find . -type f -not -path './.git/*' -exec stat -f '%N %z %m' {} +
    fi
  ) | sort
}

# library_key LIBRARY SOURCE_ID [LIBCRYPTO_KEY] prints the key.
library_key() {
  local key
  key=$(printf '%s\n' "$1" "$2" "${3:-}" "$MACHINE" "$(compiler_text "$1")" "$(recipe_text "$1")" | sha256_text)
  printf '%s' "${key:0:12}"
}

system_openssl_version() {
  local package=''
  have pkg-config && pkg-config --exists openssl || return 1
  have dpkg-query && package=$(dpkg-query -W -f='${Version}' libssl-dev 2>/dev/null || true)
  printf '%s %s' "$(pkg-config --modversion openssl)" "$package"
}

# choose LIBRARY sets the library's sources and key in K_... variables: the first
# source that is built already and has none before it that should be tried;
# otherwise K_BUILT stays empty.
choose() {
  local library=$1 folder line crypto=''
  K_BUILT='' K_KEY='' K_VERSION='' K_TEXT='' K_LINE='' K_FOLDER='' K_CRYPTO=''
  if [ "$library" = s2n ]; then
    choose "$S2N_LIBCRYPTO"
    crypto=$K_KEY
    K_CRYPTO=$S2N_LIBCRYPTO-$K_KEY
    # Without its libcrypto nothing can be said to be built.
    [ -n "$K_BUILT" ] || crypto=missing
    K_BUILT=''
  fi
  if [ "$library" = openssl-system ]; then
    line=$(system_openssl_version) || return 0
    K_KEY=system-$(library_key openssl "system $line $(pkg-config --cflags --libs openssl)")
    K_VERSION=${line%% *}
    K_TEXT="the system's, ${line#* }"
    [ -d "$CACHE/openssl-$K_KEY" ] && K_BUILT=$CACHE/openssl-$K_KEY
    return 0
  fi
  folder=$(source_folder "$library")
  if [ -n "$folder" ]; then
    K_FOLDER=$(cd "$folder" && pwd -P)
    K_VERSION=$(source_version "$library" "$K_FOLDER" unknown)
    K_TEXT=$K_FOLDER
    K_KEY=$(library_key "$library" "folder $K_FOLDER $(folder_text "$K_FOLDER")" "$crypto")
    [ -d "$CACHE/$library-$K_KEY" ] && K_BUILT=$CACHE/$library-$K_KEY
    return 0
  fi
  while IFS= read -r line; do
    parse_source "$line"
    K_KEY=$(library_key "$library" "$S_ID" "$crypto")
    K_VERSION=$S_VERSION K_TEXT=$S_TEXT K_LINE=$line
    if [ -d "$CACHE/$library-$K_KEY" ]; then
      K_BUILT=$CACHE/$library-$K_KEY
      return 0
    fi
    skipped || break
  done < <(lock_lines "$library")
  [ -n "$K_LINE" ] || die "third_party/native.lock names no source for $library"
}

# --- tools --------------------------------------------------------------------

MISSING_TOOLS='' MISSING_PACKAGES=''
missing() { # TOOL DEBIAN-PACKAGES
  case " $MISSING_TOOLS " in *" $1 "*) return 0 ;; esac
  MISSING_TOOLS="$MISSING_TOOLS $1"
  local package
  for package in $2; do
    case " $MISSING_PACKAGES " in *" $package "*) ;; *) MISSING_PACKAGES="$MISSING_PACKAGES $package" ;; esac
  done
}
need() { have "$1" || missing "$1" "$2"; }

# find_missing LIBRARY... fills MISSING_TOOLS with what building them needs.
find_missing() {
  local library
  MISSING_TOOLS='' MISSING_PACKAGES=''
  for library in "$@"; do
    need "$CC" 'gcc libc6-dev'
    if have "$CC" && ! printf '#include <stdlib.h>\n' | $CC -E - >/dev/null 2>&1; then missing 'C headers' 'libc6-dev'; fi
    case $library in
      openssl-system)
        need pkg-config pkg-config
        if have pkg-config && ! pkg-config --exists openssl; then missing 'OpenSSL headers' libssl-dev; fi
        continue
        ;;
      openssl)
        need make make
        need perl perl
        if have perl && ! perl -MFindBin -MIPC::Cmd -MPod::Usage -MTime::Piece -e 1 2>/dev/null; then missing "Perl's standard modules" perl; fi
        ;;
      boringssl)
        need "$CLANG" clang
        need "$CLANGXX" clang
        need g++ g++
        need cmake cmake
        need ninja ninja-build
        ;;
      s2n | awslc)
        need cmake cmake
        have ninja || need make make
        ;;
    esac
    need ar binutils
    need nm binutils
    [ "$MACHINE" = "${MACHINE#Darwin}" ] || continue
    need objcopy binutils
    need perl perl
    need xz xz-utils
    need gzip gzip
  done
}

# get_tools LIBRARY...: on Debian and Ubuntu, as root or with a sudo that asks
# for no password, missing tools are installed; elsewhere they are listed.
get_tools() {
  local sudo='' can=''
  find_missing "$@"
  [ -n "$MISSING_TOOLS" ] || return 0
  if have apt-get && [ "${POLYTLS_NO_INSTALL:-}" != 1 ]; then
    if [ "$(id -u)" -eq 0 ]; then
      can=1
    elif have sudo && sudo -n true 2>/dev/null; then
      can=1 sudo='sudo -n'
    fi
  fi
  if [ -n "$can" ]; then
    note tools "missing:$MISSING_TOOLS"
    LOG=$CACHE/logs/tools.log
    : >"$LOG"
    step tools "apt-get install$MISSING_PACKAGES" install_packages "$sudo" "$MISSING_PACKAGES"
    hash -r
    find_missing "$@"
    [ -n "$MISSING_TOOLS" ] || return 0
  fi
  {
    printf 'build-native: these tools are missing:%s\n' "$MISSING_TOOLS"
    if have apt-get || ! { have dnf || have brew; }; then
      printf 'On Debian or Ubuntu:  apt-get install%s\n' "$MISSING_PACKAGES"
    elif have dnf; then
      printf 'With dnf:  dnf install gcc gcc-c++ clang cmake ninja-build make perl binutils xz git openssl-devel pkgconf-pkg-config\n'
    else
      printf 'With Homebrew:  brew install cmake ninja pkg-config xz openssl@3; xcode-select --install\n'
    fi
  } >&2
  exit 1
}

# --- one library at a time ----------------------------------------------------

WORK='' BUILT_NOW=

cleanup() {
  local status=$?
  trap - EXIT INT TERM HUP
  if [ -n "$CHILD" ]; then
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
  fi
  [ -z "$WORK" ] || rm -rf "$WORK"
  exit "$status"
}

# begin takes the cache's lock and a work folder in it. Folders of runs that
# were killed are removed here: whoever holds the lock is alone.
begin() {
  local waited=0
  mkdir -p "$CACHE/logs" || die "$CACHE: cannot be written to"
  exec 9>"$CACHE/lock"
  if have flock; then
    if ! flock -n 9; then
      note lock "another run is at work in $CACHE: waiting for it"
      flock 9
    fi
  else
    # Without flock(1): a folder, which mkdir makes once.
    while ! mkdir "$CACHE/lock.d" 2>/dev/null; do
      kill -0 "$(cat "$CACHE/lock.d/pid" 2>/dev/null || echo 0)" 2>/dev/null || rm -rf "$CACHE/lock.d"
      [ "$waited" -eq 1 ] || note lock "another run is at work in $CACHE: waiting for it"
      waited=1
      sleep 1
    done
    echo $$ >"$CACHE/lock.d/pid"
  fi
  rm -rf "$CACHE"/work.*
  WORK=$(mktemp -d "$CACHE/work.XXXXXX")
  export WORK
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
}

# build_library LIBRARY makes the chosen library's prefix in the cache.
build_library() {
  local library=$1 reasons='' line start pass was marker gone crypto failed=''
  start=$(now_ms)
  LOG=$CACHE/logs/$library.log
  : >"$LOG"
  export LOG
  SRC=$WORK/src BUILD=$WORK/build OUT=$WORK/out CRYPTO='' CRYPTO_NAME=''
  rm -rf "$SRC" "$BUILD" "$OUT"
  if [ "$library" = s2n ]; then
    choose "$S2N_LIBCRYPTO"
    CRYPTO=$K_BUILT CRYPTO_NAME=$S2N_LIBCRYPTO
    [ -n "$CRYPTO" ] || die "s2n: its libcrypto $S2N_LIBCRYPTO is not built"
  fi
  choose "$library"
  if [ "$library" = openssl-system ]; then
    library=openssl
    VERSION=$K_VERSION KEY=$K_KEY SOURCE_TEXT=$K_TEXT
    mkdir -p "$BUILD"
    export SRC BUILD OUT VERSION KEY SOURCE_TEXT
    step openssl "probe the system's library" openssl_system_probes
    finish_library "$library"
    return
  fi
  if [ -n "$K_FOLDER" ]; then
    SRC=$K_FOLDER
  else
    K_LINE='' crypto=${K_CRYPTO#"$S2N_LIBCRYPTO"-}
    # First without those that are marked as not to be had, then with them.
    for pass in 1 2; do
      while IFS= read -r line; do
        parse_source "$line"
        K_VERSION=$S_VERSION K_TEXT=$S_TEXT
        K_KEY=$(library_key "$library" "$S_ID" "$crypto")
        if [ -d "$CACHE/$library-$K_KEY" ]; then
          K_LINE=$line
          break
        fi
        if skipped; then was=1; else was=2; fi
        [ "$pass" -ne "$was" ] || continue
        if obtain "$library"; then
          K_LINE=$line
          break
        fi
        note "$library" "$REASON"
        reasons="$reasons"$'\n'"  $REASON"
        failed="$failed$(source_marker) $GONE"$'\n'
      done < <(lock_lines "$library")
      [ -z "$K_LINE" ] || break
    done
    [ -n "$K_LINE" ] || die "$library: no source can be had:$reasons
A folder with the sources can be named: --src $library=DIR"
    while read -r marker gone; do
      [ -z "$marker" ] || printf '%s' "$gone" >"$marker"
    done <<<"$failed"
    if [ -d "$CACHE/$library-$K_KEY" ]; then return; fi
  fi
  VERSION=$(source_version "$library" "$SRC" "$K_VERSION") KEY=$K_KEY SOURCE_TEXT=$K_TEXT
  export SRC BUILD OUT VERSION KEY SOURCE_TEXT CRYPTO CRYPTO_NAME
  mkdir -p "$BUILD"
  step "$library" "configure $VERSION" "${library}_configure"
  step "$library" "compile, $JOBS jobs" "${library}_compile"
  step "$library" "install" "${library}_install"
  step "$library" "probe what it can do" "${library}_probes"
  [ "$library" != s2n ] || step "$library" "read the table of security policies" s2n_policies
  finish_library "$library"
  note "$library" "$VERSION is built, $(($(now_ms) - start)) ms in all"
}

# finish_library moves the finished prefix into place, in one step.
finish_library() {
  {
    printf 'library %s\nversion %s\nsource %s\nkey %s\nmachine %s\ncompiler %s\n' \
      "$1" "$VERSION" "$SOURCE_TEXT" "$KEY" "$MACHINE" "$(compiler_text "$1")"
    [ "$1" != s2n ] || printf 'libcrypto %s\n' "$K_CRYPTO"
  } >"$OUT/BUILD"
  rm -rf "$CACHE/$1-$KEY"
  mv "$OUT" "$CACHE/$1-$KEY"
  BUILT_NOW="$BUILT_NOW $1 "
  rm -rf "$BUILD"
  # The sources unpacked here are not needed any more.
  rm -rf "$WORK/src"
}

# --- what the Go packages see ---------------------------------------------------

# archives LIBRARY prints the names of a library's archives in the linker's
# order: who needs stands before who is needed.
archives() {
  case $1 in
    s2n) printf 'polytls_s2n polytls_s2n_crypto' ;;
    *) printf 'polytls_%s_ssl polytls_%s_crypto' "$1" "$1" ;;
  esac
}

# go_flags LIBRARY INCLUDE LIB [PACKAGE-FOLDER] sets G_CFLAGS and G_LDFLAGS.
go_flags() {
  local library=$1 include=$2 lib=$3 name
  G_CFLAGS="-I$include -DPOLYTLS_HAVE_$(upper "$library")=1"
  G_LDFLAGS="-L$lib${4:+ -L$4}"
  for name in $(archives "$library"); do G_LDFLAGS="$G_LDFLAGS -l$name"; done
  case $library in
    openssl) G_LDFLAGS="$G_LDFLAGS -lpthread" ;;
    boringssl)
      G_CFLAGS="$G_CFLAGS -DBORINGSSL_PREFIX=$BSSL_PREFIX"
      G_LDFLAGS="$G_LDFLAGS $(cxx_library) -lpthread"
      ;;
    s2n) G_LDFLAGS="$G_LDFLAGS -lpthread -lm" ;;
  esac
}

# put FILE replaces a file by standard input if that differs.
put() {
  local text
  text=$(cat)
  printf '%s\n' "$text" | cmp -s - "$1" && return
  printf '%s\n' "$text" >"$1.new"
  mv "$1.new" "$1"
}

# connect_tree LIBRARY writes the package's generated files and the link.
connect_tree() {
  local library=$1 name include lib archive
  name=$library-$K_KEY
  mkdir -p "$ROOT/third_party/build" "$ROOT/$library"
  include="\${SRCDIR}/../third_party/build/$name/include"
  lib="\${SRCDIR}/../third_party/build/$name/lib"
  # shellcheck disable=SC2016
  go_flags "$library" "$include" "$lib" '${SRCDIR}'
  if [ "$library-$OPENSSL" = openssl-system ]; then
    G_CFLAGS="-I$include -DPOLYTLS_HAVE_OPENSSL=1 -DPOLYTLS_OPENSSL_SYSTEM=1 $(pkg-config --cflags openssl)"
    G_LDFLAGS=$(pkg-config --libs openssl)
  fi
  # The link first, then the file that needs it.
  if [ "$(readlink "$ROOT/third_party/build/$name" 2>/dev/null)" != "$K_BUILT" ]; then
    rm -rf "$ROOT/third_party/build/$name"
    ln -s "$K_BUILT" "$ROOT/third_party/build/$name"
  fi
  # A copy of the package made by `go mod vendor` has the generated file without
  # third_party/build. Its linker finds these empty archives instead, and its C,
  # without the headers, compiles to "not built in". Real archives: from Go 1.27
  # on the go command refuses linker scripts.
  for archive in $(archives "$library"); do
    printf '!<arch>' | put "$ROOT/$library/lib$archive.a"
  done
  # What earlier versions of this script left.
  rm -f "$ROOT/$library/libpolytls_${library}_native.a"
  put "$ROOT/$library/native_flags_generated.go" <<GO
// Code generated by scripts/build-native.sh; DO NOT EDIT.

//go:build cgo && !polytls_pkgconfig

package $library

// #cgo CFLAGS: ${G_CFLAGS% }
// #cgo LDFLAGS: ${G_LDFLAGS% }
import "C"
GO
  local link
  for link in "$ROOT/third_party/build/$library"-*; do
    [ -L "$link" ] && [ "${link##*/}" != "$name" ] && rm -f "$link"
  done
  return 0
}

# install_prefix LIBRARY copies the library below $PREFIX and writes its .pc
# file, which names a folder with the key in it.
install_prefix() {
  local library=$1 dir pc=$PREFIX/lib/pkgconfig/polytls-$1.pc requires=''
  dir=$PREFIX/lib/polytls/$library-$K_KEY
  mkdir -p "$PREFIX/lib/pkgconfig" "$PREFIX/lib/polytls"
  if [ ! -d "$dir" ]; then
    rm -rf "$dir.new"
    cp -R "$K_BUILT" "$dir.new"
    mv "$dir.new" "$dir"
  fi
  # shellcheck disable=SC2016
  go_flags "$library" '${dir}/include' '${dir}/lib'
  if [ "$library-$OPENSSL" = openssl-system ]; then
    # shellcheck disable=SC2016
    G_CFLAGS='-I${dir}/include -DPOLYTLS_HAVE_OPENSSL=1 -DPOLYTLS_OPENSSL_SYSTEM=1'
    G_LDFLAGS=
    requires=$'\n'"Requires: openssl"
  fi
  put "$pc" <<PC
prefix=$PREFIX
dir=\${prefix}/lib/polytls/$library-$K_KEY

Name: polytls-$library
Description: $library as Polytls's provider links it
Version: $(sed -n 's/^version //p' "$K_BUILT/BUILD")$requires
Cflags: $G_CFLAGS
Libs: $G_LDFLAGS
PC
}

# --- modes --------------------------------------------------------------------

# built_name LIBRARY prints what is built under that name: with the system's
# OpenSSL asked for, "openssl" is another thing.
built_name() {
  if [ "$1-$OPENSSL" = openssl-system ]; then printf 'openssl-system'; else printf '%s' "$1"; fi
}

mode_list() {
  local library state
  printf '%-10s %-14s %-20s %-10s %s\n' LIBRARY VERSION KEY STATE SOURCE
  for library in $LIBRARIES; do
    choose "$(built_name "$library")"
    state='not built'
    if [ -n "$K_BUILT" ]; then
      state=built
      K_VERSION=$(sed -n 's/^version //p' "$K_BUILT/BUILD")
    elif [ -z "$K_FOLDER" ] && [ "$library-$OPENSSL" != openssl-system ]; then
      # Nothing is built: the first line is what would be tried first.
      parse_source "$(lock_lines "$library" | head -n 1)"
      K_VERSION=$S_VERSION K_TEXT=$S_TEXT K_KEY=-
    fi
    printf '%-10s %-14s %-20s %-10s %s\n' "$library" "${K_VERSION:--}" "${K_KEY:--}" "$state" "${K_TEXT:-not on this system}"
  done
  printf '\ncache: %s\n' "$CACHE"
}

mode_check() {
  local library status=0 names=''
  for library in $LIBRARIES; do
    choose "$(built_name "$library")"
    if [ -z "$K_BUILT" ]; then
      note "$library" "not built"
      names="$names $(built_name "$library")"
      status=1
    elif [ ! -f "$ROOT/$library/native_flags_generated.go" ] || ! grep -q -F "/$library-$K_KEY/" "$ROOT/$library/native_flags_generated.go"; then
      note "$library" "built, but this tree is not connected to it: run scripts/build-native.sh $library"
      status=1
    else
      note "$library" "$(sed -n 's/^version //p' "$K_BUILT/BUILD") is built"
    fi
  done
  # shellcheck disable=SC2086
  find_missing $names
  if [ -n "$MISSING_TOOLS" ]; then
    note tools "missing:$MISSING_TOOLS"
    note tools "Debian packages:$MISSING_PACKAGES"
    status=1
  fi
  return "$status"
}

mode_clean() {
  local library
  for library in $ALL_LIBRARIES; do
    rm -f "$ROOT/$library/native_flags_generated.go" "$ROOT/$library"/libpolytls_*.a
  done
  rm -rf "$ROOT/third_party/build"
  note clean "removed the generated files and links"
  if [ -n "$CLEAN_ALL" ] && [ -d "$CACHE" ]; then
    # Only what this script puts there: the folder was perhaps named by mistake.
    begin
    for library in $ALL_LIBRARIES awslc; do rm -rf "$CACHE/$library"-*; done
    rm -rf "$CACHE/downloads" "$CACHE/apt" "$CACHE/logs"
    note clean "removed the cache in $CACHE"
  fi
}

# connect LIBRARY gives the built library to this tree or to the prefix.
connect() {
  choose "$(built_name "$1")"
  [ -n "$K_BUILT" ] || die "$1: built, yet not found under its key (did a source change meanwhile?)"
  if [ -n "$PREFIX" ]; then install_prefix "$1"; else connect_tree "$1"; fi
}

mode_build() {
  local library name names='' todo='' keys=''
  for library in $LIBRARIES; do
    name=$(built_name "$library")
    choose "$name"
    [ -z "$K_BUILT" ] || continue
    if [ "$library" = s2n ]; then
      choose "$S2N_LIBCRYPTO"
      case " $todo " in *" $S2N_LIBCRYPTO "*) ;; *) [ -n "$K_BUILT" ] || todo="$todo $S2N_LIBCRYPTO" ;; esac
    fi
    todo="$todo $name"
  done
  if [ -n "$todo" ]; then
    begin
    # shellcheck disable=SC2086
    get_tools $todo
    for name in $todo; do
      # Another run may have built it while this one waited for the lock.
      choose "$name"
      [ -n "$K_BUILT" ] || build_library "$name"
      # At once, so that a later failure does not take this one away.
      library=${name%-system}
      case " $LIBRARIES " in *" $library "*) [ "$(built_name "$library")" != "$name" ] || connect "$library" ;; esac
    done
  fi
  for library in $LIBRARIES; do
    connect "$library"
    keys=$keys-$K_KEY
    names="$names polytls-$library"
    case $BUILT_NOW in *" $library "*) ;; *) note "$library" "$(sed -n 's/^version //p' "$K_BUILT/BUILD") is up to date ($K_KEY)" ;; esac
  done
  if [ -n "$PREFIX" ]; then
    printf '\nInstalled below %s:%s. To build a module that links them:\n\n' "$PREFIX" "$names"
    printf 'export PKG_CONFIG_PATH=%q CGO_CFLAGS="-O2 -g -DPOLYTLS_NATIVE_KEY=%s"\n' \
      "$PREFIX/lib/pkgconfig" "$(printf '%s' "$keys" | sha256_text | cut -c1-12)"
    printf 'go build -tags polytls_pkgconfig ./...\n'
  fi
}

if [ -n "$PREFIX" ]; then
  case $PREFIX in *[[:space:]]*) bad_usage "--prefix: no spaces, pkg-config's users cannot have them" ;; esac
  [ "$MODE" = build ] || bad_usage "--prefix goes with a build"
  mkdir -p "$PREFIX"
  PREFIX=$(cd "$PREFIX" && pwd -P)
fi

case $MODE in
  list) mode_list ;;
  check) mode_check ;;
  clean) mode_clean ;;
  update)
    begin
    LOG=$CACHE/logs/update.log
    : >"$LOG"
    export LOG
    update_lock
    ;;
  build) mode_build ;;
esac
