# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do, each on all controllers of a gateway: one function a verb, one result a controller.

A result holds name, line, unit, changed, failed and msg, and what the verb adds. Everything that can be refused
without asking a device is refused for all controllers before the first byte is sent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from . import change, snapshot
from .approval import Act, Approval, NotApproved
from .change import Policy, Target, Transaction
from .device import Device
from .errors import CoreError, PortBusy, ProfileError
from .gateway import Controller, Gateway, Result
from .plan import Span
from .profile import Part, Point
from .programmer import Programmer
from .store import StoreError, age

# Seconds for which what is quickly done waits for whoever works on the same controller.
_PATIENCE = 5.0


def _result(**data: Any) -> Result:
    return {"changed": False, "failed": False, "msg": "", **data}


@contextlib.contextmanager
def _to_ourselves(
    gateway: Gateway, controller: Controller, hold: bool = True, patience: float = _PATIENCE
) -> Iterator[CoreError | None]:
    """Hold a controller, so that no firmware transaction begins; why not, where that cannot be: one is open, or begins.

    What is written before a transaction ends it silently puts back, and what is read may be what it has set itself.
    Without ``hold`` it is only looked at.
    """
    with contextlib.ExitStack() as held:
        obstacle: CoreError | None = _transaction(gateway, controller)  # whoever works on it holds it for long
        if not obstacle and hold:
            try:
                held.enter_context(gateway.store.exclusive(controller.name, patience))
                obstacle = _transaction(gateway, controller)
            except (PortBusy, StoreError) as error:
                obstacle = error
        yield obstacle


def _transaction(gateway: Gateway, controller: Controller) -> StoreError | None:
    try:
        journal = gateway.store.journal(controller.name)
    except StoreError as damaged:
        return damaged
    if not journal.is_open:
        return None
    begun = journal.steps[0]
    return StoreError(
        f"its firmware transaction {begun['transaction']} is under way or was cut off, and will put its settings back; "
        "wait for it, or run deploy.yml or rollback.yml, which finish it"
    )


# Registers


def read_registers(gateway: Gateway, names: Collection[str], spans: Collection[Span]) -> list[Result]:
    """Values of points (all readable ones where neither names nor spans are given) and raw registers by address."""

    def work(controller: Controller, device: Device) -> Result:
        chosen = list(names)
        if not chosen and not spans:
            chosen = [point.name for point in controller.profile.points.values() if point.readable]
        values = device.read(chosen)
        units = {name: controller.profile.point(name).unit for name in chosen}
        return _result(
            points=values,
            units={name: unit for name, unit in units.items() if unit},
            registers={f"0x{address:04X}": word for address, word in device.read_raw(spans).items()},
        )

    gateway.prepare(lambda controller: [controller.profile.point(name) for name in names])
    return gateway.each(work)


def write_registers(
    gateway: Gateway, desired: Mapping[str, Any], allowed: Collection[str], check: bool
) -> list[Result]:
    """Bring points to their desired values: those of the inventory's ``settings``, overridden by ``desired``."""

    def wanted(controller: Controller) -> dict[str, Any]:
        values = {**controller.settings, **desired}
        order = {point.name: place for place, point in enumerate(controller.profile.restorable)}
        return dict(sorted(values.items(), key=lambda item: order.get(item[0], len(order))))

    def admit(controller: Controller) -> None:
        for name, value in wanted(controller).items():
            _require_writable(controller.profile.point(name), allowed)
            controller.profile.point(name).encode(value)
        act = register_act(controller, wanted(controller))
        if act:
            gateway.approvals.require(act, unused=False)  # it may be done already

    def work(controller: Controller, device: Device) -> Result:
        values = wanted(controller)
        stops = {name for name, value in values.items() if controller.profile.stops(name, value)}
        # Nothing is made on a gateway that keeps nothing of the controller. Stopping waits for nobody.
        hold = not check and gateway.store.controller(controller.name).is_dir()
        with _to_ourselves(gateway, controller, hold, patience=0 if stops else _PATIENCE) as obstacle:
            if obstacle and not stops:
                raise obstacle
            return write(controller, device, values, stops, obstacle)

    def write(
        controller: Controller, device: Device, values: Mapping[str, Any], stops: set[str], obstacle: CoreError | None
    ) -> Result:
        act = register_act(controller, values)
        approval: Approval | None = None
        blind = {name: value for name, value in values.items() if not controller.profile.point(name).readable}
        seen = {name: value for name, value in values.items() if name not in blind}
        before = device.read(list(seen))
        differing = [*device.differences(seen), *blind]
        written = [name for name in differing if name in stops or not obstacle]
        after = {**before, **{name: _told(controller, name, seen[name]) for name in written if name in seen}}
        verb = "would write" if check else "wrote"
        if written:
            device.require_fingerprint()
            if act and not set(written).isdisjoint(act.what["values"]):
                approval = gateway.approvals.require(act) if check else gateway.approvals.use(act)
            if not check:
                for name in written:
                    device.write(name, values[name])
                after = device.read(list(seen))
        message = f"{verb} {', '.join(written)}{_by(approval)}" if written else "as desired"
        left = [name for name in differing if name not in written]
        if left:
            message = f"{f'{message}, but' if written else ''} {', '.join(left)} not: {obstacle}".strip()
        return _result(
            changed=bool(written),
            failed=bool(left),
            before=before,
            after=after,
            written=written,
            msg=message,
            **_approved(approval),
        )

    gateway.prepare(admit)
    return gateway.each(work)


