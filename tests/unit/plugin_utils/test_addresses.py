# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only addresses reach the rules of a firewall."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.multi_sonicator.ops.plugins.filter.addresses import addresses

GROUPS = {"monitoring": ["m1", "m2"], "empty": []}
HOSTS = {
    "m1": {"ansible_host": "10.0.0.5"},
    "m2": {"ansible_host": "fd00::5"},
    "named": {"ansible_host": "gw.example"},
    "10.0.0.9": {},
}


def test_groups_hosts_addresses_and_networks_become_addresses() -> None:
    peers = ["monitoring", "10.20.0.7/24", "10.0.0.9", "10.20.0.8", "empty", "192.0.2.1"]
    assert addresses(peers, GROUPS, HOSTS) == {
        "ip": ["10.0.0.5", "10.0.0.9", "10.20.0.0/24", "192.0.2.1"],
        "ip6": ["fd00::5"],
    }


@pytest.mark.parametrize("peer", ["nobody", "named", "10.0.0.1 } accept #", "10.0.0.1\n", "", "10.0.0.0/33", "٣.0.0.1"])
def test_anything_else_is_refused(peer: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"expected (a host or group|an address as ansible_host)"):
        addresses([peer], GROUPS, HOSTS)
