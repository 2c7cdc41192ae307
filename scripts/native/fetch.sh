# shellcheck shell=bash
# Where the sources come from: the download cache, the distribution's source
# packages through the package manager's signed index, the upstream repository.
# Sourced by build-native.sh. No registry's address stands here: it is taken
# from the package manager's own configuration.

# lock_lines LIBRARY prints the library's lines of the lock file.
lock_lines() {
  awk -v library="$1" '($1 == "archive" || $1 == "git") && $2 == library' "$LOCK"
}

# lock_libraries prints every library that the lock file has.
lock_libraries() { awk '$1 == "archive" || $1 == "git" { print $2 }' "$LOCK" | awk '!seen[$0]++'; }

# lock_suites prints every suite that the lock file names.
lock_suites() { awk '$1 == "archive" { print $5 }' "$LOCK" | sort -u; }

# parse_source splits a line of the lock file into S_... variables.
parse_source() {
  # shellcheck disable=SC2086
  set -- $1
  S_KIND=$1 S_VERSION=$3 S_PACKAGE='' S_SUITE='' S_FILE='' S_SIZE='' S_SHA256=''
  S_URL='' S_REF='' S_PIN=''
  # For job.sh.
  export S_KIND S_VERSION S_PACKAGE S_SUITE S_FILE S_SIZE S_SHA256 S_URL S_REF S_PIN S_FOLDER S_ID S_TEXT
  if [ "$S_KIND" = archive ]; then
    [ $# -eq 9 ] || die "$LOCK: an archive line has 9 words: $*"
    S_PACKAGE=$4 S_SUITE=$5 S_FILE=$6 S_SIZE=$7 S_SHA256=$8 S_FOLDER=$9
    S_ID=sha256:$S_SHA256:$S_FOLDER
    S_TEXT="$S_FILE ($S_SUITE)"
  else
    [ $# -eq 7 ] || die "$LOCK: a git line has 7 words: $*"
    S_URL=$4 S_REF=$5 S_PIN=$6 S_FOLDER=$7
    S_ID=$S_PIN:$S_FOLDER
    S_TEXT="$S_URL ${S_REF##*/}"
  fi
}

# --- the package manager ---------------------------------------------------

APT_STATE=unknown
# What went wrong with the lists; empty if nothing.
APT_TROUBLE=

# apt_addresses prints where this machine gets its own distribution's packages
# from, as "ORIGIN ADDRESS".
apt_addresses() {
  local id codename
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '($1 == "Debian" && $2 == "Debian") || ($1 == "Ubuntu" && $2 == "Ubuntu") { print $1, $3 }' |
    awk '!seen[$0]++' >"$WORK/addresses"
  if [ ! -s "$WORK/addresses" ] && [ -r /etc/os-release ]; then
    # No lists yet: the addresses whose suites carry the release's own name.
    # shellcheck disable=SC1091
    id=$(. /etc/os-release && printf '%s' "${ID:-}")
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    case $id in
      debian) id=Debian ;;
      ubuntu) id=Ubuntu ;;
      *) return 1 ;;
    esac
    {
      cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n -E 's/^deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+([^[:space:]]+).*/\3 \4/p'
      for file in /etc/apt/sources.list.d/*.sources; do
        [ -r "$file" ] || continue
        awk 'BEGIN { RS = "" }
          {
            uris = suites = ""
            n = split($0, line, "\n")
            for (i = 1; i <= n; i++) {
              if (line[i] ~ /^URIs:/) uris = substr(line[i], 6)
              if (line[i] ~ /^Suites:/) suites = substr(line[i], 8)
            }
            u = split(uris, uri, " ")
            s = split(suites, suite, " ")
            for (i = 1; i <= u; i++) for (j = 1; j <= s; j++) print uri[i], suite[j]
          }' "$file"
      done
    } | awk -v id="$id" -v codename="$codename" '$2 == codename { print id, $1 }' |
      awk '!seen[$0]++' >"$WORK/addresses"
  fi
  [ -s "$WORK/addresses" ]
}

# apt_prepare writes a private configuration (own sources, lists and cache: the
# system's are not touched) and sees to it that its lists are of today. Lists
# that are older than their signature wants are taken: what a tarball must be
# stands in the lock file, the lists only say where it is.
apt_prepare() {
  local dir=$CACHE/apt origin address suite signed release
  case $APT_STATE in
    ready) return 0 ;;
    none) return 1 ;;
  esac
  APT_STATE=none
  have apt-get && have apt-cache || return 1
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
  apt_addresses || return 1
  # shellcheck disable=SC1091
  release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  while read -r origin address; do
    signed=
    case $origin in
      Debian) [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] && signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ' ;;
      Ubuntu) [ -r /usr/share/keyrings/ubuntu-archive-keyring.gpg ] && signed='[signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] ' ;;
    esac
    if [ "$origin" = Debian ]; then
      for suite in $(lock_suites); do
        printf 'deb-src %s%s %s main\n' "$signed" "$address" "$suite"
      done
    else
      # Ubuntu has other suite names; the files are matched by checksum.
      for suite in "$release" "$release-updates" devel; do
        printf 'deb-src %s%s %s main universe\n' "$signed" "$address" "$suite"
      done
    fi
  done <"$WORK/addresses" >"$dir/sources.list.new"
  cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "";
CONF
  if ! cmp -s "$dir/sources.list.new" "$dir/sources.list" || [ ! -f "$dir/updated" ] ||
    [ -n "$(find "$dir/updated" -mmin +720 2>/dev/null)" ]; then
    mv "$dir/sources.list.new" "$dir/sources.list"
    rm -f "$dir/updated"
    # A suite that cannot be reached fails the command; the others are there.
    if ! try sources "lists of source packages" apt_update; then
      APT_TROUBLE=$(grep '^E: ' "$LOG" | head -n 3)
      [ -z "$APT_TROUBLE" ] || printf '%s\n' "$APT_TROUBLE"
    fi
  fi
  rm -f "$dir/sources.list.new"
  APT_STATE=ready
}

apt_update() {
  APT_CONFIG=$CACHE/apt/apt.conf apt-get update -q
  touch "$CACHE/apt/updated"
}

# apt_records PACKAGE prints "VERSION SHA256 SIZE FILE" for each upstream
# tarball of each version that the lists have.
apt_records() {
  APT_CONFIG=$CACHE/apt/apt.conf apt-cache showsrc --only-source "$1" 2>/dev/null | awk '
    /^Version:/ { version = $2 }
    /^[^ ]/ { sums = ($1 == "Checksums-Sha256:") }
    /^ / && sums && $3 ~ /\.orig\.tar\.[a-z0-9]+$/ { print version, $1, $2, $3 }' | awk '!seen[$0]++'
}

apt_download() {
  cd "$1" || return
  APT_CONFIG=$CACHE/apt/apt.conf apt-get source -q --download-only --tar-only --only-source "$2"
}

# --- one source --------------------------------------------------------------

# REASON says why the last source could not be had. GONE is set where asking
# again soon would be of no use.
REASON='' GONE=

# source_marker is the file that remembers that a source could not be had while
# a later one could: for a month where it is gone, for a day otherwise. Until
# then, or --update, the later one is used without asking.
source_marker() { printf '%s/downloads/.unavailable-%s' "$CACHE" "$(printf '%s' "$S_ID" | sha256_text | cut -c1-16)"; }

marked_unavailable() {
  local marker
  marker=$(source_marker)
  [ -f "$marker" ] || return 1
  if [ -s "$marker" ]; then
    [ -z "$(find "$marker" -mtime +30)" ]
  else
    [ -z "$(find "$marker" -mtime +0)" ]
  fi
}

# skipped says that the parsed source need not be tried: it is marked, and not
# in the download cache by now.
skipped() {
  { [ "$S_KIND" != archive ] || [ ! -f "$CACHE/downloads/$S_FILE" ]; } && marked_unavailable
}

# check_sum FILE: a wrong checksum ends the script and names both sums.
check_sum() {
  local sum
  sum=$(sha256_of "$1")
  [ "$sum" = "$S_SHA256" ] && return
  mv -f "$1" "$1.bad"
  die "$S_FILE has a wrong checksum:
  expected sha256 $S_SHA256 (third_party/native.lock)
  found    sha256 $sum
The file was moved to $1.bad; the next run fetches it again."
}

# fetch_archive puts the tarball of the parsed source into the download cache.
fetch_archive() {
  local library=$1 file=$CACHE/downloads/$S_FILE records version
  mkdir -p "$CACHE/downloads"
  if [ -f "$file" ]; then
    check_sum "$file"
    note "$library" "$S_FILE is in the download cache"
    return 0
  fi
  apt_prepare || {
    REASON="$S_FILE: no source packages to be had from this machine's package manager"
    return 1
  }
  records=$(apt_records "$S_PACKAGE")
  version=$(printf '%s\n' "$records" | awk -v sum="$S_SHA256" '$2 == sum { print $1; exit }')
  if [ -z "$version" ]; then
    if printf '%s\n' "$records" | grep -q -F " $S_FILE"; then
      die "$S_FILE has another checksum in the archive's signed index:
  expected sha256 $S_SHA256 (third_party/native.lock)
  found    sha256 $(printf '%s\n' "$records" | awk -v file="$S_FILE" '$4 == file { print $2; exit }')
If the new one is right, scripts/build-native.sh --update pins it."
    fi
    if [ -n "$APT_TROUBLE" ]; then
      REASON="$S_FILE: not in the lists of source packages that could be had ($(printf '%s' "$APT_TROUBLE" | head -n 1))"
      return 1
    fi
    GONE=1
    REASON="$S_PACKAGE: $S_FILE is not in the archive any more; it has now: $(printf '%s\n' "$records" |
      awk '{ printf "%s%s", sep, $1; sep = ", " } END { if (NR == 0 || $0 == "") printf "nothing of that name" }'). scripts/build-native.sh --update re-pins the lock"
    return 1
  fi
  rm -rf "$WORK/download"
  mkdir -p "$WORK/download"
  try "$library" "fetch $S_FILE, $(megabytes "$S_SIZE")" apt_download "$WORK/download" "$S_PACKAGE=$version" || {
    grep -q '^E: Failed to fetch .* 404 ' "$LOG" && GONE=1
    REASON="$S_FILE: $(sed -n -E 's/^E: Failed to fetch [^ ]*  (.*)/the archive answers: \1/p' "$LOG" | sed 's/ \[IP:.*//' | tail -n 1)"
    return 1
  }
  [ -f "$WORK/download/$S_FILE" ] || {
    REASON="$S_FILE: not among what the package manager fetched"
    return 1
  }
  mv "$WORK/download/$S_FILE" "$WORK/$S_FILE"
  check_sum "$WORK/$S_FILE"
  mv "$WORK/$S_FILE" "$file"
}

