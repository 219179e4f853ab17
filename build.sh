#!/usr/bin/env bash
# The one door to moonloom: dependencies, build, run, test, bench. `./build.sh help` lists the verbs.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")"
here=$PWD

# The one list of Debian packages, by what needs them. Why each is there: README.md, "Libraries".
run_packages=(build-essential cmake ninja-build pkg-config
  libluajit-5.1-dev libopenblas-dev libzstd-dev libpcre2-dev libreadline-dev lua-cjson lua-luv)
test_packages=(lua-busted)
lint_packages=(lua-check clang clang-format)
# Lint goes on without these.
wish_packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)

usage() {
  cat <<'TEXT'
usage: ./build.sh [verb] [arguments]

  (none)            install what is missing, then build into build/
  run [args]        build, then start moonloom with these arguments
  test [pattern]    build, then run the tests whose file name matches the pattern
  bench [args]      build, then run the benchmark recipe
  debug             build without optimisation into build/debug
  asan [pattern]    build with AddressSanitizer and UBSan into build/asan, and run the tests there
  tsan [pattern]    build with ThreadSanitizer into build/tsan, and run the tests there
  lint              clang-format, luacheck and gcc/clang warnings as errors, aarch64 included where its compiler is there
  install [--prefix P]    install the built command below P (default /usr/local)
  uninstall [--prefix P]  remove what install put there
  clean             remove build/
  help              this text
TEXT
}

say() { printf '%s\n' "$*" >&2; }

# Wrong usage: a sentence and exit code 2.
refuse() {
  say "build.sh: $*; ./build.sh help lists the verbs"
  exit 2
}

missing_of() { # missing_of PACKAGE...
  local p there
  there=$(dpkg-query -W -f=' ${Package} ${Status}\n' "$@" 2>/dev/null) || true
  for p in "$@"; do
    [[ $there == *" $p install ok installed"* ]] || printf '%s\n' "$p"
  done
}

# Prints what to install where there is no apt, and stops.
tell_packages() {
  say "moonloom needs these packages; install them and run this again:"
  say "  Fedora: dnf install gcc cmake ninja-build pkgconf luajit-devel openblas-devel libzstd-devel pcre2-devel readline-devel lua5.1-cjson lua5.1-luv"
  say "  Arch: pacman -S base-devel cmake ninja pkgconf luajit openblas zstd pcre2 readline lua51-cjson lua51-luv"
  say "  macOS: brew install cmake ninja pkg-config luajit openblas zstd pcre2 readline luarocks; luarocks --lua-version 5.1 install lua-cjson luv"
  say "  for tests and lint: luarocks --lua-version 5.1 install busted luacheck"
  exit 1
}

have_tools() {
  command -v cmake >/dev/null && command -v ninja >/dev/null && command -v cc >/dev/null && command -v pkg-config >/dev/null &&
    pkg-config --exists luajit openblas libzstd libpcre2-8
}

# apt_install PACKAGE...: as root or by sudo; returns 1 with the log told where it fails.
apt_install() {
  local as_root=() log status=0
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  say "installing: $*"
  log=$(mktemp)
  { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 || status=1
  [ $status -eq 0 ] || cat "$log" >&2
  rm -f "$log"
  return $status
}

may_install() { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }

dependencies() { # dependencies PACKAGE...: installs those that are missing, or stops
  if ! command -v dpkg-query >/dev/null; then
    have_tools || tell_packages
    return
  fi
  local missing
  read -r -d '' -a missing <<<"$(missing_of "$@")" || true
  [ "${#missing[@]}" -eq 0 ] && return
  if ! may_install; then
    say "not installed: ${missing[*]}"
    say "as root: apt install ${missing[*]}"
    exit 1
  fi
  if ! apt_install "${missing[@]}"; then
    say "installing failed; the lines above say why"
    exit 1
  fi
}

# Installs what is only wished for, where that can be done.
wishes() { # wishes PACKAGE...
  local missing
  command -v dpkg-query >/dev/null && may_install || return 0
  read -r -d '' -a missing <<<"$(missing_of "$@")" || true
  [ "${#missing[@]}" -eq 0 ] && return
  apt_install "${missing[@]}" || say "going on without ${missing[*]}"
}

# Reads what ninja says; tells `first` before its first step, and on a terminal counts the steps.
watch_ninja() { # watch_ninja FIRST
  local line step told=
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+/[0-9]+)\]\ (Building|Linking) ]] || continue
    step=${BASH_REMATCH[1]}
    [ -n "$told" ] || [ -z "$1" ] || say "$1"
    told=1
    [ -t 2 ] && printf '\r  %s\033[K' "$step" >&2
  done
  if [ -n "$told" ] && [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# compile FOLDER [cmake options]: configures once, then builds what changed; says so only if something did.
compile() {
  local folder=$1 log first
  shift
  mkdir -p "$folder"
  log=$folder/build.log
  first="building (log in $log)"
  if [ ! -f "$folder/build.ninja" ]; then
    say "building (about a minute; log in $log)"
    first=
  fi
  if [ ! -f "$folder/build.ninja" ] || [ "$(cat "$folder/options.txt" 2>/dev/null)" != "$*" ]; then
    if ! cmake -S core -B "$folder" -G Ninja "$@" >"$log" 2>&1; then
      cat "$log" >&2
      exit 1
    fi
    printf '%s\n' "$*" >"$folder/options.txt"
  fi
  if ! ninja -C "$folder" 2>&1 | tee "$log" | watch_ninja "$first"; then
    cat "$log" >&2
    exit 1
  fi
  # A warning is worth reading even when the build went well.
  grep -E 'warning:' "$log" >&2 || true
}

build() {
  dependencies "${run_packages[@]}"
  compile build
}

run_tests() { # run_tests FOLDER [pattern]
  MOONLOOM_BUILD=$1 "$1/moonloom" tests/run.lua "${2:-}"
}

# LuaJIT and readline keep memory until exit: leaks are checked by the tests that count, not at exit. A child of fork()
# that computes starts threads of its own.
sanitized() { # sanitized FOLDER SANITIZERS [pattern]
  dependencies "${run_packages[@]}" "${test_packages[@]}"
  compile "build/$1" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DMOONLOOM_SANITIZE="$2"
  ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0} \
    TSAN_OPTIONS=${TSAN_OPTIONS:-die_after_fork=0:suppressions=$here/tests/tsan.supp} \
    run_tests "$here/build/$1" "${3:-}"
}

