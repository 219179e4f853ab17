#!/usr/bin/env bash
# The one door to moonloom: dependencies, build, run, test, bench. `./build.sh help` lists the verbs.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD

# The one list of Debian packages. Why each is there: README.md, "Libraries".
packages=(build-essential cmake ninja-build pkg-config
  libluajit-5.1-dev libopenblas-dev libzstd-dev libpcre2-dev libreadline-dev
  lua-cjson lua-luv lua-busted lua-check)

usage() {
  cat <<'TEXT'
usage: ./build.sh [verb] [arguments]

  (none)            install what is missing, then build into build/
  run [args]        build, then start moonloom with these arguments
  test [pattern]    build, then run the tests whose file name matches the pattern
  bench [args]      build, then run the benchmark recipe
  debug             build without optimisation into build/debug
  asan [pattern]    build with AddressSanitizer and UBSan into build/asan, and run the tests there
  lint              clang-format, luacheck and gcc/clang warnings as errors, aarch64 included where its compiler is there
  install --prefix P   install the built command below P (default /usr/local)
  clean             remove build/
  help              this text
TEXT
}

say() { printf '%s\n' "$*" >&2; }

missing_packages() {
  local p
  for p in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || printf '%s\n' "$p"
  done
}

# Prints what to install where there is no apt, and stops.
tell_packages() {
  say "moonloom needs these packages; install them and run this again:"
  say "  Debian, Ubuntu: apt install ${packages[*]}"
  say "  Fedora: dnf install gcc cmake ninja-build pkgconf luajit-devel openblas-devel libzstd-devel pcre2-devel readline-devel lua5.1-cjson lua5.1-luv"
  say "  Arch: pacman -S base-devel cmake ninja pkgconf luajit openblas zstd pcre2 readline lua51-cjson lua51-luv"
  say "  macOS: brew install cmake ninja pkg-config luajit openblas zstd pcre2 readline luarocks; luarocks --lua-version 5.1 install lua-cjson luv busted luacheck"
  exit 1
}

have_tools() {
  command -v cmake >/dev/null && command -v ninja >/dev/null && command -v cc >/dev/null && command -v pkg-config >/dev/null &&
    pkg-config --exists luajit openblas libzstd libpcre2-8
}

dependencies() {
  if ! command -v dpkg-query >/dev/null; then
    have_tools || tell_packages
    return
  fi
  local missing as_root=()
  read -r -d '' -a missing <<<"$(missing_packages)" || true
  [ "${#missing[@]}" -eq 0 ] && return
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || tell_packages
    as_root=(sudo)
  fi
  say "installing: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
      "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    say "installing failed; the lines above say why"
    exit 1
  fi
  rm -f "$log"
}

# compile FOLDER [cmake options]: configures once, then builds what changed.
compile() {
  local folder=$1 log
  shift
  mkdir -p "$folder"
  log=$folder/build.log
  if ! { { [ -f "$folder/build.ninja" ] || cmake -S core -B "$folder" -G Ninja "$@"; } && ninja -C "$folder"; } >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
  # A warning is worth reading even when the build went well.
  grep -E 'warning:' "$log" >&2 || true
}

build() {
  dependencies
  compile build
}

run_tests() { # run_tests FOLDER [pattern]
  MOONLOOM_BUILD=$1 "$1/moonloom" tests/run.lua "${2:-}"
}

verb=${1:-build}
[ $# -gt 0 ] && shift
case $verb in
  build) build ;;
  run) build && exec build/moonloom "$@" ;;
  test) build && run_tests "$here/build" "$@" ;;
  bench) build && exec build/moonloom bench "$@" ;;
  debug) dependencies && compile build/debug -DCMAKE_BUILD_TYPE=Debug ;;
  asan)
    dependencies && compile build/asan -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O1 -g" -DMOONLOOM_SANITIZE=ON
    # LuaJIT and readline keep memory until exit: leaks are checked by the tests that count, not at exit.
    ASAN_OPTIONS=detect_leaks=0 run_tests "$here/build/asan" "$@"
    ;;
  lint) dependencies && exec tests/lint.sh ;;
  install)
    prefix=/usr/local
    [ "${1:-}" = --prefix ] && prefix=${2:?"--prefix needs a folder"}
    build && cmake --install build --prefix "$prefix" >build/install.log && say "installed below $prefix"
    ;;
  clean) rm -rf build ;;
  help | -h | --help) usage ;;
  *)
    say "build.sh: unknown verb '$verb'"
    usage >&2
    exit 2
    ;;
esac