git_fetch() {
  local dir=$1 what=$S_REF
  git init -q "$dir"
  cd "$dir" || return
  [ "${S_PIN%%:*}" = commit ] && what=${S_PIN#commit:}
  GIT_TERMINAL_PROMPT=0 git fetch -q --depth 1 "$S_URL" "$what"
  git checkout -q FETCH_HEAD
}

# s2n_content prints a checksum over the files of an s2n-tls tree that the build
# uses: what a content: pin in the lock file means.
s2n_content() {
  # shellcheck disable=SC2086
  (cd "$1" && find CMakeLists.txt LICENSE api crypto error stuffer tls utils cmake pq-crypto -type f -print0 |
    LC_ALL=C sort -z | xargs -0 $SHA256_TOOL) | sha256_text
}

# fetch_git puts the pinned commit of the parsed source into $WORK/src.
fetch_git() {
  local library=$1 dir=$2 found
  have git || {
    REASON="$S_URL: git is not installed"
    return 1
  }
  try "$library" "fetch $S_URL ${S_REF##*/}" git_fetch "$dir" || {
    REASON="$S_URL: cannot be reached"
    rm -rf "$dir"
    return 1
  }
  case $S_PIN in
    commit:*) found=commit:$(git -C "$dir" rev-parse HEAD) ;;
    content:*) found=content:$(s2n_content "$dir") ;;
    *) die "$LOCK: $library: a pin is commit:SHA1 or content:SHA256, not $S_PIN" ;;
  esac
  [ "$found" = "$S_PIN" ] || die "$S_URL $S_REF has a wrong checksum:
  expected $S_PIN (third_party/native.lock)
  found    $found"
}

