# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway that fetches its work by itself deploys signed releases, with nothing but Debian's packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fleet as hosts
import pytest
from support.hosts import PROGRAMS, TOP, HostSite
from support.releases import Publisher, verifier
from support.virtual import CACHE

GATEWAY = "gateway"
CONTROLLERS = [{"name": "press_1", "line": "/dev/ttyUSB0", "unit": 2, "programmer": "/dev/ttyACM0"}]
PACKAGES = (
    "ansible-core",
    "avrdude",
    "git",
    "openssh-client",
    "python3-cryptography",
    "python3-jsonschema",
    "python3-serial",
    "python3-yaml",
)


class Site(HostSite):
    """A gateway, and a repository with its inventory, the collection and signed releases, which it has a copy of."""

    def __init__(self) -> None:
        super().__init__()
        self.publisher = Publisher(self.place / "publisher")
        self.publisher.publish("1.1.0")
        self.repository = self.place / "repository"
        self.inventory = self.repository / "my_site/hosts.yml"
        inventory = {
            "gateways": {
                "hosts": {GATEWAY: {"controllers": CONTROLLERS}},
                "vars": {
                    "controllers_repository": "/srv/releases",
                    "controllers_trusted_root": "{{ inventory_dir }}/root.json",
                    "controllers_firmware_version": "1.1.0",
                    "controllers_soak": 0.5,
                    "ansible_python_interpreter": "/usr/bin/python3",
                },
            }
        }
        self.inventory.parent.mkdir(parents=True)
        self.inventory.write_text(json.dumps(inventory))
        (self.inventory.parent / "root.json").write_bytes(self.publisher.root.read_bytes())
        (self.repository / "controllers.yml").write_text((TOP / "docs/examples/controllers.yml").read_text())
        galaxy = (str(PROGRAMS / "ansible-galaxy"), "collection")
        self.run(*galaxy, "build", "--output-path", str(self.place / "artifact"), str(TOP))
        (artifact,) = (self.place / "artifact").glob("*.tar.gz")
        place = ("-p", str(self.repository / "collections"))
        self.run(*galaxy, "install", "--force", "--offline", "--no-deps", str(artifact), *place)
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / "committer"))
        self.git("init", "-q", "-b", "main")
        self.git("add", ".")

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@site.example", "-c", "gpg.format=ssh")
        key = ("-c", f"user.signingkey={self.place / 'committer'}")
        self.run("git", "-C", str(self.repository), *who, *key, *words)

    def send(self, directory: Path, place: str) -> None:
        """A directory as it is now, in the place of what the gateway has there."""
        packed = self.run("tar", "-C", str(directory), "-c", "--owner=0", "--group=0", ".")
        unpack = f"sudo sh -c 'rm -rf {place} && mkdir -p {place} && tar -x -C {place} --no-same-owner'"
        self.run(*self.fleet.ssh_command(GATEWAY), unpack, stdin=packed)

    def up(self) -> None:
        self.fleet.up([hosts.Host(GATEWAY, "trixie", CONTROLLERS)])
        # While it is on the bench, the control node reaches it.
        self.variables |= json.loads(self.fleet.inventory.read_text())["gateways"]["vars"]
        self.variables["ansible_host"] = self.fleet.address(GATEWAY)


@pytest.fixture
def site(machine: None) -> Iterator[Site]:
    with Site() as made:
        made.up()
        yield made


def test_a_signed_release_comes_with_a_signed_commit(site: Site) -> None:
    def journal() -> str:
        return site.fleet.ssh(GATEWAY, "sudo journalctl -u multi-sonicator-pull.service --output=cat").stdout

    def run(code: int = 0) -> None:
        done = site.fleet.ssh(GATEWAY, "sudo systemctl start multi-sonicator-pull.service", check=False)
        assert done.returncode == code, journal()

    def erases() -> int:
        answer: int = site.fleet.control(GATEWAY, "press_1", "state")["programmer"]["erases"]
        return answer

    install = (
        "sudo apt-get -q update && sudo DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install"
    )
    site.fleet.ssh(GATEWAY, f"{install} {' '.join(PACKAGES)}")
    site.send(site.publisher.repository.directory, "/srv/releases")
    verifier()
    site.play("trust", firmware_trust_wheels=str(CACHE / "wheels"))
    site.git("commit", "-q", "-m", "Not signed")
    site.send(site.repository, "/srv/site")
    site.play(
        "pull",
        pull_repository="file:///srv/site",
        pull_inventory="my_site/hosts.yml",
        pull_variables={"playbook": "deploy"},
    )
    committers = f"e@site.example {(site.place / 'committer.pub').read_text()}"
    site.run(*site.fleet.ssh_command(GATEWAY), "sudo tee /etc/ssh/committers", stdin=committers.encode())
    site.fleet.ssh(GATEWAY, "sudo git config --system gpg.ssh.allowedSignersFile /etc/ssh/committers")

    run(code=1)
    assert "Failed to verify" in journal() and erases() == 0

    site.git("commit", "-q", "-S", "--amend", "-m", "Signed")
    site.send(site.repository, "/srv/site")
    run()
    assert erases() == 1, journal()
    assert "1.1.0" in journal()
    assert site.fleet.control(GATEWAY, "press_1", "state")["mcu"] == "running"

    # Nothing is left to do.
    run()
    assert erases() == 1, journal()
