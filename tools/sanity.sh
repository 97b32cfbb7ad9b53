#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# sanity.sh [ANSIBLE-TEST ARGUMENT...]: all of ansible-test sanity, with no ignore file, under the ansible-core of the active
# virtual environment (.venv if none is), on a copy of what git would commit.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ -n "$(find "$top/tests/sanity" -name 'ignore*' 2>/dev/null)" ]; then
  die "tests/sanity holds ignore files; this collection has none: mend what sanity finds."
fi

bin=${VIRTUAL_ENV:-$top/.venv}/bin
version=$("$bin/python" -c 'from ansible.release import __version__; print(__version__)')
python_version=$("$bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
home=$cache/home/$version

# ansible-test keeps its environments in the home directory. One of our own leaves the user's as it is; what pip reads stays the user's.
mkdir -p "$home/.ansible/test/cache"
for entry in .cache .config .pip; do
  if [ -e "$HOME/$entry" ]; then ln -sfn "$HOME/$entry" "$home/$entry"; fi
done
for pip_release in 24_2 25_2; do
  cp "$top/tools/get_pip.py" "$home/.ansible/test/cache/get_pip_$pip_release.py"
done

unset ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH
exec "$top/tools/on_copy.sh" "sanity-$version" env HOME="$home" PATH="$bin:$PATH" \
  "$bin/ansible-test" sanity --python "$python_version" --color no "$@"
