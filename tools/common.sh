# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# Sourced by the scripts beside it.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$top/.cache

say() { printf '%s\n' "$*"; }

die() {
  say "$*" >&2
  exit 1
}

# quietly TITLE COMMAND...: output goes to a log that is shown only on failure; a line every 10 seconds says that it still runs.
quietly() {
  local title=$1 log start child status=0
  shift
  mkdir -p "$cache/log"
  log=$cache/log/$(tr -c '[:alnum:]\n' _ <<<"$title" | cut -c1-60).log
  say "== $title"
  start=$SECONDS
  "$@" >"$log" 2>&1 </dev/null &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    for _ in {1..50}; do
      kill -0 "$child" 2>/dev/null || break 2
      sleep 0.2
    done
    say "   … $((SECONDS - start)) s"
  done
  wait "$child" || status=$?
  if [ "$status" -ne 0 ]; then
    grep -v '^WARNING: Location' "$log" | tail -n 40
    say "   failed (exit code $status); the whole log: ${log#"$top"/}"
  fi
  return "$status"
}

# usable PYTHON: it runs (a shim may be there and not work), is at least 3.11, and can make virtual environments.
usable() {
  [ -x "$1" ] && "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# find_python VERSION...: the first usable interpreter of these: the system's, which gateways have too and which is built
# for speed, one on PATH, or one among pyenv's.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in "/usr/bin/python$version" "$(command -v "python$version")" \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version"*/bin/"python$version"; do
      if usable "$candidate"; then
        "$candidate" -c 'import sys; print(sys.executable)'
        return 0
      fi
    done
  done
  return 1
}

# environment DIRECTORY PYTHON NAME PIP_ARGUMENT...: a virtual environment with these packages; nothing is done if it has them already.
# Another place, another Python or other pins make it again.
environment() {
  local directory=$1 python=$2 name=$3 base stamp title
  shift 3
  title="environment ${directory#"$top"/} ($("$python" --version))"
  base="$top $("$python" --version)"
  stamp="$* $(sha256sum "$top"/requirements/*.txt | sha256sum)"
  if [ "$(cat "$directory/.base" 2>/dev/null)" != "$base" ]; then
    rm -rf "$directory"
    quietly "Making the $title" "$python" -m venv "$directory"
    printf '%s\n' "$base" >"$directory/.base"
  fi
  if [ "$(cat "$directory/.packages-$name" 2>/dev/null)" != "$stamp" ]; then
    quietly "Installing the packages '$name' into the $title" "$directory/bin/pip" install --disable-pip-version-check "$@"
    printf '%s\n' "$stamp" >"$directory/.packages-$name"
  fi
}

# link_collection DIRECTORY: the checkout resolves as multi_sonicator.ops below DIRECTORY.
link_collection() {
  mkdir -p "$1/ansible_collections/multi_sonicator"
  ln -sfn "$(realpath --relative-to="$1/ansible_collections/multi_sonicator" "$top")" "$1/ansible_collections/multi_sonicator/ops"
}