# ---- install and uninstall: what is installed stands in a list of its own

# Sets `prefix` from the words of install or uninstall.
read_prefix() { # read_prefix VERB [words]
  local verb=$1
  shift
  prefix=/usr/local
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix=*) prefix=${1#--prefix=} ;;
      --prefix)
        [ $# -gt 1 ] || refuse "$verb --prefix needs a folder"
        prefix=$2
        shift
        ;;
      *) refuse "$verb takes --prefix FOLDER, not '$1'" ;;
    esac
    shift
  done
  [ -n "$prefix" ] || refuse "$verb --prefix needs a folder"
  [[ $prefix == /* ]] || prefix=$caller/$prefix
  [ "$verb" != install ] || mkdir -p "$prefix" || exit 1
  [ ! -d "$prefix" ] || prefix=$(cd "$prefix" && pwd -P)
  manifest=$prefix/share/moonloom/installed.txt
}

# Removes the files of the list, and the folders of moonloom that are empty then; nothing outside of the prefix.
remove_installed() {
  local path
  while IFS= read -r path; do
    case $path in
      */../*) ;;
      "$prefix"/*) rm -f -- "$path" || return ;;
    esac
  done <"$manifest"
  rm -f -- "$manifest" && find "$prefix/share/moonloom" -depth -type d -empty -delete
}

install_below() {
  build
  [ ! -f "$manifest" ] || remove_installed # files that this version has no more
  if ! { cmake --install build --prefix "$prefix" && { cat build/install_manifest.txt; echo; } >"$manifest"; } \
    >build/install.log 2>&1; then
    cat build/install.log >&2
    say "installing below $prefix failed; the lines above say why"
    exit 1
  fi
  say "installed below $prefix"
}

uninstall_below() {
  if [ ! -f "$manifest" ]; then
    say "moonloom is not installed below $prefix: there is no $manifest"
    exit 1
  fi
  if ! remove_installed; then
    say "not all of it could be removed from $prefix"
    exit 1
  fi
  say "removed from $prefix"
}

# ---- the verbs

takes_nothing() { # takes_nothing VERB [words]
  [ $# -eq 1 ] || refuse "$1 takes no arguments, not '$2'"
}

takes_pattern() { # takes_pattern VERB [words]
  [ $# -le 2 ] || refuse "$1 takes one pattern, not also '$3'"
  [[ ${2:-} != -* ]] || refuse "$1 takes a pattern of file names, not '$2'"
}

verb=${1:-build}
[ $# -gt 0 ] && shift
case $verb in
  build | debug | lint | clean | help | -h | --help) takes_nothing "$verb" "$@" ;;
  test | asan | tsan) takes_pattern "$verb" "$@" ;;
  install | uninstall) read_prefix "$verb" "$@" ;;
  run | bench) ;;
  *) refuse "there is no verb '$verb'" ;;
esac
case $verb in
  build) build ;;
  run) build && exec build/moonloom "$@" ;;
  test)
    dependencies "${run_packages[@]}" "${test_packages[@]}"
    build && run_tests "$here/build" "$@"
    ;;
  bench) build && exec build/moonloom bench "$@" ;;
  debug) dependencies "${run_packages[@]}" && compile build/debug -DCMAKE_BUILD_TYPE=Debug ;;
  asan) sanitized asan address,undefined "$@" ;;
  tsan) sanitized tsan thread "$@" ;;
  lint)
    dependencies "${run_packages[@]}" "${lint_packages[@]}"
    wishes "${wish_packages[@]}"
    exec tests/lint.sh
    ;;
  install) install_below ;;
  uninstall) uninstall_below ;;
  clean) rm -rf build ;;
  help | -h | --help) usage ;;
esac
