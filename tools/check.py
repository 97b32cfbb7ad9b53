# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""check.py lint|test|test-fast|sanity: runs the checks of this repository, two at a time, and adds up what they say.

A check is a command. The output of one goes to .cache/check/NAME.log and is shown when it fails. Static checks run at
a low priority beside the tests; tests marked ``timing`` run at the end, alone. What is still running then is a failure.
The last line is ``N passed, N failed, N skipped``: each test of pytest counts, and each other check counts as one.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
LOGS = TOP / ".cache/check"
VENV = TOP / ".venv/bin"
GATEWAY = TOP / ".cache/gateway/bin"

# The supported ansible-core: .venv has the one in the middle.
OLDEST_CORE = "2.18.19"
NEWEST_CORE = "2.21.5"

# Tested without Ansible; whole transactions, and what is done in a moment.
TRANSACTION_TESTS = ("tests/core",)
HOST_TESTS = ("tests/hosts",)
WHOLLY_TIMING = ("test_runtime.py",)  # files of these that have no other tests
UNIT_TESTS = ("tests/unit", "--ignore=tests/unit/plugin_utils")
# Whose tests marked "smoke" are repeated on the oldest and the newest ansible-core.
SMOKE_TESTS = "tests/playbooks"

CORES = 2
ON_HOSTS = 0.66  # cores that a check keeps busy which waits for hosts to boot and for ssh much of its time
LEFT_OUT = 77
NO_TESTS = 5
PROGRESS_EVERY = 10.0
SHOWN_OF_A_FAILURE = 80


@dataclasses.dataclass(frozen=True)
class Check:
    name: str
    command: tuple[str, ...]
    deadline: float = 1200.0  # against what hangs; at a low priority beside tests a minute becomes many
    pytest: bool = False
    background: bool = True
    needs_tests: bool = True
    cores: float = 2  # that it keeps busy

    @property
    def slug(self) -> str:
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)

    @property
    def log(self) -> pathlib.Path:
        return LOGS / f"{self.slug}.log"

    @property
    def report(self) -> pathlib.Path:
        return LOGS / f"{self.slug}.xml"


@dataclasses.dataclass
class Result:
    check: Check
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    cpu: float = 0.0  # seconds, of the check and of all that it waited for
    remark: str = ""
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # tests and what pytest says of them


def tool(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(VENV / name), *arguments)


def bash(name: str, *arguments: str) -> tuple[str, ...]:
    return ("bash", str(TOP / "tools" / name), *arguments)


def tests(name: str, python: str, *arguments: str, needs_tests: bool = True, deadline: float = 1800.0) -> Check:
    check = Check(name, (), deadline, pytest=True, background=False, needs_tests=needs_tests)
    command = (python, "-m", "pytest", "-v", "--tb=short", "-ra", f"--junitxml={check.report}", *arguments)
    return dataclasses.replace(check, command=command)


def quick_checks() -> Iterator[Check]:
    package = "ansible_collections.multi_sonicator.ops.plugins"
    shell_scripts = sorted(str(path) for path in [*(TOP / "tools").glob("*.sh"), TOP / ".ci/run"])
    yield Check("ruff", tool("ruff", "check"))
    yield Check("ruff format", tool("ruff", "format", "--check"))
    yield Check("reuse", bash("on_copy.sh", "reuse", *tool("reuse", "lint", "--lines")))
    yield Check("argument specs", tool("python", "tools/check_argument_specs.py"))
    yield Check("changelog", tool("antsibull-changelog", "lint"))
    yield Check("shellcheck", tool("shellcheck", "-x", *shell_scripts))
    yield Check("yamllint", tool("yamllint", "--strict", "."))
    yield Check("mypy", tool("mypy", "-p", f"{package}.module_utils._core", "-p", f"{package}.plugin_utils"))
    yield Check("ansible-lint", tool("ansible-lint", "--offline", "--strict", "--nocolor"))
    docs = tool("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs=dependent", ".")
    dependencies = ("env", f"ANSIBLE_COLLECTIONS_PATH={TOP / '.venv/collections'}")
    yield Check("antsibull-docs", (*dependencies, *bash("on_copy.sh", "docs", *docs)))


def sanity(version: str | None = None) -> Check:
    if version is None:
        return Check("sanity", bash("sanity.sh"), deadline=1800)
    return Check(f"sanity {version}", bash("with_core.sh", version, "tools/sanity.sh"), deadline=1800)


def on_a_gateway(*arguments: str, timing: bool = False) -> Check:
    """Tests with a Debian 12 gateway's libraries, where Ansible can't be imported. Mostly they wait for boards."""
    python = str(GATEWAY / "python")
    if timing:  # they measure silences of half a second, which a busy processor lengthens
        return tests("core's timing on a gateway", python, "-m", "timing", "-n", "2", *arguments)
    return tests("core on a gateway", python, "-m", "not timing", "-n", "4", *arguments)


def smoke(version: str) -> Check:
    command = ("python", "-m", "pytest", "-v", "--tb=short", "-ra", SMOKE_TESTS, "-m", "smoke")
    check = Check(f"smoke {version}", (), deadline=900, pytest=True, background=False, cores=1)
    return dataclasses.replace(check, command=bash("with_core.sh", version, *command, f"--junitxml={check.report}"))


