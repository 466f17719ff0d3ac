# shellcheck shell=sh
# Shared by the shell entries in this folder. Sourced, not run.
# Callers set `name` (the word in front of each message) and are in any directory.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
export PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The pinned toolchain may be here under another name (a distribution's Rust, rustup's "stable").
use_pinned_toolchain() {
  pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$repository/rust-toolchain.toml")
  (cd "$repository" && rustc --version) >/dev/null 2>&1 && return 0
  have rustup || return 0
  for toolchain in $(rustup toolchain list 2>/dev/null | sed 's/ .*//'); do
    case $(rustc "+$toolchain" --version 2>/dev/null) in
      "rustc $pinned "*) export RUSTUP_TOOLCHAIN="$toolchain"; return 0 ;;
    esac
  done
}

# The tasks are a Rust program (scripts/xtask); these scripts only find cargo and start it.
xtask() {
  case " $* " in
    *' --list '* | *' --help '*) ;; # only tells: nothing is installed for it
    *) "$repository/scripts/setup" --quiet ;;
  esac
  use_pinned_toolchain
  cd "$repository"
  exec cargo run --quiet --locked --package xtask -- "$@"
}