unpack_archive() {
  local file=$1 dir=$2 strip
  mkdir -p "$dir"
  if [ "$S_FOLDER" = . ]; then
    tar -xf "$file" -C "$dir" --strip-components=1
  else
    strip=$(($(printf '%s' "$S_FOLDER" | tr -cd / | wc -c) + 2))
    tar -xf "$file" -C "$dir" --strip-components="$strip" --wildcards "*/$S_FOLDER/*"
  fi
}

# obtain LIBRARY: puts the parsed source into $WORK/src, or says why not.
obtain() {
  local library=$1
  # shellcheck disable=SC2034
  GONE=
  rm -rf "$WORK/src"
  if [ "$S_KIND" = archive ]; then
    fetch_archive "$library" || return 1
    step "$library" "unpack $S_FILE" unpack_archive "$CACHE/downloads/$S_FILE" "$WORK/src"
  else
    fetch_git "$library" "$WORK/src" || return 1
  fi
  rm -f "$(source_marker)"
}

# --- --update ------------------------------------------------------------------

# update_line prints the archive line of the lock file re-pinned to the newest
# version in its suite, and tells on standard error what changed.
update_line() {
  local library=$1 line=$2 uris file size sum version
  parse_source "$line"
  uris=$(APT_CONFIG=$CACHE/apt/apt.conf apt-get source --print-uris --download-only --tar-only --only-source \
    "$S_PACKAGE/$S_SUITE" 2>/dev/null | awk '/ SHA256:/ { print $2, $3, substr($4, 8); exit }')
  if [ -z "$uris" ]; then
    note "$library" "$S_PACKAGE is not in $S_SUITE any more: line kept" >&2
    printf '%s\n' "$line"
    return
  fi
  read -r file size sum <<<"$uris"
  if [ "$sum" = "$S_SHA256" ]; then
    note "$library" "$S_PACKAGE in $S_SUITE: unchanged, $file" >&2
    printf '%s\n' "$line"
    return
  fi
  # openssl_3.5.8.orig.tar.gz -> 3.5.8
  version=${file#*_}
  version=${version%.orig.tar.*}
  version=${version%%+*}
  if [ "$library" = openssl ]; then
    if [ "${version%.*}" != "${S_VERSION%.*}" ]; then
      note "$library" "$S_SUITE has $version now, another series than ${S_VERSION%.*}: line kept" >&2
      printf '%s\n' "$line"
      return
    fi
  else
    version=$S_PACKAGE-$version
  fi
  note "$library" "$S_PACKAGE in $S_SUITE: $S_FILE is now $file, $(megabytes "$size")" >&2
  printf 'archive %s %s %s %s %s %s %s %s\n' "$library" "$version" "$S_PACKAGE" "$S_SUITE" "$file" "$size" "$sum" "$S_FOLDER"
}

# update_lock rewrites the lock file with what the archive has now. Versions
# that a package does not tell are read from the unpacked source, and the commit
# of the upstream repository with them where the source names it.
update_lock() {
  local new=$WORK/native.lock line library old version commit
  rm -f "$CACHE"/downloads/.unavailable-*
  rm -f "$CACHE/apt/updated"
  apt_prepare || die "no source packages to be had from this machine's package manager: the lock was not changed"
  while IFS= read -r line; do
    case $line in
      archive\ *)
        library=${line#archive }
        update_line "${library%% *}" "$line"
        ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <"$LOCK" >"$new"
  if cmp -s "$new" "$LOCK"; then
    note lock "nothing changed"
    return
  fi
  # What a changed tarball says of itself.
  while IFS= read -r line; do
    grep -q -x -F -e "$line" "$LOCK" && continue
    parse_source "$line"
    library=$(printf '%s' "$line" | awk '{ print $2 }')
    obtain "$library" || {
      note "$library" "pinned, but cannot be fetched here ($REASON)"
      continue
    }
    old=$S_VERSION
    version=$(source_version "$library" "$WORK/src" "$old")
    commit=
    case $library in
      openssl) commit=$(gzip -dc "$CACHE/downloads/$S_FILE" 2>/dev/null | git get-tar-commit-id 2>/dev/null || true) ;;
      boringssl)
        commit=$(tar -xf "$CACHE/downloads/$S_FILE" -O --wildcards '*/DEPS' 2>/dev/null |
          sed -n -E 's/^ *"boringssl_rev": "([0-9a-f]{40})".*/\1/p' | head -n 1)
        ;;
    esac
    awk -v library="$library" -v file="$S_FILE" -v version="$version" -v commit="$commit" '
      $1 == "archive" && $2 == library && $6 == file { $3 = version }
      $1 == "git" && $2 == library && commit != "" {
        sub(/[0-9]+\.[0-9]+\.[0-9]+$/, version, $5); $3 = version; $6 = "commit:" commit
      }
      { print }' "$new" >"$new.2"
    mv "$new.2" "$new"
  done < <(grep '^archive ' "$new")
  cp "$new" "$LOCK"
  note lock "third_party/native.lock rewritten: look at git diff, then build"
}
