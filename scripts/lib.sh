# shellcheck shell=sh
# Shared by the shell entries in this folder. Sourced, not run.
# Callers set `name` (the word in front of each message) and are in any directory.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
export PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The tasks are a Rust program (scripts/xtask); these scripts only find cargo and start it.
xtask() {
  case " $* " in
    *' --list '* | *' --help '*) ;; # only tells: nothing is installed for it
    *) "$repository/scripts/setup" --quiet ;;
  esac
  cd "$repository"
  exec cargo run --quiet --locked --package xtask -- "$@"
}