def register_act(controller: Controller, values: Mapping[str, Any]) -> Act | None:
    """What of writing ``values`` several people may have to approve; None where it is nothing. Stopping never is."""
    points = {name: controller.profile.point(name) for name in values}
    grave = {
        name: _told(controller, name, values[name]) for name in values if points[name].needs_approval(values[name])
    }
    if not grave:
        return None
    label = f"writing {', '.join(f'{name} = {value}' for name, value in grave.items())}"
    return Act("registers", controller.name, {**_bound(controller), "values": grave}, label)


def firmware_act(controller: Controller, target: Target) -> Act | None:
    """The same of bringing a controller to ``target``."""
    if target.signed:
        return None
    what = {"programmer": controller.programmer, "image": target.digest, "version": target.version}
    return Act("firmware", controller.name, {**_bound(controller), **what}, f"flashing the unsigned {target.label}")


def _bound(controller: Controller) -> Result:
    """What tells a controller, and what its registers mean, to those who approve something for it."""
    return {"line": controller.line, "unit": controller.unit, "profile": controller.profile.digest}


def _by(approval: Approval | None) -> str:
    return f" ({approval})" if approval else ""


def _approved(approval: Approval | None) -> Result:
    return {"approval": approval.told} if approval else {}


def _told(controller: Controller, name: str, value: object) -> Any:
    """``value`` as a read would tell it, so that a diff shows no difference of notation."""
    point = controller.profile.point(name)
    return point.decode(point.encode(value))


def _require_writable(point: Point, allowed: Collection[str]) -> None:
    if not point.writable:
        raise ProfileError(f"{point.name} is read-only")
    if point.safety in ("command", "emergency") and point.name not in allowed:
        raise ProfileError(f"{point.name} is of class {point.safety}; name it in allow if this is what you want")


# Firmware


def identify(gateway: Gateway, read_chip: bool, policy: Policy, check: bool) -> list[Result]:
    """Version, uptime and health over the line, the gateway's record beside them; the chip itself on request."""

    def work(controller: Controller, device: Device) -> Result:
        result = _result()
        if read_chip:
            result.update(_transact(gateway, controller, device, Target("reading"), policy, check))
        identity = device.identity()
        record = gateway.store.record(controller.name)
        images = record.get("images") or {}
        journal = gateway.store.journal(controller.name)
        unhealthy = device.violations(controller.profile.health)
        result.update(
            version=identity.version,
            uptime=identity.uptime,
            healthy=not unhealthy,
            health=unhealthy,
            at_rest=not device.violations(controller.profile.drain.at_rest),
            profile=controller.profile.name,
            fingerprint=device.violations(controller.profile.fingerprint),
            last_reading=_last_reading(record, identity.version) if images else None,
            open_transaction=journal.steps[0]["transaction"] if journal.steps else None,
            last_transaction=gateway.store.last_transaction(controller.name) or None,
        )
        if images and controller.profile.part:
            result["last_reading"]["fuses"] = _fuses(controller.profile.part, images["fuses"])
        return result

    if read_chip:
        gateway.prepare(_require_programmer)
    return gateway.each(work, keep_alive=read_chip)


def _last_reading(record: Mapping[str, Any], version: str | None) -> Result:
    images = record["images"]
    return {
        "flash": images["flash"],
        "eeprom": images["eeprom"],
        "signature": images["signature"],
        "time": images["read"],
        "age": age(images["read"]),
        "proof": record["proof"],
        "programmer": record["programmer"],
        "current": record["version"] == version,
    }


