# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the services and commands of a gateway work on: its controllers, as the modules get them with every task.

The file holds no secrets and may be read by everybody on the gateway.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CoreError
from .gateway import Controller, Gateway, parse_controllers
from .store import Store

PATH = Path("/etc/multi_sonicator/gateway.json")
_KEYS = ("controllers", "profiles", "state_directory", "lock_directory")


@dataclass(frozen=True)
class Settings:
    """The content of the file, checked; ``raw`` is it as it stands there."""

    controllers: list[Controller]
    raw: Mapping[str, Any]

    @property
    def store(self) -> Store:
        """What the gateway keeps of its controllers."""
        return Store(self.raw["state_directory"])

    def gateway(self, only: Collection[str] | None = None) -> Gateway:
        """The gateway, to work on all controllers or on those named; InventoryError where one is not known."""
        return Gateway(self.controllers, self.store, self.raw["lock_directory"], only)


def dump(options: Mapping[str, Any]) -> bytes:
    """The file's content from a module's ``options``, with the controllers that ``only`` names if it names some.

    InventoryError lists everything that is wrong with them.
    """
    only = options.get("only")
    controllers = [one for one in options["controllers"] if only is None or one["name"] in only]
    parse_controllers(controllers, options["profiles"])
    data = {**{key: options[key] for key in _KEYS}, "controllers": controllers}
    return json.dumps(data, indent=2, sort_keys=True).encode() + b"\n"


def load(path: Path = PATH) -> Settings:
    """The settings in the file ``path``; CoreError where it is missing or damaged, InventoryError where it is wrong."""
    try:
        data = json.loads(path.read_bytes())
        return Settings(parse_controllers(data["controllers"], data["profiles"]), data)
    except OSError as error:
        raise CoreError(f"{path}: {error.strerror}; provision.yml writes it: run it for this gateway") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CoreError(f"{path}: damaged ({error!r}); run provision.yml for this gateway") from None
