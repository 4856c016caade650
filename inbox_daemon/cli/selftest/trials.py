"""The trials of a self-test: what is done to a batch in its middle, and what must be true when it has ended.

Judges by what users have, the outbox and the log. Hurts nothing but a rig.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson
import psutil

from inbox_daemon.cli.selftest import rig
from inbox_daemon.cli.selftest.rig import Rig, TooLate
from inbox_daemon.layout import Published
from inbox_daemon.request.output import failure
from inbox_daemon.spool import proof

HOLDS, FAILS, NOT_CHECKED, NOT_APPLICABLE = "holds", "does NOT hold", "not checked", "does not apply"

_GONE_WITHIN = 15.0  # seconds for an engine's processes to end after their daemon
_TRIES = 3  # batches, of which one has a middle
_FULL_FOR = 20.0  # seconds, if the daemon does not try twice before


def _end(signal_: signal.Signals, victim: Callable[[Rig], psutil.Process], it: Rig, name: str) -> str:
    """Kill or stop a process of the engine, and wait until the daemon has noticed by itself."""
    since, began = it.mark(), time.monotonic()
    victim(it).send_signal(signal_)
    sign = "no progress for" if signal_ is signal.SIGSTOP else "engine died: "
    it.wait(lambda: sign in it.said(since), 60 + rig.STALL_AFTER, f"the daemon says {sign!r} of its engine")
    return f"noticed after {time.monotonic() - began:.1f} s"


def _kill_daemon(it: Rig, name: str) -> str:
    done, since = len(it.answers(name)), it.mark()
    sessions, began = it.kill_daemon(), time.monotonic()
    while left := rig.left(sessions):
        if time.monotonic() - began > _GONE_WITHIN:
            raise TimeoutError(f"{_GONE_WITHIN:.0f} s after its daemon the engine still has processes: {left}")
        time.sleep(0.05)
    over = it.is_over(name)
    gone = f"its engine was gone after {time.monotonic() - began:.1f} s; " if sessions else ""
    it.start()
    if over:
        raise TooLate
    resumed = re.compile(rf"{re.escape(name)}: resumed: {it.requests} requests, (\d+) done")
    counted = int(it.wait(lambda: resumed.search(it.said(since)), 60, "the daemon resumes the batch")[1])
    if counted < done:
        raise ValueError(f"{done} answers were there, and only {counted} are counted after the start")
    return f"{gone}it went on from {counted}"


def _fill_disk(it: Rig, name: str) -> str:
    """Keep the disk full until the daemon has noticed it and tried again in vain."""
    since, began = it.mark(), time.monotonic()

    def said(*words: str) -> int:
        it.fill_disk()  # again: what the daemon gives back, the rival takes
        return sum(it.said(since).count(f"{name}: {word}") for word in words)

    try:
        it.wait(lambda: said("suspended for", "waiting for disk space"), 60, "the daemon notices that the disk is full")
        with suppress(TimeoutError):
            it.wait(lambda: said("suspended for") > 1, _FULL_FOR, "the daemon tries again")
    finally:
        it.free_disk()
    return f"full for {time.monotonic() - began:.0f} s"


@dataclass(frozen=True, slots=True)
class Check:
    """Attributes:

    act: hurts the daemon, its engine or its disk; None leaves all in peace.
    deaths, resumed: of the engine, and of the batch, that the receipt must own up to.
    """

    key: str
    what: str
    act: Callable[[Rig, str], str] | None = None
    deaths: int = 0
    resumed: int = 0

    @property
    def of_engine(self) -> bool:
        return self.deaths > 0


DISK_FULL = Check("disk-full", "a full disk, freed again", _fill_disk)
CHECKS = (
    Check("plain", "from drop to receipt"),
    Check("kill-core", "kill -9 of EngineCore", partial(_end, signal.SIGKILL, Rig.core), deaths=1),
    Check("kill-worker", "kill -9 of the worker", partial(_end, signal.SIGKILL, Rig.worker), deaths=1),
    Check("hang-core", "EngineCore hangs (SIGSTOP)", partial(_end, signal.SIGSTOP, Rig.core), deaths=1),
    Check("hang-worker", "the worker hangs (SIGSTOP)", partial(_end, signal.SIGSTOP, Rig.worker), deaths=1),
    Check("kill-daemon", "kill -9 of the daemon", _kill_daemon, resumed=1),
    DISK_FULL,
)


# -- what came out, against what went in


def problems(folder: Published, original: Path, kept: set[bytes]) -> list[str]:
    """Say what is wrong with a batch that has ended.

    Args:
        kept: the output lines that users had seen before it was disturbed.
    """
    found = list(proof.verify(folder, original).problems)
    failed = folder.errors.read_bytes().splitlines()
    if failed:
        said = failure(orjson.loads(failed[0]))
        why = f"; the first: {said.fault.code}: {said.fault.message}" if said else ""
        found.append(f"{len(failed)} requests have no answer{why}")
    results = folder.results.read_bytes().splitlines()
    asked = [orjson.loads(line)["custom_id"] for line in original.read_bytes().splitlines()]
    if not failed and [orjson.loads(line)["custom_id"] for line in results] != asked:
        found.append("results.jsonl does not have one line for each request, in the input's order")
    if lost := kept.difference(results):
        found.append(f"{len(lost)} answers that were there before are lost or were replaced")
    return found


def _computed_twice(it: Rig, name: str, kept: set[bytes]) -> int:
    """Return how many tokens the engine that ended the batch has computed for answers that were there before it.

    Of several engines some have lived all along, and an answer does not say whose it is. Then all answers are held
    against all that these have computed.
    """
    ended = time.time()
    engines = it.wait(lambda: it.engines(ended + 2), 30, "the engine has counted")  # it counts every second
    is_null = engines[0].get("version", "").startswith("null")
    computed = sum(view.get("output_tokens", 0) if is_null else view.get("input_tokens", 0) for view in engines)
    fresh = set(it.spool.batch(name).results.read_bytes().splitlines())
    if len(engines) == 1:
        fresh -= kept
    usage = "completion_tokens" if is_null else "prompt_tokens"
    return computed - sum(int(orjson.loads(line)["response"]["body"]["usage"][usage]) for line in fresh)


@dataclass(slots=True)
class Row:
    check: str
    what: str
    requests: int = 0
    answers: int = 0
    seconds: float | None = None
    engine_restarts: int = 0
    verdict: str = ""
    notes: list[str] = field(default_factory=list)


def _hurt(check: Check, it: Rig, row: Row) -> tuple[str, set[bytes], float]:
    """Drop a batch and do in its middle what the check does; with another one where the first was over too soon.

    Return its name, the output lines that users had seen before, and the stamp of the drop.
    """
    for number in range(1, _TRIES + 1):
        name = check.key if number == 1 else f"{check.key}-{number}"
        began, kept = time.monotonic(), set[bytes]()
        it.drop(name)
        try:
            if check.act:
                kept = it.middle(name)
                row.notes.append(check.act(it, name))
        except TooLate:
            if number == _TRIES:
                raise
            it.finished(name)
            continue
        return name, kept, began
    raise AssertionError("the last try returns or raises")


def checked(check: Check, it: Rig) -> Row:
    """Run one check on a rig that is ready."""
    row = Row(check.key, check.what, it.requests, verdict=FAILS)
    since = it.mark()
    try:
        name, kept, began = _hurt(check, it, row)
        status = it.finished(name)
        row.seconds = round(time.monotonic() - began, 1)
        row.answers = status["request_counts"]["completed"]
        folder = it.spool.batch(name)
        found = problems(folder, it.original(name), kept)
        receipt = orjson.loads(folder.receipt.read_bytes())
        deaths, resumed = receipt["engine_deaths"], receipt["resumed"]
        if deaths != check.deaths or resumed < check.resumed:
            found.append(f"its receipt counts {deaths} deaths of the engine and {resumed} restarts of the daemon")
            found += [line for line in it.said(since).splitlines() if "engine died: " in line]
        # A suspended batch loses what its engine, which lives, answers meanwhile; so there it may be computed twice.
        if not found and check is not DISK_FULL and (twice := _computed_twice(it, name, kept)) > 0:
            found.append(f"{twice} tokens were computed again for answers that were there")
        row.verdict = FAILS if found else HOLDS
        row.notes += found
    except (OSError, ValueError, psutil.Error) as error:
        row.notes.append(it.ended() or str(error))  # where the daemon is gone, its disk is as well
    row.engine_restarts = it.said(since).count(" engine starting (")
    return row