def _fuses(part: Part, fuses: Mapping[str, int]) -> Result:
    return {
        name: {
            "value": f"0x{value:02X}",
            "programmed": [symbol for symbol, bit in part.fuses[name].bits.items() if not value >> bit & 1],
            "wanted": f"0x{part.fuses[name].wanted:02X}",
            "accepted": value in part.fuses[name].accepted,
        }
        for name, value in fuses.items()
        if name in part.fuses
    }


def change_firmware(
    gateway: Gateway, targets: Mapping[str, Target], policy: Policy, max_failures: int, check: bool
) -> list[Result]:
    """Bring each controller to its target of ``targets``.

    None is begun any more after ``max_failures`` failures, or when who watches the gateway's progress says stop.
    """
    failures = 0

    def admit(controller: Controller) -> None:
        part = _require_programmer(controller)
        target = targets[controller.name]
        size = len(target.flash or b"")
        if size > part.flash:
            raise CoreError(f"image {target.label} has {size} bytes, the flash of {part.avrdude} {part.flash}")
        if target.eeprom is not None and len(target.eeprom) > part.eeprom:
            raise CoreError(f"EEPROM of {target.label} has {len(target.eeprom)} bytes, {part.avrdude} {part.eeprom}")
        if wrong := part.fuse_violations(target.fuses):
            raise CoreError(f"fuses of {target.label} violate the profile's policy: {'; '.join(wrong)}")

    def work(controller: Controller, device: Device) -> Result:
        nonlocal failures
        if failures >= max_failures:
            return _result(outcome="skipped", msg=f"not begun after {failures} failed on this gateway", skipped=True)
        if gateway.progress.stop_wanted():
            return _result(outcome="skipped", msg="not begun, since the rollout was stopped", skipped=True)
        try:
            result = _transact(gateway, controller, device, targets[controller.name], policy, check)
        except CoreError:
            failures += 1
            raise
        failures += result["failed"]
        if not check and result["outcome"] in ("deployed", "restored", "rolled_back"):
            with contextlib.suppress(CoreError):  # what was proven stays so, though nobody can tell more of it now
                result["content"] = snapshot.from_line(device, gateway.store)
        return {**result, "image": targets[controller.name].digest}

    gateway.prepare(admit)
    return gateway.each(work, keep_alive=not check)


def _require_programmer(controller: Controller) -> Part:
    if controller.profile.part is None:
        raise CoreError(f"profile {controller.profile.name} describes no part, so nothing can be flashed")
    if controller.programmer is None:
        raise CoreError("no programmer in the inventory; add the port of its ArduinoISP as programmer")
    return controller.profile.part


def _transact(
    gateway: Gateway, controller: Controller, device: Device, target: Target, policy: Policy, check: bool
) -> Result:
    part = _require_programmer(controller)
    programmer = Programmer(
        controller.programmer or "",
        part,
        gateway.store.controller(controller.name) / "scratch",
        gateway.lock_directory,
        policy.programmer_deadline,
    )
    approval: Approval | None = None

    def permit() -> Result | None:
        nonlocal approval
        act = firmware_act(controller, target)
        try:
            if act:
                approval = gateway.approvals.require(act) if check else gateway.approvals.use(act)
        except NotApproved as refusal:
            raise change.Refused(str(refusal)) from None
        return approval.told if approval else None

    started = time.monotonic()
    try:
        outcome = Transaction(device, part, programmer, gateway.store, target, policy, gateway.progress, permit).run(
            check
        )
    except change.Refused as refusal:
        outcome = change.Outcome("refused", str(refusal), failed=True)
    gateway.progress.tell(controller.name, outcome.outcome, failed=outcome.failed, message=outcome.message)
    return _result(
        outcome=outcome.outcome,
        msg=f"{outcome.message}{_by(approval)}",
        changed=outcome.changed,
        failed=outcome.failed,
        before=outcome.before,
        after=outcome.after or outcome.before,
        settings_restored=outcome.settings,
        set=outcome.set,
        transaction=outcome.transaction,
        seconds=round(time.monotonic() - started, 2),
        **_approved(approval),
    )


# Approvals


def request_approval(
    gateway: Gateway, desired: Mapping[str, Any], targets: Mapping[str, Target], reason: str, hours: float
) -> Result:
    """A request to approve the writing of ``desired`` on all controllers, or their ``targets``, for so many hours."""

    def act(controller: Controller) -> Act | None:
        if controller.name in targets:
            return firmware_act(controller, targets[controller.name])
        for name, value in desired.items():
            _require_writable(controller.profile.point(name), desired)
            controller.profile.point(name).encode(value)
        return register_act(controller, {**controller.settings, **desired})

    acts = [act for act in gateway.prepare(act).values() if act]
    if not acts:
        raise CoreError(
            "nothing of this needs approval: only values of class emergency do that do not stop, and releases that "
            "nobody has signed; no request was made"
        )
    request = gateway.approvals.request(acts, reason, hours)
    said = "; ".join(f"{act.controller}: {act.label}" for act in acts)
    return {
        "changed": True,
        "request": request,
        "needed": gateway.approvals.needed,
        "msg": f"asked on {request['gateway'].split()[0]} until {request['expires']} for {said}",
    }


