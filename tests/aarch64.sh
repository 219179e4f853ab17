#!/usr/bin/env bash
# Builds moonloom for aarch64 and runs the tests under qemu: tests/aarch64.sh [pattern]. A developer's tool: the libraries
# of Debian's arm64 go below build/aarch64/root, and nothing is installed on this machine.
# Needs: apt install gcc-aarch64-linux-gnu qemu-user cmake ninja-build pkg-config, and apt's own sources.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/build/aarch64
root=$folder/root
libraries=$root/usr/lib/aarch64-linux-gnu

for tool in apt-get aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v "$tool" >/dev/null || {
    echo "tests/aarch64.sh needs $tool" >&2
    exit 1
  }
done

# apt with a state of its own, for another architecture.
fetch_libraries() {
  local state=$folder/apt
  mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/parts"
  touch "$state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${1} main" >"$state/sources.list"
  cat >"$state/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Etc::SourceParts "$state/parts";
Dir::Etc::SourceList "$state/sources.list";
CONF
  export APT_CONFIG=$state/apt.conf
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends --download-only libc6-dev libluajit-5.1-dev libopenblas-dev libzstd-dev \
    libpcre2-dev libreadline-dev lua-cjson lua-luv lua-busted
  unset APT_CONFIG
  local package link target
  for package in "$state"/archives/*.deb; do dpkg -x "$package" "$root"; done
  find "$root" -xtype l | while read -r link; do # links that mean the root of that system
    target=$(readlink "$link")
    [[ $target == /* && -e $root$target ]] && ln -sfn "$root$target" "$link" || true
  done
  touch "$folder/fetched"
}

mkdir -p "$folder"
# shellcheck source=/dev/null
[ -f "$folder/fetched" ] || fetch_libraries "$(. /etc/os-release && echo "$VERSION_CODENAME")"

export PKG_CONFIG_LIBDIR=$libraries/pkgconfig:$libraries/openblas-pthread/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
[ -f "$folder/build.ninja" ] || cmake -S core -B "$folder" -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_SYSROOT="$root" \
  >"$folder/build.log"
ninja -C "$folder" >"$folder/build.log" || {
  cat "$folder/build.log" >&2
  exit 1
}

# A command of that system that tests can start like any other.
cat >"$folder/start" <<START
#!/bin/sh
exec qemu-aarch64 ${QEMU_CPU:+-cpu $QEMU_CPU} -L "$root" \
  -E LD_LIBRARY_PATH="$libraries:$root/lib/aarch64-linux-gnu:$libraries/openblas-pthread" "$folder/moonloom" "\$@"
START
chmod +x "$folder/start"
export LUA_CPATH="$libraries/lua/5.1/?.so;;"
MOONLOOM_BUILD=$folder "$folder/start" tests/run.lua "${1:-}"
