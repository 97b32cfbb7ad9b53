#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# setup.sh run|dev: makes this checkout ready to run the playbooks (run) or to be developed and tested (dev).
# Debian packages by apt, pinned Python packages in .venv, and the checkout resolving as multi_sonicator.ops.
# Does nothing when all is there.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

set_name=${1:-run}
case $set_name in run | dev) ;; *) die "usage: $0 run|dev" ;; esac
venv=$top/.venv

python=
python_here() {
  [ -n "$python" ] || python=$(find_python 3.11 3 3.12 3.13)
}

header_found() {
  command -v "$1" >/dev/null && "$@" -E -x c - -o /dev/null >/dev/null 2>&1
}

missing_packages() {
  command -v avrdude >/dev/null || echo avrdude
  command -v make >/dev/null || echo make
  command -v gcc >/dev/null || echo gcc
  header_found gcc <<<'#include <stdio.h>' || echo libc6-dev
  command -v avr-gcc >/dev/null || echo gcc-avr
  header_found avr-gcc -mmcu=atmega32 <<<'#include <avr/io.h>' || echo avr-libc
  header_found gcc <<<'#include <simavr/sim_avr.h>' || echo libsimavr-dev
  header_found gcc <<<'#include <libelf.h>' || echo libelf-dev
  [ "$set_name" = run ] || command -v restic >/dev/null || echo restic
  [ "$set_name" = run ] || command -v systemd-analyze >/dev/null || echo systemd
  [ "$set_name" = run ] || PATH=$PATH:/usr/sbin command -v sshd >/dev/null || echo openssh-server
  python_here || echo python3-venv
  if [ "$set_name" = dev ] && [ "$(id -u)" -eq 0 ]; then
    missing_for_hosts
  fi
}

# What molecule/fleet.py boots hosts with, which takes root, and those who look at them from outside.
missing_for_hosts() {
  local package
  for package in mmdebstrap systemd-container apt-cacher-ng iproute2 openssh-client nmap; do
    [ -e "/var/lib/dpkg/info/$package.list" ] || echo "$package"
  done
}

install_debian_packages() {
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "Missing: ${missing[*]} (names of Debian packages). This system has no apt: install their like by hand, then call this again."
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    if ! { command -v sudo && { sudo -n true || [ -t 0 ]; }; } >/dev/null 2>&1; then
      die "Missing Debian packages, and neither root nor sudo to install them: have 'apt install ${missing[*]}' done, then call this again."
    fi
    sudo true
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
  quietly "Refreshing apt's package lists" "${apt[@]}" update ||
    say "   going on with the lists that are there"
  if [[ " ${missing[*]} " == *" openssh-server "* ]]; then
    # The tests start servers of their own; with this file Debian's package opens none to the network.
    "${as_root[@]}" sh -c 'mkdir -p /etc/ssh && touch /etc/ssh/sshd_not_to_be_run'
  fi
  if [[ " ${missing[*]} " == *" apt-cacher-ng "* ]] && [ ! -e /etc/systemd/system/apt-cacher-ng.service ]; then
    # The hosts of the tests have one of their own; nor shall this one listen.
    mkdir -p /etc/systemd/system && ln -s /dev/null /etc/systemd/system/apt-cacher-ng.service
  fi
  quietly "Installing Debian packages: ${missing[*]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] || die "Still missing after apt: ${missing[*]}. Install them by hand, then call this again."
}

# The collections beside ours: those we depend on (requirements.yml), and what tests and examples are checked
# against, out of a package that has a hundred others.
neighbours=(awx/awx community/crypto)
neighbouring_collections() {
  local place=$cache/collections stamp name
  stamp="${neighbours[*]} $(sha256sum "$top/requirements/collections.txt")"
  if [ "$(cat "$place/.stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$place"
    quietly "Fetching the collections ${neighbours[*]}" "$venv/bin/pip" download --disable-pip-version-check --no-deps --only-binary :all: \
      --dest "$place" -r "$top/requirements/collections.txt"
    "$venv/bin/python" -c 'import sys, zipfile
wheel, place, wanted = zipfile.ZipFile(sys.argv[1]), sys.argv[2], tuple(f"ansible_collections/{name}/" for name in sys.argv[3:])
wheel.extractall(place, [name for name in wheel.namelist() if name.startswith(wanted)])' "$place"/ansible-*.whl "$place" "${neighbours[@]}"
    rm "$place"/ansible-*.whl
    printf '%s\n' "$stamp" >"$place/.stamp"
  fi
  for name in "${neighbours[@]}"; do
    mkdir -p "$venv/collections/ansible_collections/${name%/*}"
    ln -srfn "$place/ansible_collections/$name" "$venv/collections/ansible_collections/$name"
  done
}

mkdir -p "$cache"
exec 9>"$cache/setup.lock"
if ! flock -n 9; then
  say "Another set-up of this checkout is running; waiting for it."
  flock 9
fi
python_here || true
install_debian_packages
python_here || die "No Python from 3.11 on that can make virtual environments: install python3-venv."

pinned=(-c "$top/requirements/constraints.txt" -r)
if [ "$set_name" = run ] && [ ! -e "$venv/.packages-dev" ]; then
  environment "$venv" "$python" run "${pinned[@]}" "$top/requirements/run.txt"
else
  environment "$venv" "$python" dev "${pinned[@]}" "$top/requirements/dev.txt"
fi
link_collection "$venv/collections"
if [ "$set_name" = dev ]; then
  neighbouring_collections
  environment "$cache/gateway" "$python" gateway -r "$top/requirements/gateway.txt"
  environment "$cache/sslyze" "$python" sslyze -r "$top/requirements/sslyze.txt"
fi