def show_approvals(gateway: Gateway) -> Result:
    """Every request that is offered, and what this gateway thinks of it."""
    approvers = gateway.approvals.approvers()
    requests = gateway.approvals.describe()
    who = f"{', '.join(approvers)} may approve" if approvers else "nothing needs approval here"
    return {
        "changed": False,
        "requests": requests,
        "needed": gateway.approvals.needed,
        "approvers": approvers,
        "msg": "\n".join(
            [
                f"{gateway.approvals.approvers_file}: {who}",
                *(_standing(one) for one in requests if not one["elsewhere"]),
            ]
        ),
    }


def _standing(request: Mapping[str, Any]) -> str:
    if request["wrong"]:
        return f"{request['file']}: {request['wrong']}"
    used = f", used for {', '.join(request['used_for'])}" if request["used_for"] else ""
    signed = f"signed by {', '.join(request['by']) or 'nobody'}"
    missing = f", {request['missing']} missing" if request["missing"] else ""
    names = ", ".join(request["controllers"])
    return f"{request['file']}: {request['act']} of {names}, {request['reason']}: {signed}{missing}{used}"


# Snapshots


def take_snapshots(gateway: Gateway, read_chip: bool, policy: Policy, check: bool) -> list[Result]:
    """Keep a set of each controller, over the line or, on request and at rest, with its chip read now."""

    def work(controller: Controller, device: Device) -> Result:
        device.require_fingerprint()
        ids = gateway.store.set_ids(controller.name)
        if read_chip:
            transaction = _transact(gateway, controller, device, Target("reading"), policy, check)
            if transaction["failed"]:
                return transaction
        with contextlib.ExitStack() as held:
            # Whoever only looks, as for drift, keeps nothing that could be taken for the controller's settings later.
            if not check and (obstacle := held.enter_context(_to_ourselves(gateway, controller))):
                raise obstacle
            kept, _new = snapshot.keep(gateway.store, snapshot.from_line(device, gateway.store), check)
        is_new = kept["id"] not in ids
        verb = ("would keep" if check else "kept") if is_new else "already kept as"
        return _result(changed=is_new, set=kept["id"], content=kept, msg=f"{verb} {kept['id']}")

    if read_chip:
        gateway.prepare(_require_programmer)
    return gateway.each(work, keep_alive=read_chip)


def restore_settings(gateway: Gateway, wanted: str, check: bool, names: Sequence[str] = ()) -> list[Result]:
    """Put settings of a set back, all or those of ``names``, and tell what else of the controller differs from it."""

    def choose(controller: Controller) -> snapshot.Set:
        chosen = snapshot.find(gateway.store, controller.name, wanted)
        if unknown := [name for name in names if name not in chosen["settings"]]:
            raise StoreError(
                f"set {chosen['id']} has no setting {', '.join(unknown)} (it has {', '.join(chosen['settings'])})"
            )
        for name, value in chosen["settings"].items():
            controller.profile.point(name).encode(value)
        return chosen

    def work(controller: Controller, device: Device) -> Result:
        with _to_ourselves(gateway, controller, hold=not check) as obstacle:
            if obstacle:
                raise obstacle
            return put_back(controller, device)

    def put_back(controller: Controller, device: Device) -> Result:
        chosen = sets[controller.name]
        device.require_fingerprint()
        before = device.settings()
        settings = {name: chosen["settings"][name] for name in names or chosen["settings"]}
        differing = list(device.differences(settings))
        after = {**before, **{name: settings[name] for name in differing}}
        if differing and not check:
            snapshot.restore(device, settings)
            after = device.settings()
        elsewhere = snapshot.elsewhere(device, gateway.store, chosen)
        verb = "would put back" if check else "put back"
        return _result(
            changed=bool(differing),
            set=chosen["id"],
            before=before,
            after=after,
            written=differing,
            differs=elsewhere,
            msg=(f"{verb} {', '.join(differing)}" if differing else "settings are those of the set")
            + "".join(f"; {reason}" for reason in elsewhere),
        )

    sets = gateway.prepare(choose)
    return gateway.each(work)
