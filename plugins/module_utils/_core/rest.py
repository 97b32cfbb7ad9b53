# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units brought to rest: before a gateway falls silent, which would stop them anyway, and in an emergency."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .device import Device
from .errors import CoreError, NoAnswer
from .gateway import Controller, Gateway, Result, by_line, open_line

_POLL = 0.1
_STOP_DEADLINE = 2.0


def bring_to_rest(gateway: Gateway, drain: str, deadline: float, check: bool = False) -> list[Result]:
    """See that no unit of any controller runs, so that nobody misses the gateway.

    ``drain``: what to do when some do: ``refuse``, ``wait`` for them up to ``deadline`` seconds, or ``stop`` them; with
    ``check`` only what ``refuse`` says is done. A controller that does not answer hears nothing from us already, nor
    does one on a line that is not there any more.
    """

    def work(controller: Controller, device: Device) -> Result:
        try:
            running = device.violations(controller.profile.drain.at_rest)
        except NoAnswer:
            return _result("does not answer, so that it misses nobody")
        if not running:
            return _result("at rest")
        if drain == "refuse":
            raise CoreError(f"units run ({'; '.join(running)}); stop them first, or have them drained: stop or wait")
        if check:
            return _result(f"would {drain}", changed=drain == "stop")
        if drain == "stop":
            device.require_fingerprint()
            _stop(device, keep_out=False)
            return _result("stopped", changed=True)
        _wait(device, deadline)
        return _result("came to rest")

    gone = {one.name for one in gateway.controllers if "://" not in one.line and not os.path.exists(one.line)}
    away = _result("its line is not there, so that it misses nobody")
    results = gateway.each(work, keep_alive=True)
    return [{**one, **away} if one["failed"] and one["name"] in gone else one for one in results]


def stop_all(gateway: Gateway) -> list[Result]:
    """Stop every unit of every controller at once and keep new starts out, whatever else goes wrong.

    All controllers are worked on at the same time: a silent one delays those of its line by single requests only.
    """
    results: dict[str, Result] = {}

    def stop(device: Device) -> None:
        place = {"name": device.name, "line": device.bus.line, "unit": device.unit}
        try:
            device.require_fingerprint()
            _stop(device, keep_out=True)
            results[device.name] = {**place, **_result("stopped, no start is accepted", changed=True)}
        except CoreError as error:
            results[device.name] = {**place, **_result(str(error), failed=True)}

    buses = []
    devices = []
    for members in by_line(gateway.controllers).values():
        try:
            buses.append(open_line(members))
            devices += [Device(one.name, one.unit, one.profile, buses[-1]) for one in members]
        except CoreError as error:
            results.update({one.name: {**one.place, **_result(str(error), failed=True)} for one in members})
    if devices:
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(stop, devices))
    for bus in buses:
        bus.close()
    return [results[one.name] for one in gateway.controllers]


def _stop(device: Device, keep_out: bool) -> None:
    """Stop, and keep starts out where that is wanted; CoreError unless the device proves both.

    What cannot be written must not keep the rest from being written, and what somebody starts meanwhile is stopped too.
    """
    drain = device.profile.drain
    inhibit = dict(drain.inhibit) if keep_out else {}
    problems: dict[str, None] = {}

    def write(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            try:
                device.write(name, value)
            except CoreError as error:
                problems[str(error)] = None

    write({**drain.stop, **inhibit})
    try:
        _wait(device, _STOP_DEADLINE, lambda: write(drain.stop))
        if device.differences(inhibit):
            raise CoreError("at rest, but starts are not kept out")
    except CoreError as error:
        raise CoreError("; ".join([str(error), *problems])) from None


def _wait(device: Device, seconds: float, again: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + seconds
    while running := device.violations(device.profile.drain.at_rest):
        if time.monotonic() > deadline:
            raise CoreError(f"still not at rest at the deadline ({'; '.join(running)}); stop it at the machine")
        time.sleep(_POLL)
        again()


def _result(message: str, changed: bool = False, failed: bool = False) -> Result:
    return {"changed": changed, "failed": failed, "msg": message}
