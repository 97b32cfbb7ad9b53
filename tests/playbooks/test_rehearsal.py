# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal on the site's twin, and the deployment that requires it."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _core import image
from _core.line import open_bus
from _core.operations import take_snapshots
from support.ansible import UNTOUCHED, VirtualSite
from support.releases import Publisher, verifier
from support.site import QUICK, entries, flash_of, gateway
from support.virtual import CACHE, Board, firmware

AMPLITUDE = 0x0101
# A window that is closed for the next days.
CLOSED = {
    "weekdays": [f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3):%a}".lower()],
    "start": "12:00",
    "end": "12:01",
    "timezone": "UTC",
}


@pytest.fixture
def twins() -> Iterator[Path]:
    """Where twins are built: pytest's directories are too long for their sockets."""
    directory = Path(tempfile.mkdtemp(prefix="twins-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def plant(tmp_path: Path, twins: Path) -> Iterator[VirtualSite]:
    """Two gateways with three controllers on 1.0.0, which take releases of a publisher if they were rehearsed.

    Of the mixers the gateway has a set, with an amplitude of mixer_1 that no board has by itself.
    """
    publisher = Publisher(tmp_path / "publisher")
    publisher.publish("1.1.0")
    gateways = {"gateway_a": [[Board("mixer_1", 2), Board("mixer_2", 3)]], "gateway_b": [[Board("press")]]}
    with VirtualSite(tmp_path, gateways) as site:
        for name in gateways:
            trust = tmp_path / name / "trust"
            trust.mkdir()
            shutil.copy(publisher.root, trust / "root.json")
            (trust / "verifier.pyz").write_bytes(verifier())
            for one in site.controllers[name]:
                one["cell"] = "pressing" if one["name"] == "press" else "mixing"
        site.variables |= {
            "controllers_repository": str(publisher.repository.directory),
            "controllers_trusted_root": str(publisher.root),
            "controllers_repository_cache": str(tmp_path / "cache"),
            "controllers_trust_directory": str(tmp_path / "{{ inventory_hostname }}" / "trust"),
            "controllers_allow_unsigned": False,
            "controllers_cell_default": {"min_in_service": 0},
            "controllers_approve_before": [2],
            "controllers_windows": [CLOSED],
            "controllers_require_rehearsal": True,
            "rehearsal_directory": str(twins),
            "rehearsal_fetch_sets": True,
            "rehearsal_firmware": str(firmware("1.0.0")),
            "firmware_trust_wheels": str(CACHE / "wheels"),
        }
        mixers = site.line("mixer_1")
        bus = open_bus(str(mixers.line))
        bus.write(2, AMPLITUDE, [77])
        bus.close()
        taken = take_snapshots(gateway(tmp_path / "gateway_a", entries(mixers)), True, QUICK, False)
        assert not [one["msg"] for one in taken if one["failed"]]
        mixers.control("line", "counters_reset")
        yield site


def test_what_was_rehearsed_is_deployed_and_nothing_else(plant: VirtualSite, twins: Path) -> None:
    # Backups that nothing here could take: the twin needs none.
    targets = [{"name": "vault", "repository": "/nowhere"}]
    run = plant.play("rehearse", firmware_version="1.1.0", backup_targets=targets)
    assert run.traffic == {**UNTOUCHED, "requests": 0}, "the real boards have noticed it"
    assert not list(twins.iterdir())
    assert run.controllers("restore")["mixer_1"]["written"] == ["sonicator1_amplitude"]
    kept = plant.control.directory / ".local/state/multi_sonicator"
    [result] = [json.loads(path.read_text()) for path in kept.glob("rehearsals/results/*.json")]
    assert result["outcome"] == "passed" and not result["problems"]
    release = image.digest(flash_of("1.1.0"))
    assert result["subject"]["images"] == dict.fromkeys(
        ("gateway_a/mixer_1", "gateway_a/mixer_2", "gateway_b/press"), release
    )
    [rollout, failure] = result["acts"]
    assert {one["status"] for one in rollout["controllers"].values()} == {"done"}
    assert failure["plan"] == rollout["plan"] and failure["injected"]["controller"] == "gateway_a/mixer_1"
    assert "verification failed" in failure["injected"]["failure"] and "back on 1.0.0" in failure["injected"]["end"]
    assert {one: end["status"] for one, end in failure["controllers"].items()} == {
        "gateway_a/mixer_1": "failed",
        "gateway_a/mixer_2": "pending",
        "gateway_b/press": "pending",
    }
    records = [json.loads(line) for line in (kept / "audit.jsonl").read_text().splitlines()]
    assert [record["what"] for record in records] == ["log_start", "rehearsal"]

    press = plant.controllers["gateway_b"][0]
    press["cell"] = "mixing"
    run = plant.play("deploy", check=True, code=2, firmware_version="1.1.0")
    assert "controllers changed: gateway_b/press: cell: mixing, rehearsed was pressing" in run.output
    assert "ansible-playbook multi_sonicator.ops.rehearse -i " in run.output
    press["cell"] = "pressing"
    plant.play("deploy", firmware_version="1.1.0", controllers_approved=["2"], controllers_windows=[])
    assert {image.digest(plant.flash(name)) for name in ("mixer_1", "mixer_2", "press")} == {release}
    assert plant.register("mixer_1", AMPLITUDE) == 77
    shutil.rmtree(kept / "rehearsals")
    assert not plant.play("deploy", check=True, firmware_version="1.1.0").changed


def test_a_release_that_does_not_come_up_fails_its_rehearsal(site: VirtualSite, twins: Path) -> None:
    """Without signatures or a second act, of a gateway that is out of reach; the twin stays where that is asked for."""
    site.variables |= {"controllers_firmware_version": "1.2.0", "controllers_require_rehearsal": True}
    run = site.play("rehearse", code=2, rehearsal_directory=str(twins))
    assert "no firmware to begin with is known of gateway/press" in run.output and not list(twins.iterdir())
    site.variables |= {"rehearsal_directory": str(twins), "rehearsal_firmware": str(firmware("1.1.0"))}
    run = site.play("rehearse", code=2, ansible_connection="ssh")
    assert "give connections, controllers, directories" in run.output and not list(twins.iterdir())
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": True}
    site.hosts["gateway"] = {**away, "ansible_become_user": "nobody", "ansible_python_interpreter": "/nowhere"}
    run = site.play("rehearse", code=2, rehearsal_keep="true", rehearsal_fetch_sets="true")  # as -e gives them
    site.hosts.clear()
    assert "rollout: gateway/press failed: 1.2.0 did not come up" in run.messages[-1]
    assert run.traffic == {**UNTOUCHED, "requests": 0}
    [twin] = twins.iterdir()
    assert image.digest((twin / "gateway/boards/press/flash.bin").read_bytes()) == image.digest(flash_of("1.1.0"))
    subprocess.run(
        [twin / "gateway/program/virtual_line", "--stop", twin / "gateway/control/line_1.pid"], check=True, timeout=30
    )
    run = site.play("deploy", code=2)
    assert "the rehearsal failed: rollout: gateway/press failed: 1.2.0 did not come up" in run.output
    assert run.traffic["writes"] == 0 and run.traffic["programmer_opened"] == 0
