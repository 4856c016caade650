"""The daemon in a forked child that dies, or is refused, at a chosen file operation. No test lives here.

The operations are found, not listed: Python's audit hook reports every open, rename, link, unlink, mkdir, rmdir,
truncate and chmod in the child, whoever makes it; write, fsync and fdatasync have no such event and are wrapped.
Only the process is killed, so what it wrote stays in the page cache, and a sync need not wait for the disk.
"""

from __future__ import annotations

import errno
import gc
import math
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import inbox_daemon.cli.run  # noqa: F401  a child that is struck imports nothing any more
from inbox_daemon import batches, cli, daemon
from inbox_daemon.batch import face, running, twins
from inbox_daemon.ended import clearing, deleting, leaving
from inbox_daemon.inbox import obeying, taking
from inbox_daemon.spool import daemons, history, ingest, remains

SYNCS = frozenset({"fsync", "fdatasync"})
TAKES_SPACE = frozenset({"write", "create", "mkdir", "link", "symlink", "rename"})
EVERYTHING = SYNCS | TAKES_SPACE | {"unlink", "rmdir", "truncate", "chmod"}
REFUSALS = [  # which error the disk may have for which operations
    (errno.ENOSPC, TAKES_SPACE),
    (errno.EDQUOT, TAKES_SPACE),
    (errno.EIO, EVERYTHING - SYNCS),
    (errno.EIO, SYNCS),
    (errno.EROFS, EVERYTHING - SYNCS),
]
FOR_EVER = 1 << 60

_EVENTS = {
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "os.chmod": "chmod",
}
_FOLDER_OF = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.chmod": 2}  # which argument is dir_fd
_AGAIN_AFTER = 0.05  # seconds for which the child suspends a batch whose files failed


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens at the `at`-th (1-based) operation of these kinds.

    Attributes:
        error: the errno with which the operation fails; 0: the process is killed before the operation.
        half: half of a write is done before the process is killed.
        times: how many operations of these kinds, from that one on, fail.
    """

    at: int
    error: int = 0
    half: bool = False
    kinds: frozenset[str] = EVERYTHING
    times: int = 1

    def __str__(self) -> str:
        what = errno.errorcode[self.error] if self.error else "half a write and SIGKILL" if self.half else "SIGKILL"
        return f"{what} at operation {self.at}" + ("" if self.times == 1 else f", {self.times:.1g} times")


def kills(operations: Sequence[str]) -> list[Strike]:
    """Return every way to be killed: before each operation, and in the middle of each write."""
    halves = [Strike(n, half=True) for n, what in enumerate(operations, 1) if what.startswith("write ")]
    return [Strike(n) for n in range(1, len(operations) + 1)] + halves


def refusals(operations: Sequence[str], times: Sequence[int] = (1,)) -> list[Strike]:
    """Return every error at every operation that can meet it, for so many operations one after another."""
    return [
        Strike(at, error=error, kinds=kinds, times=many)
        for error, kinds in REFUSALS
        for at in range(1, 1 + sum(what.split()[0] in kinds for what in operations))
        for many in times
    ]


def second_kills(firsts: Sequence[tuple[Strike, Sequence[str]]], most: int) -> list[tuple[Strike, Strike]]:
    """Return a spread of pairs: every first kill, and every operation that any recovery has, at least once.

    Args:
        firsts: first kills, and the operations of the recovery after each.
        most: how many pairs are enough beside that.
    """
    every = [
        ((first, second), (operations[second.at - 1], second.half))
        for first, operations in firsts
        for second in kills(operations)
    ]
    step = max(1, len(every) // most)
    chosen = dict(every[::step])
    for pair, operation in every:
        if operation not in chosen.values() or pair[0] not in {first for first, _ in chosen}:
            chosen[pair] = operation
    return list(chosen)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run went.

    Attributes:
        status: the exit status, or minus the signal that ended it.
        operations: every operation that it began, as "kind path" with ids and pids left out.
        failed: the operations that were made to fail.
        resynced: the files that were synced once more through a descriptor whose sync had failed.
        leaked: the spool's files that were open when the verb had returned.
        log: what it said, with ids and pids left out.
    """

    status: int
    operations: list[str]
    failed: list[str]
    resynced: list[str]
    leaked: list[str]
    log: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run(
    spool: Path,
    settings: str,
    strike: Strike | None = None,
    *,
    sabotage: Callable[[], None] | None = None,
    at_each: Callable[[int], None] | None = None,
    stop_at: int = 0,
    cancel_at_work: str = "",
    durable: bool = False,
    within: float = 60.0,
) -> Ended:
    """Run `inbox-daemon run --drain` in a forked child and wait for its end. To be called where no thread runs.

    Args:
        stop_at: the operation at which the child gets SIGTERM; 0: none.
        cancel_at_work: the batch whose user cancels it once an engine has its requests.
        sabotage: breaks the daemon on purpose, in the child.
        at_each: called in the child before each operation, with its number.
        durable: whether syncs really reach the disk.
        within: seconds after which SIGALRM ends the child.
    """
    config = spool.with_name(f"{spool.name}.toml")
    config.write_text(settings)

    def prepare() -> None:
        _hasten()
        if sabotage:
            sabotage()

    command = ["run", "--drain", "--spool", str(spool), "--config", str(config)]
    before_each = _before_each(spool, stop_at, cancel_at_work, at_each)
    return perform(spool, partial(cli.main, command), strike, prepare, before_each, durable, within)


