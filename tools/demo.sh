#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# demo.sh: the main job on the virtual site of inventories/demo, from its first status to a release that does not come up.
# The site is taken down at the end, whatever happens; KEEP=1 leaves it running (make demo KEEP=1).
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$top"
export PATH=$top/.venv/bin:$PATH

play() { ansible-playbook -i inventories/demo "playbooks/$1.yml" "${@:2}"; }

headline() { printf '\n######## %s\n' "$*"; }

site_down() {
  [ -n "${KEEP:-}" ] || play virtual_site -e virtual_site_state=absent >"$cache/log/demo_site_down.log"
}

mkdir -p "$cache/log"
rm -rf .virtual/repository .virtual/keys .virtual/cache .virtual/*/trust .virtual/rollouts .virtual/audit.jsonl*
play virtual_site -e virtual_site_state=absent >"$cache/log/demo_site_before.log"
trap site_down EXIT

headline 'The virtual site: two gateways, four simulated boards, real AVR code in them'
play virtual_site

headline 'Releases 1.0.0, 1.1.0 and 1.2.0, signed into a repository; the gateways get their root of trust'
for release in 1.0.0 1.1.0 1.2.0; do
  play release -e "version=$release" -e "image=$top/tests/firmware/firmware-$release.hex"
done
play trust

headline 'What is there'
play status

headline 'Settings as the inventory wants them'
play configure --diff

headline 'What deploying would do, with no write on any wire: the inventory wants 1.1.0, the boards have 1.0.0'
play deploy --check --diff

headline 'Deploy 1.1.0 over 1.0.0: a canary first, then what each cell can spare'
play deploy

headline 'The same again changes nothing'
play deploy

headline 'Deploy 1.2.0, which flashes and verifies but never answers: the canary has to fail, and the rollout to stop there'
if play deploy -e firmware_version=1.2.0; then
  die 'The faulty release was taken for good.'
fi

headline 'The canary is back on 1.1.0 with its settings, the others were not touched'
play status
play configure --check --diff

headline 'Who did what: the audit log is whole'
play audit_verify
headline 'Done: the faulty release was flashed to one board, found dead there, and rolled back.'