def hosts(*command: str) -> Iterator[Check]:
    """The tests and Molecule's scenarios on hosts that boot in containers; left out where there can be none.

    A file of tests has hosts of its own. What takes longest begins first, which the length of a file tells well enough.
    """
    files = [path for directory in HOST_TESTS for path in (TOP / directory).glob("test_*.py")]
    for path in sorted(files, key=lambda path: path.stat().st_size, reverse=True):
        name = path.stem.removeprefix("test_")
        needed = path.name not in WHOLLY_TIMING
        one = tests(f"hosts {name}", *command, str(path.relative_to(TOP)), needs_tests=needed, deadline=2700)
        yield dataclasses.replace(one, cores=ON_HOSTS)
    for place in sorted((TOP / "molecule").glob("*/molecule.yml")):
        name = place.parent.name
        if name != "default":
            yield Check(f"molecule {name}", bash("scenario.sh", name), background=False, cores=ON_HOSTS)


def chosen(what: str) -> tuple[list[Check], list[Check]]:
    """The checks that run beside each other, and those that run alone after them."""
    python = str(VENV / "python")
    cores = (OLDEST_CORE, NEWEST_CORE)
    with_playbooks = cores if (TOP / SMOKE_TESTS).is_dir() else ()
    if what == "lint":
        return [*quick_checks(), sanity()], []
    if what == "sanity":
        return [sanity(), *map(sanity, cores)], []
    if what == "test-fast":
        return [on_a_gateway(*UNIT_TESTS), tests("unit", python, "tests/unit", "-m", "not timing", "-n", "2")], []
    if what == "test":
        # What both have covered counts, so that the second one says whether it is enough.
        core = on_a_gateway(*TRANSACTION_TESTS, *UNIT_TESTS, "--dist=loadgroup", "--cov", "--cov-report=")
        enough = ("--cov", "--cov-append", "--cov-report=term-missing", "--cov-fail-under=90")
        core_timing = on_a_gateway(*TRANSACTION_TESTS, *enough, timing=True)
        without_core = ("tests", *(f"--ignore={path}" for path in TRANSACTION_TESTS))
        without_hosts = tuple(f"--ignore={path}" for path in HOST_TESTS)
        # Three processes: the tests wait for lines and programmers, and two of them left a third of two cores idle.
        others = tests(
            "tests", python, *without_core, *without_hosts, "-m", "not timing", "-n", "3", "--dist=loadgroup"
        )
        timing = tests("timing", python, *without_core, "-m", "timing", needs_tests=False)
        static = [*quick_checks(), sanity(), *map(sanity, cores)]
        molecule = Check(
            "molecule",
            tool("molecule", "--base-config", ".config/molecule/config.yml", "test"),
            background=False,
            cores=1,
        )
        on_hosts = hosts(python, "-m", "not timing")
        return [core, others, *on_hosts, molecule, *map(smoke, with_playbooks), *static], [core_timing, timing]
    if what == "test-hosts":
        return list(hosts(python)), []
    raise SystemExit(f"usage: {sys.argv[0]} lint|sanity|test-fast|test-hosts|test")


def environment() -> dict[str, str]:
    values = dict(os.environ)
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL"):
        values.pop(name, None)
    values |= {"VIRTUAL_ENV": str(VENV.parent), "PATH": f"{VENV}{os.pathsep}{values['PATH']}", "PYTHONUNBUFFERED": "1"}
    return values


