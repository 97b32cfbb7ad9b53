#!/bin/sh
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
set -eu
cd /etc
find . \( -type f -printf '%p %m %u %g ' -exec sh -c 'sha256sum <"$1"' sh {} \; \) -o -type l -printf '%p -> %l\n' -o -printf '%p %m\n'
systemctl list-unit-files --no-legend --no-pager | awk '$2 != "transient" { print "unit", $1, $2 }'
nft list ruleset
dpkg-query --show --showformat 'package ${Package} ${db:Status-Status}\n'
sysctl -a 2>/dev/null | grep -E '^net.ipv[46].conf.(all|default)|ip_forward|syncookies|icmp_'
