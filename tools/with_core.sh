#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# with_core.sh VERSION COMMAND...: runs the command in a virtual environment (.cache/core-VERSION) with that ansible-core, the pinned
# libraries and pytest. Exits with 77 and says so in one line where no installed Python can run that ansible-core.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 2 ] || die "usage: $0 VERSION COMMAND..."
version=$1
shift
case $version in
  2.18.* | 2.19.*) pythons=(3.11 3.12 3.13) ;;
  *) pythons=(3.13 3.12) ;;
esac
python=$(find_python "${pythons[@]}") || {
  say "ansible-core $version left out: it needs one of Python ${pythons[*]}, and none here works."
  exit 77
}

directory=$cache/core-$version
mkdir -p "$cache"
(
  flock 9
  environment "$directory" "$python" core "ansible-core==$version" \
    -r "$top/requirements/libraries.txt" -r "$top/requirements/pytest.txt" -r "$top/requirements/sanity.txt"
) 9>"$cache/core-$version.lock"

export VIRTUAL_ENV=$directory PATH=$directory/bin:$PATH
exec "$@"
