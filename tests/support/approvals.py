# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""People with ssh keys, who approve things for tests by the real ssh-keygen."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _core.approval import NAMESPACE, canonical


class People:
    """Persons of these names, each with a key in ``directory``; ``approvers`` is a gateway's file of them."""

    def __init__(self, directory: Path, names: Sequence[str] = ("alice", "bob", "carol")) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            self.key(name)
        self.approvers = self.write_approvers(*names)

    def key(self, name: str) -> Path:
        """The private key of a person, who need not be an approver."""
        path = self.directory / name
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
        return path

    def public(self, name: str) -> str:
        return self.key(name).with_suffix(".pub").read_text().strip()

    def write_approvers(self, *names: str, lines: Sequence[str] = ()) -> Path:
        """A gateway's file of approvers."""
        path = self.directory / "approvers"
        path.write_text("".join(f"{line}\n" for line in [*lines, *(f"{name} {self.public(name)}" for name in names)]))
        path.chmod(0o644)
        return path

    def sign(self, name: str, content: bytes, namespace: str = NAMESPACE) -> str:
        """What ``ssh-keygen -Y sign`` makes of it."""
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(self.key(name))]
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode()

    def offer(self, request: dict[str, Any], *names: str, file: str = "request.json") -> dict[str, Any]:
        """A request with the signatures of these, as a gateway gets it."""
        content = canonical(request)
        signatures = [self.sign(name, content) for name in names]
        return {"file": file, "request": content.decode(), "signatures": signatures}