class Running:
    """A check at work."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.began = time.monotonic()
        self.overdue = False
        check.report.unlink(missing_ok=True)
        with check.log.open("wb") as log:
            self.process = subprocess.Popen(
                ("nice", "-n", "10" if check.background else "0", *check.command),
                cwd=TOP,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def poll(self) -> Result | None:
        pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
        if pid == 0:
            if self.seconds > self.check.deadline and not self.overdue:
                self.overdue = True
                os.killpg(self.process.pid, signal.SIGKILL)
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        result = self.result(self.process.returncode)
        result.cpu = used.ru_utime + used.ru_stime
        return result

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def at(self) -> str:
        """What it does at the moment: the last line it wrote."""
        lines = self.check.log.read_bytes()[-2000:].decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{self.check.name} ({self.seconds:.0f} s) {last}"[:150]

    def result(self, code: int) -> Result:
        result = Result(self.check, seconds=self.seconds)
        if self.overdue:
            result.remark = f"not done after {self.check.deadline:.0f} s"
        if code == LEFT_OUT:
            lines = self.check.log.read_text().splitlines()
            result.skipped, result.remark = 1, lines[-1] if lines else "left out"
        elif self.check.pytest:
            count_tests(result, code)
        elif code == 0:
            result.passed = 1
        else:
            result.failed = 1
            result.remark = result.remark or f"exit code {code}"
        return result


def count_tests(result: Result, code: int) -> None:
    try:
        suites = list(ElementTree.parse(result.check.report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        suites = []
    for suite in suites:
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        result.failed += bad
        result.skipped += skipped
        result.passed += max(0, int(suite.get("tests", 0)) - bad - skipped)
        for case in suite.iter("testcase"):
            for outcome in case:
                if outcome.tag in ("failure", "error"):
                    name = f"{case.get('classname', '')}::{case.get('name', '')}"
                    result.failures.append((name, outcome.text or outcome.get("message", "")))
    if code == NO_TESTS and not result.check.needs_tests:
        return
    if code and not result.failed:
        # No test failed, yet pytest did: none collected, coverage too low, a crash.
        result.failed = 1
        result.remark = result.remark or {NO_TESTS: "no tests found"}.get(code, f"pytest's exit code {code}")


def show(result: Result) -> None:
    verdict = "FAILED" if result.failed else ("ok    " if result.passed or not result.skipped else "out   ")
    counts = f" {result.passed} passed, {result.failed} failed, {result.skipped} skipped" if result.check.pytest else ""
    remark = f": {result.remark}" if result.remark else ""
    print(
        f"{verdict} {result.seconds:5.0f} s {result.cpu:5.0f} s of CPU  {result.check.name}{counts}{remark}", flush=True
    )
    for name, said in result.failures:
        print(f"    {name}")
        for line in said.splitlines()[-SHOWN_OF_A_FAILURE:]:
            print(f"    | {line}")
    if result.failed and result.check.log.exists():
        lines = [] if result.failures else result.check.log.read_text(errors="replace").splitlines()
        # ansible-test says what is wrong in lines of its own between many of pip's.
        errors = [line for line in lines if line.startswith(("ERROR: ", "FATAL: "))]
        for line in (errors if "sanity" in result.check.name and errors else lines)[-SHOWN_OF_A_FAILURE:]:
            print(f"    | {line}")
        print(f"    the whole log: {result.check.log.relative_to(TOP)}", flush=True)


def may_start(check: Check, waiting: list[Check], running: list[Running]) -> bool:
    """Test suites as long as there are cores for them, beside one static check; two of these when no suite is left."""
    alongside = [at_work.check for at_work in running if at_work.check.background == check.background]
    if not check.background:
        return sum(other.cores for other in [*alongside, check]) <= CORES
    suites = any(not other.background for other in [*waiting, *(at_work.check for at_work in running)])
    return len(alongside) < (1 if suites else 2)


def run(checks: Iterable[Check]) -> list[Result]:
    waiting = list(checks)
    running: list[Running] = []
    results: list[Result] = []
    said = time.monotonic()
    try:
        while waiting or running:
            for check in list(waiting):
                if may_start(check, waiting, running):
                    waiting.remove(check)
                    running.append(Running(check))
            for at_work in list(running):
                result = at_work.poll()
                if result is not None:
                    running.remove(at_work)
                    results.append(result)
                    show(result)
            bury_orphans({at_work.process.pid for at_work in running})
            if time.monotonic() - said >= PROGRESS_EVERY:
                said = time.monotonic()
                for at_work in running:
                    print(f"   …  {at_work.at()}", flush=True)
            time.sleep(0.1)
    finally:
        for at_work in running:
            at_work.end()
    return results


def adopt_orphans() -> None:
    """What a check leaves running becomes a child of this process, and is seen at the end."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def bury_orphans(ours: set[int]) -> None:
    """Reap what has ended and is nobody's child but this process': who looks for it by its id takes it for alive.

    restic does so with the owner of a lock.
    """
    with contextlib.suppress(ChildProcessError):  # no children at all
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in ours:  # whose poll wants to know how it ended
                return
            os.waitpid(ended.si_pid, 0)


def children() -> dict[int, str]:
    """Command lines of this process' children that still run, by process id; those that ended are reaped."""
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) != os.getpid():
                continue
            if state == "Z":
                os.waitpid(int(entry.name), 0)
            else:
                found[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
        except (OSError, ValueError):
            continue
    return found


def nothing_left(patience: float = 10.0) -> Result:
    result = Result(Check("nothing left running", ()))
    until = time.monotonic() + patience
    while (left := children()) and time.monotonic() < until:
        time.sleep(0.2)
    result.passed, result.failed = int(not left), int(bool(left))
    result.remark = "; ".join(f"{pid}: {command[:160]}" for pid, command in left.items())
    return result


def end_children() -> None:
    while left := children():
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def total(results: list[Result], kind: str) -> int:
    return sum(getattr(result, kind) for result in results)


def main(arguments: list[str]) -> int:
    beside, alone = chosen(arguments[0] if len(arguments) == 1 else "")
    LOGS.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        results = run(beside)
        for check in alone:
            results += run([check])
        results.append(nothing_left())
        show(results[-1])
    finally:
        end_children()

    failed = [result.check.name for result in results if result.failed]
    seconds = time.monotonic() - began
    print(
        f"\n{len(results)} checks in {seconds:.0f} s; " + (f"failed: {', '.join(failed)}" if failed else "none failed")
    )
    for result in results:
        for name, _said in result.failures:
            print(f"    {result.check.name}: {name}")
    counts = ", ".join(f"{total(results, kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    print(counts, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