def perform(
    spool: Path,
    act: Callable[[], int],
    strike: Strike | None = None,
    prepare: Callable[[], None] | None = None,
    before_each: Callable[[int], None] = lambda number: None,
    durable: bool = False,
    within: float = 60.0,
) -> Ended:
    """Have a forked child act on a spool, and wait for its end. To be called where no thread runs.

    Args:
        act: what it does; returns its exit status.
        prepare: called in the child before anything counts.
        before_each: called in the child before each operation, with its number.
    """
    log, trace = (spool.with_name(f"{spool.name}.{suffix}") for suffix in ("log", "trace"))
    sys.stdout.flush()
    gc.freeze()  # or looking for garbage copies every page
    child = os.fork()
    if not child:
        _live(log, Tripwire(spool, trace, strike, before_each, durable), act, prepare, within)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said: dict[str, list[str]] = {"began": [], "failed": [], "resynced": [], "leaked": []}
    for line in trace.read_text(errors="replace").splitlines():
        what, _, operation = line.partition(" ")
        said[what].append(operation)
    said_in_log = impersonal(log.read_text(), f"{spool}/")
    return Ended(status, said["began"], said["failed"], said["resynced"], said["leaked"], said_in_log)


def workers() -> ProcessPoolExecutor:
    """Return processes that have imported the daemon, start no thread, and fork a child for each run."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(2 * (os.cpu_count() or 1), mp_context=context)


def impersonal(text: str, root: str) -> str:
    """Leave out of paths what differs between two runs: where the spool lies (`root`, with its slash), and ids."""
    text = text.replace(root, "").replace(root[:-1], "SPOOL")
    text = re.sub(r"batch_[0-9a-f]{22}", "ID", text)
    made = r"(batch_|file-|upload_|part_|\.up-|\.new-|\.probe-|gone-deleted-)[0-9a-f]{16}(-[0-9a-f]{8})?\b"
    text = re.sub(made, r"\1", text)
    return re.sub(r"daemons/(\.?).*\.json", r"daemons/\1HOST.json", text)


def _before_each(
    spool: Path, stop_at: int, cancel_at_work: str, at_each: Callable[[int], None] | None
) -> Callable[[int], None]:
    control = spool.with_name(f"{spool.name}.cancel")  # linked from outside, which is no operation of the daemon's

    def before(number: int) -> None:
        if cancel_at_work and any(
            b'"engine"' in path.read_bytes() for path in spool.glob("work/batch_*/history.jsonl")
        ):
            control.touch()
            there = spool / "inbox" / f"{cancel_at_work}.cancel"
            if not there.exists() and not any(spool.glob("work/batch_*/cancel")):
                os.link(control, there)
        if number == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if at_each:
            at_each(number)

    return before


def _hasten() -> None:
    batches._SUSPEND = taking._ADOPT_EVERY = deleting._AGAIN = _AGAIN_AFTER
    # Nothing by the clock, so that two runs are alike: a pass takes as long as there is work, views follow changes.
    daemon._SLICE = taking._SLICE = face._STATUS_EVERY = daemons._SAY_EVERY = ingest._TURN = math.inf
    obeying._SLICE = twins._SLICE = running._CLOSE_SLICE = leaving._SLICE = clearing._SLICE = math.inf
    deleting._SLICE = math.inf
    clearing._FIRST_SCAN = clearing._SURE_AFTER = remains._EMPTY_FOR = 0
    history._SAVE_AFTER = 0.0


def _live(
    log: Path, wire: Tripwire, act: Callable[[], int], prepare: Callable[[], None] | None, within: float
) -> NoReturn:
    status = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(output, "w", buffering=1)  # noqa: SIM115
        signal.setitimer(signal.ITIMER_REAL, within)
        gc.disable()  # nobody but the daemon itself closes its files
        if prepare:
            prepare()
        wire.arm()
        status = act()
        wire.count_descriptors()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Tripwire:
    """Sees what this process changes below `root`, says so in `trace`, and strikes."""

    def __init__(
        self,
        root: Path,
        trace: Path,
        strike: Strike | None,
        at_each: Callable[[int], None],
        durable: bool,
    ) -> None:
        self._root = f"{root}/"
        self._trace_path = trace
        self._strike, self._at_each, self._durable = strike, at_each, durable
        self._count = 0  # of all operations
        self._eligible = 0  # of those of the strike's kinds
        self._faulty: set[int] = set()  # descriptors whose sync has failed
        self._write, self._close = os.write, os.close

    def arm(self) -> None:
        self._trace = os.open(self._trace_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        sys.addaudithook(self._audit)
        for name in SYNCS:
            setattr(os, name, self._syncing(name, getattr(os, name)))
        os.write = self._writing  # type: ignore[assignment]
        os.close = self._closing

    def strike(self, strike: Strike | None) -> None:
        """Have this happen, counted from here; None: nothing any more."""
        self._strike, self._eligible = strike, 0

    def count_descriptors(self) -> None:
        for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
            path = self._path_of(int(fd))
            if path.startswith(self._root):
                self._say("leaked", path)

    # -- what is seen

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_CREAT | os.O_TRUNC):
                self._before("create", os.fspath(path) if not isinstance(path, int) else self._path_of(path))
        elif event in _EVENTS:
            path = arguments[0]
            folder = arguments[_FOLDER_OF[event]] if event in _FOLDER_OF else -1
            if isinstance(path, int):
                path = self._path_of(path)
            path = os.fsdecode(path)
            if folder >= 0:
                path = f"{self._path_of(folder)}/{path}"
            if event in ("os.rename", "os.link"):
                path = f"{path} -> {os.fsdecode(arguments[1])}"
            self._before(_EVENTS[event], path)

    def _writing(self, fd: int, data: bytes) -> int:
        if self._before("write", self._path_of(fd)):
            self._write(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._write(fd, data)

    def _syncing(self, name: str, original: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            path = self._path_of(fd)
            if fd in self._faulty:
                self._say("resynced", path)
            try:
                self._before(name, path)
            except OSError:
                self._faulty.add(fd)
                raise
            if self._durable:
                original(fd)

        return sync

    def _closing(self, fd: int) -> None:
        self._faulty.discard(fd)
        self._close(fd)

    # -- what is done about it

    def _before(self, kind: str, path: str | bytes) -> bool:
        """Count the operation and strike; True where only half of it is to be done."""
        path = os.fsdecode(path)
        if not f"{path}/".startswith(self._root):
            return False
        self._count += 1
        self._say("began", f"{kind} {path}")
        self._at_each(self._count)
        strike = self._strike
        if strike is None or kind not in strike.kinds:
            return False
        self._eligible += 1
        if not strike.at <= self._eligible < strike.at + strike.times:
            return False
        if strike.error:
            self._say("failed", f"{kind} {path}")
            raise OSError(strike.error, os.strerror(strike.error), path.split(" -> ")[0])
        if kind != "write" or not strike.half:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def _say(self, what: str, operation: str) -> None:
        self._write(self._trace, f"{what} {impersonal(operation, self._root)}\n".encode())

    def _path_of(self, fd: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        except FileNotFoundError:
            return ""
