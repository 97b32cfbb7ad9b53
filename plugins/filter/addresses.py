# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peers of a firewall as addresses."""

from __future__ import annotations

DOCUMENTATION = r"""
name: addresses
short_description: Turn peers of the inventory into addresses
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Takes addresses and networks as they are, hosts by their C(ansible_host), and groups of the inventory as their
    hosts.
  - Fails for everything else, so that nothing but addresses reaches the rules of a firewall.
positional: groups, hostvars
options:
  _input:
    description: Addresses, networks, and hosts and groups of the inventory.
    type: list
    elements: str
    required: true
  groups:
    description: Ansible's variable of this name.
    type: dict
    required: true
  hostvars:
    description: Ansible's variable of this name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show from where metrics may be fetched
  ansible.builtin.debug:
    msg: "{{ ['monitoring', '10.20.0.0/24'] | multi_sonicator.ops.addresses(groups, hostvars) }}"
"""

RETURN = r"""
_value:
  description: Sorted addresses and networks of V(ip) and V(ip6), as nftables calls the two families.
  type: dict
  sample: {ip: [10.20.0.0/24], ip6: [fd00::7]}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from ansible.errors import AnsibleFilterError


def addresses(
    peers: Iterable[object], groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The networks of the peers by family. AnsibleFilterError for a peer that is none."""
    found = {ip_network(address, strict=False) for peer in peers for address in _named(str(peer), groups, hostvars)}
    ordered = sorted(found, key=lambda network: (network.version, network.network_address, network.prefixlen))
    families: dict[str, list[str]] = {"ip": [], "ip6": []}
    for network in ordered:
        # nftables does not take a range that is within another.
        if not any(network != other and _within(network, other) for other in ordered):
            single = network.num_addresses == 1
            families["ip" if network.version == 4 else "ip6"].append(
                str(network.network_address) if single else str(network)
            )
    return families


def _within(network: Any, other: Any) -> bool:
    return bool(network.version == other.version and network.subnet_of(other))


def _named(peer: str, groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Any]) -> Iterator[str]:
    if peer in groups:
        hosts = list(groups[peer])
    elif peer in hostvars:
        hosts = [peer]
    else:
        yield _checked(peer, "a host or group of the inventory, an address or a network")
        return
    for host in hosts:
        address = str(hostvars[host].get("ansible_host") or host)
        yield _checked(address, f"an address as ansible_host of {host}")


def _checked(text: str, expected: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise AnsibleFilterError(f"peer {text!r}: expected {expected}; nothing was changed") from None
    return text


class FilterModule:
    """Ansible's way to the filter."""

    def filters(self) -> dict[str, Any]:
        """The filters of this file."""
        return {"addresses": addresses}
