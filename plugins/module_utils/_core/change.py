# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transaction that replaces a controller's firmware.

Look → begin → drain → read the chip and keep a set → write and verify → prove a new boot → health → restore settings →
compare → release. On failure the previous image, EEPROM and settings go back. Every step is in the journal before it is
done, so that a run that dies anywhere is finished or undone by the next one:

* nothing programmed yet: starts are allowed again, or the transaction goes on; garbled answers are no silence;
* programming begun: the board may be held in reset, so silence counts as being at rest;
* ``written``: the flash was verified, what is left goes over the line alone;
* ``back``: the way back is finished, never turned round again.

Units that run are never touched but by the drain policy, in whichever phase, since somebody may have started them
between two runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import image, snapshot
from .device import Device, DeviceError, Identity
from .errors import CoreError, ExceptionAnswer, NoAnswer
from .profile import Part, Value
from .programmer import Programmer, Readback
from .progress import Progress
from .store import Journal, Store, StoreError, now

_POLL = 0.25
_WAY_BACK_ATTEMPTS = 3


class Refused(CoreError):
    """The controller is not in a state in which policy allows to work on it. Nothing was changed."""


@dataclass(frozen=True)
class Target:
    """What a controller should run.

    ``version`` is None where nobody knows it. ``eeprom`` and ``settings`` come from the ``set`` of that id; None keeps
    what is there. ``label`` names the target for people: ``1.1.0``, ``set 2026...``. Without ``flash`` the chip is only
    read, which resets the controller as much as writing does and therefore takes the same way. ``fuses`` are those that
    the chip has to have within the profile's policy. ``signed`` is whether who made it vouches for it.
    """

    label: str
    flash: bytes | None = None
    version: str | None = None
    eeprom: bytes | None = None
    settings: Mapping[str, Any] | None = None
    set: str | None = None
    fuses: Mapping[str, int] = field(default_factory=dict)
    signed: bool = True

    @property
    def digest(self) -> str | None:
        return None if self.flash is None else image.digest(self.flash)

    @property
    def eeprom_digest(self) -> str | None:
        return None if self.eeprom is None else hashlib.sha256(self.eeprom).hexdigest()

    def eeprom_differs(self, kept: str | None) -> bool:
        """Whether the EEPROM should be another than the one kept under this digest."""
        return self.eeprom is not None and self.eeprom_digest != kept


@dataclass(frozen=True)
class Policy:
    """What the caller decides; times in seconds, None takes the profile's.

    ``drain``: what to do when units run: ``refuse``, ``wait`` until they stop by themselves, or ``stop`` them.
    ``flash_silent``: go on with a controller that does not answer at all, whose state can then not be kept.
    ``read_chip``: go by what the chip holds now, not by what was last read from it, which may have been another chip.
    ``write_fuses``: write the target's fuses where the chip has others, as one does that has replaced another.
    ``other_run_deadline``: how long to wait for another run on the same controller, such as one whose caller died.
    """

    drain: str = "refuse"
    drain_deadline: float = 600.0
    soak: float | None = None
    boot_deadline: float | None = None
    programmer_deadline: float | None = None
    rollback: bool = True
    flash_silent: bool = False
    read_chip: bool = False
    write_fuses: bool = False
    other_run_deadline: float = 300.0


@dataclass
class Outcome:
    """How a transaction ended.

    ``outcome``: unchanged, read, restored, deployed, rolled_back, refused, failed, or in check mode would_read,
    would_restore, would_deploy and would_resume. ``before`` and ``after`` hold version and digest of the firmware.
    """

    outcome: str
    message: str
    changed: bool = False
    failed: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    set: str | None = None
    transaction: str | None = None


