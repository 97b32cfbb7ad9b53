#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# scenario.sh NAME: one of Molecule's scenarios on hosts of molecule/fleet.py, where this machine can have some.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
export PATH=$top/.venv/bin:$PATH
python molecule/fleet.py available
exec molecule --base-config .config/molecule/config.yml test --scenario-name "$1"
