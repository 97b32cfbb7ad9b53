#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# on_copy.sh NAME COMMAND...: runs the command on a copy of what git would commit (.cache/copy/NAME/ansible_collections/
# multi_sonicator/ops), for tools that must not meet .venv, .cache or what other checks write meanwhile.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

copy=$cache/copy/$1/ansible_collections/multi_sonicator/ops
shift
rm -rf "$copy"
mkdir -p "$copy"
cd "$top"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' path; do
  if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\0' "$path"; fi
done | tar --null --no-recursion --files-from=- -cf - | tar -C "$copy" -xf -
cd "$copy"
# Without a repository of its own, git would say of the copy's files what the checkout's repository says: ignored.
git init -q .
exec "$@"