class Transaction:
    """Brings one controller to ``target`` under ``policy``. ``run`` is called once.

    ``permit`` is called when all is ready for another firmware to be written, or would be, and raises Refused where
    that is not to happen; it returns what the journal is to keep of it. An interrupted transaction was permitted when
    it began.
    """

    def __init__(
        self,
        device: Device,
        part: Part,
        programmer: Programmer,
        store: Store,
        target: Target,
        policy: Policy,
        progress: Progress | None = None,
        permit: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self.device = device
        self.part = part
        self.programmer = programmer
        self.store = store
        self.target = target
        self.policy = policy
        self.progress = progress or Progress()
        self.permit = permit
        self.journal: Journal = store.journal(device.name)
        self._seen_silent = False
        self._programmed_at = time.monotonic()
        programmer.tick = self._watch

    # The way through

    def run(self, check: bool = False) -> Outcome:
        """Do it, or with ``check`` say what would be done, over the line alone."""
        if check:
            return self._preview()
        with self.store.exclusive(self.device.name, self.policy.other_run_deadline, self._tell_other_run):
            self.journal = self.store.journal(self.device.name)
            if self.journal.steps:
                ended = self._resume()
                if ended:
                    return ended
            return self._forward()

    def _tell_other_run(self, who: str) -> None:
        self.progress.tell(self.device.name, f"waiting for another run ({who})")

    def _preview(self) -> Outcome:
        if self.journal.steps:
            begun = self.journal.steps[0]
            return Outcome(
                "would_resume",
                f"would finish or undo transaction {begun['transaction']} of {begun['time']}",
                changed=True,
                before=begun["before"],
                transaction=begun["transaction"],
            )
        before, settings = self._look()
        differing = self._differing(settings)
        known = self._up_to_date(before)
        if known and not self.policy.read_chip:
            if differing:
                self._require_drained_or_drainable()
                return Outcome("would_restore", "would put settings back", True, before=before, settings=differing)
            return Outcome("unchanged", self._basis(before), before=before, after=before)
        self._require_drained_or_drainable()
        if known or self.target.flash is None:
            return Outcome("would_read", "would read the chip", before=before, after=before)
        self.permit()
        after = {"version": self.target.version, "digest": self.target.digest}
        return Outcome("would_deploy", f"would go to {self.target.label}", True, before=before, after=after)

    def _resume(self) -> Outcome | None:
        """Deal with an interrupted transaction; None when a new one may begin or this one goes on."""
        if self.journal.last("end"):
            self.journal.close()
            return None
        begun = self.journal.steps[0]
        back = self.journal.last("back")
        # An older run wrote no EEPROM down; a set says which one it is.
        wanted = {"digest": self.target.digest, "set": self.target.set, "eeprom": self.target.eeprom_digest}
        same = self.target.flash is not None and {**wanted, **begun["target"]}.items() >= wanted.items()
        if not back and same:
            return None
        if back:
            ended = self._back(back["reason"])
        else:
            ended = self._undo(
                f"the run to {begun['target']['label']} was interrupted, and something else is wanted now"
            )
        return ended if same or self.journal.steps else None

    def _forward(self) -> Outcome:
        try:
            if not self.journal.steps:
                ended = self._open()
                if ended:
                    return ended
            with contextlib.nullcontext() if self.journal.last("written") else self.programmer.held():
                return self._replace()
        except Refused as refusal:
            if self.journal.last("write"):
                # No fault of the new firmware: whoever started a unit between two runs decides when this one goes on.
                return self._pending(str(refusal), self.journal.steps[0])
            return self._undo(str(refusal), "refused")
        except CoreError as error:
            return self._undo(str(error))

    def _open(self) -> Outcome | None:
        """Read the truth and begin; an outcome where nothing is left to do."""
        before, settings = self._look()
        if self._up_to_date(before) and not self.policy.read_chip:
            differing = self._differing(settings)
            if not differing:
                return Outcome("unchanged", self._basis(before), before=before, after=before)
            self._require_drained_or_drainable()
            self._bring_to_rest()
            written = snapshot.restore(self.device, self.target.settings or {})
            return Outcome(
                "restored", f"put back {', '.join(written)}", True, before=before, after=before, settings=written
            )
        self.programmer.check()
        self._require_drained_or_drainable()
        approval = self.permit() if self.target.flash is not None else None
        self._step(
            "begin",
            transaction=f"{now().replace('-', '').replace(':', '')}-{uuid.uuid4().hex[:6]}",
            controller=self.device.name,
            target={
                "label": self.target.label,
                "version": self.target.version,
                "digest": self.target.digest,
                "set": self.target.set,
                "eeprom": self.target.eeprom_digest,
            },
            before=before,
            settings=settings,
            healthy=settings is not None and not self.device.violations(self.device.profile.health),
            approval=approval,
        )
        return None

    def _replace(self) -> Outcome:
        """All steps from drain to release, without those that the journal shows as done."""
        begun = self.journal.steps[0]
        self._drain()
        # Until the chip is erased its firmware may go on writing its EEPROM: what another run read is too old then.
        touched = self.journal.last("write") or self.journal.last("written")
        saved = (self.journal.last("saved") if touched else None) or self._save(begun)
        flash = self.target.flash
        differs = saved["flash"] != self.target.digest or self.target.eeprom_differs(saved["eeprom"])
        changed = flash is not None and differs
        written = self.journal.last("written")
        if not written:
            if flash is not None and changed:
                eeprom = self.target.eeprom
                if eeprom is None and not self.part.keeps_eeprom(saved["fuses"]):
                    eeprom = self.store.get(saved["eeprom"])
                self._write(flash, eeprom, saved, self.target.version)
            else:
                self._step("written", digest=saved["flash"])
        wanted = {**(begun["settings"] or {}), **(self.target.settings or {})}  # a set of a silent one tells none
        after, restored = self._prove(self.target.version, wanted, fresh=not written)
        was, told = begun["before"]["version"] or "unknown", after["version"] or self.target.label
        if changed or self.journal.last("fuses"):
            changed = True
            outcome, message = "deployed", f"{was} → {told}, proven on the device"
        elif any((begun["settings"] or {}).get(name) != value for name, value in (self.target.settings or {}).items()):
            changed = True
            outcome, message = (
                "restored",
                f"the chip was read and holds {told}, settings are those of {self.target.label}",
            )
        else:
            outcome = "read" if flash is None else "unchanged"
            message = f"the chip was read and holds {told}, settings are back"
        return self._end(
            Outcome(
                outcome,
                message,
                changed,
                before=begun["before"],
                after=after,
                settings=restored,
                set=saved["set"],
            )
        )

    def _undo(self, reason: str, outcome: str = "failed") -> Outcome:
        """Leave the controller as it was before the transaction."""
        if not self.journal.steps:
            return Outcome(outcome, reason, failed=True)
        if self.journal.last("write"):
            if not self.policy.rollback and not self.journal.last("back"):
                return self._end(Outcome("failed", f"{reason}; rollback is switched off", True, True))
            return self._back(reason)
        begun = self.journal.steps[0]
        try:
            if self.journal.last("read"):
                # Reading the chip has reset it: its settings are gone, and an ended avrdude leaves it in reset.
                with self.programmer.held():
                    if not self.device.wait_for_answer(self._boot_deadline):
                        self.programmer.release()
                    self._drain()
                    self._prove_before(begun, fresh=False, soak=0)
            elif self.journal.last("drain") and begun["settings"] is not None:
                self.device.require_fingerprint()
                drain = self.device.profile.drain
                if self.device.differences(drain.inhibit) and not self.device.violations(drain.at_rest):
                    # What kept starts out has gone: it has lost power meanwhile, and its settings with it.
                    snapshot.restore(self.device, begun["settings"], drain.inhibit)
                self._release(begun["settings"])
        except CoreError as error:
            return self._pending(f"{reason}; and then, on the way to its state before: {error}", begun)
        return self._end(
            Outcome(outcome, f"{reason}; the firmware was not touched", failed=True, before=begun["before"])
        )

    def _back(self, reason: str) -> Outcome:
        """Put the previous image, EEPROM and settings back; rolled_back is a failure that left a working controller."""
        begun = self.journal.steps[0]
        saved = self.journal.last("saved") or {}
        error: CoreError | None = None
        label = begun["target"]["label"]
        for _attempt in range(_WAY_BACK_ATTEMPTS):
            try:
                if not self.journal.last("back"):
                    self._step("back", reason=reason)
                with self.programmer.held():
                    self._drain(going_back=True)
                    written = self._written_back()
                    if not written:
                        flash, eeprom = self.store.get(saved["flash"]), self.store.get(saved["eeprom"])
                        self._write(flash, eeprom, saved, begun["before"]["version"])
                    after, restored = self._prove_before(begun, fresh=not written)
                return self._end(
                    Outcome(
                        "rolled_back",
                        f"{label} did not come up ({reason}); back on {after['version'] or 'the previous image'}",
                        True,
                        True,
                        before=begun["before"],
                        after=after,
                        settings=restored,
                        set=saved["set"],
                    )
                )
            except Refused as refusal:
                return self._pending(f"{reason}; the way back has to wait: {refusal}", begun)
            except CoreError as problem:
                error = problem
                if self._written_back():
                    with contextlib.suppress(StoreError):  # then what is there is proven once more
                        self._step("back", reason=reason)
        return self._pending(f"{reason}; and the way back failed {_WAY_BACK_ATTEMPTS} times: {error}", begun)

    def _written_back(self) -> bool:
        """Whether the way back has its image in the flash already."""
        newest_first = [entry["step"] for entry in reversed(self.journal.steps)]
        return "back" in newest_first and "written" in newest_first[: newest_first.index("back")]

    def _pending(self, message: str, begun: Mapping[str, Any]) -> Outcome:
        return Outcome(
            "failed",
            f"{message}. The transaction stays open: mend the cause and run again, that finishes it",
            changed=True,
            failed=True,
            before=dict(begun["before"]),
            transaction=begun["transaction"],
        )

    def _end(self, outcome: Outcome) -> Outcome:
        outcome.transaction = self.journal.steps[0]["transaction"]
        self._step("end", outcome=outcome.outcome, message=outcome.message, after=outcome.after)
        with contextlib.suppress(StoreError):  # it has ended, and the next run moves its journal
            self.journal.close()
        return outcome

    # Steps

    def _step(self, step: str, **data: Any) -> None:
        """Write a step down before it is done."""
        self.journal.append(step, **data)
        if step != "end":  # told with its outcome, by whoever called
            self.progress.tell(self.device.name, step)

    def _look(self) -> tuple[dict[str, Any], dict[str, Value] | None]:
        """Version, digest and settings as they are; no settings of a controller that may be flashed though silent."""
        record = self.store.record(self.device.name)
        digest = (record.get("images") or {}).get("flash")
        if not self.device.wait_for_answer(0.5) and self._hears_nobody():
            if not self.policy.flash_silent:
                raise Refused(
                    "does not answer, so that its state can neither be known nor kept; check power, "
                    "wiring and unit, or allow to flash silent controllers"
                )
            return {"version": None, "digest": None}, None  # whatever it should hold, it does not work
        self.device.require_fingerprint()
        version = self.device.identity().version
        if version is not None and record.get("version") != version:
            digest = None  # somebody else has flashed since the last reading
        return {"version": version, "digest": digest}, self.device.settings()

    def _up_to_date(self, before: Mapping[str, Any]) -> bool:
        record = self.store.record(self.device.name)
        if record.get("writing"):
            return False  # a writing that failed, whatever the device tells
        if self.target.eeprom_differs((record.get("images") or {}).get("eeprom")):
            return False
        if before["digest"]:
            same_version = self.target.version in (None, before["version"]) or before["version"] is None
            return bool(before["digest"] == self.target.digest and same_version)
        return before["version"] is not None and before["version"] == self.target.version

    def _basis(self, before: Mapping[str, Any]) -> str:
        told = f"the device tells {before['version']}" if before["version"] else "the device tells no version"
        record = self.store.record(self.device.name)
        if before["digest"]:
            return f"{told}, {record['proof']} at {record['images']['read']}"
        return f"{told}, its flash was never read by this gateway"

    def _differing(self, settings: Mapping[str, Value] | None) -> list[str]:
        """Settings of a set as target that differ from what is there."""
        if settings is None or self.target.settings is None:
            return []
        return list(self.device.differences(self.target.settings))

    def _require_drained_or_drainable(self) -> None:
        """Refused where the drain policy would not let the transaction begin. Looks only."""
        if self._hears_nobody():
            return
        drain = self.device.profile.drain
        forbidden = self.device.violations(drain.permitted)
        if forbidden:
            raise Refused(f"{'; '.join(forbidden)}; a person has to clear that first")
        running = self.device.violations(drain.at_rest)
        if running and self.policy.drain == "refuse":
            raise Refused(
                f"not at rest ({'; '.join(running)}) and the drain policy is refuse; "
                "stop its units, or choose wait or stop"
            )

    def _drain(self, going_back: bool = False) -> None:
        """Keep new starts out and wait until nothing runs."""
        if not self.journal.last("drain"):
            self._step("drain", policy=self.policy.drain)
        if self._hears_nobody():
            if self.journal.last("read") or self.policy.flash_silent:
                return
            raise Refused("has stopped answering; nothing was changed")
        if going_back and not self._is_known():
            return  # another map than the profile's: nothing can be asked, and nothing was released since its boot
        self.device.require_fingerprint()
        self._require_drained_or_drainable()
        self._inhibit()
        self._bring_to_rest()

    def _hears_nobody(self) -> bool:
        """Whether there is nobody to drain. Refused where answers are garbled: whoever gives them may be at work.

        Once programming has begun the board may be held in reset, and what comes back is noise.
        """
        heard = self.device.unanswered()
        if heard is None or isinstance(heard, NoAnswer) or self.journal.last("write"):
            return heard is not None
        raise Refused(
            f"its answers are garbled, so that nobody can tell whether its units run ({heard}); look for a second "
            "controller with this unit, a second master on the line, and the line's baud rate and wiring"
        )

    def _bring_to_rest(self) -> None:
        """Stop the units or wait for them, as the drain policy says."""
        drain = self.device.profile.drain
        if self.policy.drain == "stop" and self.device.violations(drain.at_rest):
            for name, value in drain.stop.items():
                self.device.write(name, value)
        deadline = time.monotonic() + (self.policy.drain_deadline if self.policy.drain == "wait" else 2)
        while running := self.device.violations(drain.at_rest):
            if time.monotonic() > deadline:
                raise Refused(f"still not at rest at the deadline ({'; '.join(running)})")
            time.sleep(_POLL)

    def _is_known(self) -> bool:
        try:
            return not self.device.violations(self.device.profile.fingerprint)
        except ExceptionAnswer:
            return False

    def _inhibit(self) -> None:
        for name, value in self.device.profile.drain.inhibit.items():
            self.device.write(name, value)

    def _save(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """Read the chip and keep the one set of this transaction."""
        self._step("read")
        self._programmed_at = time.monotonic()
        readback = self._with_fuses(self.programmer.read())
        images = snapshot.images_of(self.store, readback)
        self._record(begun["before"]["version"], images, "read back")
        kept, _new = snapshot.keep(
            self.store, snapshot.compose(self.device, begun["before"]["version"], begun["settings"] or {}, images)
        )
        self._step("saved", set=kept["id"], **images)
        if begun["settings"] is not None and self.device.wait_for_answer(self._boot_deadline):
            self._require_new_boot(self.device.identity())
            # The board has booted with its defaults, starts allowed: close that door again before the writing call.
            self._drain()
        return self.journal.last("saved") or {}

    def _with_fuses(self, readback: Readback) -> Readback:
        """What was read, with the fuses that the chip has to have, which it may be given."""
        wrong = {name: value for name, value in self.target.fuses.items() if readback.fuses[name] != value}
        if wrong and self.policy.write_fuses:
            self._step("fuses", before=readback.fuses, wanted=wrong)
            self.programmer.write_fuses(wrong)
            return replace(readback, fuses={**readback.fuses, **wrong})
        violations = self.part.fuse_violations(readback.fuses)
        if violations:
            raise DeviceError(f"fuses violate the profile's policy: {'; '.join(violations)}")
        for name, value in wrong.items():
            raise DeviceError(
                f"fuse {name} is 0x{readback.fuses[name]:02X}, {self.target.label} needs 0x{value:02X}; choose another "
                "target, or set it: restore.yml -e scope=controller -e recovery_replaced=true does"
            )
        return readback

    def _write(self, flash: bytes, eeprom: bytes | None, saved: Mapping[str, Any], version: str | None) -> None:
        digest = image.digest(flash)
        self.store.put(flash)
        self._step("write", digest=digest)
        # From here on nobody knows what the flash holds, also where this transaction ends without putting it back.
        self.store.save_record(self.device.name, {"version": None, "writing": digest})
        self._programmed_at = time.monotonic()
        self._seen_silent = False
        self.programmer.write(flash, eeprom, keep_erased=not self.part.keeps_eeprom(saved["fuses"]))
        images = {key: saved[key] for key in ("fuses", "signature")}
        kept = self.store.put(eeprom) if eeprom is not None else saved["eeprom"]
        self._record(version, {"flash": digest, "eeprom": kept, **images, "read": now()}, "written and verified")
        self._step("written", digest=digest)

    def _record(self, version: str | None, images: Mapping[str, Any], proof: str) -> None:
        record = {"version": version, "proof": proof, "programmer": self.programmer.port, "images": dict(images)}
        self.store.save_record(self.device.name, record)

    def _prove(
        self,
        version: str | None,
        settings: Mapping[str, Any],
        fresh: bool,
        soak: float | None = None,
        healthy: bool = True,
    ) -> tuple[dict[str, Any], list[str]]:
        """What makes a written chip a working controller: boot, health, settings.

        Returns its firmware and the names of the settings restored.
        """
        self._step("boot")
        self._require_boot(version, fresh)
        self.device.require_fingerprint()
        settings = self._complete(settings, fresh)
        self._inhibit()
        resumed = self.device.violations(self.device.profile.drain.at_rest) if fresh else []
        if resumed:
            raise DeviceError(f"not at rest after its start, though nothing may resume by itself: {'; '.join(resumed)}")
        if healthy:
            self._step("health")
            self._require_health(self.policy.soak if soak is None else soak)
        self._step("restore")
        hold = self.device.profile.drain.inhibit
        restored = snapshot.restore(self.device, settings, hold)
        self._step("compare")
        kept = {name: value for name, value in settings.items() if name not in hold}
        differing = self.device.differences(kept)
        if differing:
            raise DeviceError(f"settings differ after their restoring: {', '.join(differing)}")
        self._release(settings)
        identity = self.device.identity()
        record = self.store.record(self.device.name)
        return {"version": identity.version, "digest": (record.get("images") or {}).get("flash")}, restored

    def _complete(self, wanted: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """The ``wanted`` settings, completed by those with which the firmware came up.

        A controller that was silent told none; without any, its starts would stay inhibited.
        """
        if all(point.name in wanted for point in self.device.profile.restorable):
            return dict(wanted)
        found = None if fresh else self.journal.last("found")  # before another run kept its starts out
        if not found:
            self.journal.append("found", settings=self.device.settings())
        return {**(self.journal.last("found") or {})["settings"], **wanted}

    def _prove_before(
        self, begun: Mapping[str, Any], fresh: bool, soak: float | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """The same for the firmware of before: nothing is asked of it that it did not do then."""
        if begun["settings"] is None:
            return {"version": None, "digest": None}, []  # it was silent
        return self._prove(begun["before"]["version"], begun["settings"], fresh, soak, healthy=begun["healthy"])

    @property
    def _boot_deadline(self) -> float:
        return self.policy.boot_deadline or self.device.profile.timing.boot_time

    def _require_boot(self, version: str | None, fresh: bool) -> None:
        if not self.device.wait_for_answer(self._boot_deadline):
            raise DeviceError(f"verified in flash, but silent {self._boot_deadline:g} s after its start")
        identity = self.device.identity()
        if version is not None and identity.version not in (None, version):
            raise DeviceError(f"tells version {identity.version} after its start, expected {version}")
        if fresh:
            self._require_new_boot(identity)

    def _require_new_boot(self, identity: Identity) -> None:
        """DeviceError where what answers has not been in programming mode just now."""
        elapsed = time.monotonic() - self._programmed_at
        if identity.uptime is not None:
            if identity.uptime > elapsed + 1:
                raise DeviceError(
                    f"has been up for {identity.uptime:g} s, but was programmed {elapsed:.0f} s ago; "
                    "what answers is not a new boot, check that programmer and line lead to the same board"
                )
        elif not self._seen_silent:
            raise DeviceError(
                "went on answering while it was programmed; check that programmer and line lead to the same board"
            )

    def _watch(self, activity: str, percent: int) -> None:
        """While avrdude runs. A board in programming mode is silent: without a clock, that proves the boot after it."""
        if activity:
            self.progress.tell_percent(self.device.name, activity, percent)
        if not self._seen_silent:
            with contextlib.suppress(CoreError):  # a line that vanishes must not end avrdude in the middle of a page
                self._seen_silent = self.device.is_silent()

    def _require_health(self, soak: float | None) -> None:
        profile = self.device.profile
        steady = {condition.point for condition in profile.health if condition.test == "steady"}
        before = self.device.read(steady)
        uptime = self.device.identity().uptime
        deadline = time.monotonic() + (profile.soak if soak is None else soak)
        while True:
            reasons = self.device.violations(profile.health, before)
            later = self.device.identity().uptime
            if uptime is not None and later is not None and later < uptime:
                reasons.append(f"restarted by itself (uptime went from {uptime:g} to {later:g} s)")
            if reasons:
                raise DeviceError(f"not healthy after its start: {'; '.join(reasons)}")
            if time.monotonic() >= deadline:
                return
            uptime = later
            time.sleep(_POLL)

    def _release(self, settings: Mapping[str, Any] | None) -> None:
        """Allow starts again as they were allowed before."""
        self._step("release")
        for name in self.device.profile.drain.inhibit:
            if settings and name in settings and self.device.differences({name: settings[name]}):
                self.device.write(name, settings[name])
