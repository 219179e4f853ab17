#!/usr/bin/env bash
# What must be clean: clang-format, luacheck, who knows whom in core (tools/rooms.lua), and warnings of gcc, clang and an
# aarch64 gcc. Called by ./build.sh lint.
# A tool that is not installed is named and skipped; Debian packages: clang clang-format gcc-aarch64-linux-gnu.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

have() {
  command -v "$1" >/dev/null && return
  echo "skipped: $1 is not installed"
  return 1
}

check() { # check LABEL COMMAND...
  local label=$1
  shift
  if output=$("$@" 2>&1); then
    echo "clean: $label"
  else
    printf '%s\n' "$output"
    echo "NOT CLEAN: $label"
    failed=1
  fi
}

mapfile -t sources < <(find core repl tests/tools -name '*.[ch]' | sort)

# Every file of core by itself, for the baseline of an architecture; kernel files get the flags CMake gives them.
compile_all() { # compile_all COMPILER [flags]
  local compiler=$1 file flags status=0
  shift
  for file in "${sources[@]}"; do
    [[ $file == core/*.c ]] || continue
    flags=()
    if [[ $* == *--aarch64* ]]; then
      [[ $file == */neon_panel.c || $file == */neon_warm_dot.c ]] && flags=(-march=armv8.2-a+dotprod)
    else
      case $file in
        */avx2*.c) flags=(-mavx2 -mfma -mf16c) ;;
        */amx.c) flags=(-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mamx-tile -mamx-bf16) ;;
        */avx512*.c | */amx_emulated.c) flags=(-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni) ;;
      esac
    fi
    "$compiler" -std=gnu11 -O1 -Wall -Wextra -Werror -Icore "${@/--aarch64/-DML_LINT}" "${flags[@]}" -fsyntax-only "$file" ||
      status=1
  done
  return $status
}

# Any Lua will do; luacheck has brought one.
a_lua() {
  local name
  for name in luajit lua5.1 lua lua5.4 lua5.3 build/moonloom; do
    command -v "$name" && return
  done
}

# Headers of the libraries are the same on every architecture that matters here.
library_flags() {
  pkg-config --cflags openblas libpcre2-8 libzstd
}

have clang-format && check "clang-format" clang-format --dry-run -Werror "${sources[@]}"
have luacheck && check "luacheck" luacheck --quiet lua repl recipes tests
lua=$(a_lua) && check "the rooms of core" "$lua" tests/tools/rooms.lua core
# shellcheck disable=SC2046
have gcc && check "gcc -Wall -Wextra" compile_all gcc $(library_flags)
# shellcheck disable=SC2046
have clang && check "clang -Wall -Wextra" compile_all clang $(library_flags)
if have aarch64-linux-gnu-gcc; then
  mkdir -p build/lint-include
  for header in /usr/include/pcre2.h /usr/include/zstd.h /usr/include/x86_64-linux-gnu/cblas.h \
    /usr/include/x86_64-linux-gnu/openblas_config.h; do
    [ -f "$header" ] && ln -sf "$header" build/lint-include/
  done
  check "aarch64 gcc" compile_all aarch64-linux-gnu-gcc --aarch64 -Ibuild/lint-include
fi
exit $failed
