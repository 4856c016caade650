"""Batches made by API: SPOOL/web/batches. Accepted by one rename, submitted by another, found again by either.

A batch is a folder that is made hidden, with a link to the upload in it, and gets its name when all of it is on the
disk: from then on it is accepted, and its answer may be given. Its file then goes into the inbox (`passage`). A crash
between the two leaves it pending, and who recovers submits it. What becomes of it there is told in the outbox.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from inbox_daemon.errors import SpoolError
from inbox_daemon.layout import NAME_LIMIT, SUFFIXES, Spool, batch_name, suffix_of
from inbox_daemon.request.named import AT
from inbox_daemon.spool import files, folders, source, store
from inbox_daemon.spool.passage import Passage, Phase
from inbox_daemon.text import dumps
from inbox_daemon.weblayout import BATCH_ID, NEW, Submission, WebFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asks for, but for the requests.

    Attributes:
        output_expires_after: seconds after its creation at which its outputs are to go; None: they stay.
        priority: None: what the daemon's settings say.
        key: the name of the API key by which it came; "" where none is needed.
        fingerprint: of the whole request, by which it is known when the client sends it again.
    """

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] | None = None
    output_expires_after: int | None = None
    priority: int | None = None
    key: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Asked):
    """A batch made by API, as its batch.json says; nothing of it changes.

    Attributes:
        name: of its folder in the outbox, and `file` of its file in the inbox: nobody else's, for the id is in them.
        created_at: Unix seconds.
        sha256: of the file.
        idempotency: the hash of what its client calls this creation; None where it does not.
    """

    id: str
    name: str
    file: str
    created_at: int
    sha256: str
    idempotency: str | None = None


def create(
    spool: Spool, content: Path, stem: str, asked: Asked, idempotency: str | None, now: float, *, keep_free: int = 0
) -> Submitted:
    """Make a batch of a file and submit it; return it once it is accepted, whatever happens then.

    Of several creations with one `idempotency`, in whichever processes and however they end, one is accepted, and all
    return it. Whether they asked for the same is for the caller to see (`Submitted.fingerprint`).

    Args:
        content: of an upload (`store.content`): gets a second name, and no byte is copied. Any other file is copied: it
            is not ours, and Linux lets nobody link what is not his (fs.protected_hardlinks).
        stem: what its name begins with, such as the upload's file name; whatever is in it.
        now: Unix seconds.
        keep_free: bytes that a copy leaves free on the disk.

    Raises:
        FileNotFoundError: the file is not there any more.
        Rejected: it is no regular file, or may not be read.
        NoRoom: the disk is full.
        OSError, NotDurable: the disk failed. Nothing is accepted.
    """
    wanted = _hash_of(idempotency)
    before = find(spool, idempotency) if idempotency is not None else None
    if before is not None:
        _passage(spool, before).submit_quietly()
        return before
    with store.told_of_room(), folders.Hidden(WebFolder(spool.web).batches, NEW) as hidden:
        folder = Submission(hidden.dir)
        sha256, suffix = _take(spool, content, folder.pending, keep_free)
        while True:
            made = _called(stem, suffix, now, asked, wanted, sha256)
            files.write_whole(folder.record, dumps(asdict(made)))
            with _one_at_a_time(spool), suppress(FileExistsError):  # an id has 20 random bits a millisecond
                if (before := _named(spool, wanted)) is not None:
                    break
                hidden.name(_folder(spool, made.id).dir)
                break
    accepted = before or made
    _passage(spool, accepted).submit_quietly()
    return accepted


def find(spool: Spool, idempotency: str) -> Submitted | None:
    """Return the batch that was created under what its client calls the creation. Raises OSError."""
    with _one_at_a_time(spool):  # what is being accepted may still fail
        return _named(spool, _hash_of(idempotency))


def get(spool: Spool, id: str) -> Submitted | None:
    """Return the batch of this id; None where there is none made by API, or this is no id of one. Raises OSError."""
    return _said_in(_folder(spool, id).dir) if BATCH_ID.fullmatch(id) else None


def all_of(spool: Spool) -> list[Submitted]:
    """Return every batch made by API, oldest first. Asking again costs one stat while none is made. Raises OSError."""
    return _listing(WebFolder(spool.web).batches).all()


# -- where its file is


def phase(spool: Spool, batch: Submitted) -> Phase:
    """Say whether a batch's file is still to go into the inbox, has gone there, or was taken back."""
    return _passage(spool, batch).phase


def is_in_inbox(spool: Spool, batch: Submitted) -> bool:
    """Say whether a batch's file lies in the inbox, and no daemon has claimed it."""
    return os.path.lexists(spool.inbox / batch.file)


def withdraw(spool: Spool, batch: Submitted) -> bool:
    """Take a batch back that no daemon has claimed; False where one has. Then no daemon ever will.

    Raises OSError, NotDurable.
    """
    return _passage(spool, batch).withdraw()


def note_seen(spool: Spool, id: str, status: Mapping[str, Any]) -> None:
    """Note the last status of a batch, which is final. Raises OSError, NotDurable."""
    if BATCH_ID.fullmatch(id):
        with suppress(FileNotFoundError):  # no batch made by API
            files.write_whole(_folder(spool, id).seen, dumps(dict(status)))


def seen(spool: Spool, id: str) -> dict[str, Any] | None:
    """Return what was noted of a batch's end; None: nothing. Raises OSError."""
    return folders.record(_folder(spool, id).seen) if BATCH_ID.fullmatch(id) else None


def recover(spool: Spool) -> None:
    """Make the folders where they are missing, remove what a crash has left, submit what is pending; at the start, and
    again now and then, for what the disk refused.

    Raises:
        OSError, NotDurable: the first of what failed; all else is done.
    """
    web = WebFolder(spool.web)
    for folder in (web.dir, web.batches, web.hooks, web.marks):
        files.ensure_dir(folder, 0o700)
    folders.tidy(web.batches, NEW)
    failed: list[Exception] = []
    for passage in (_passage(spool, batch) for batch in all_of(spool)):
        try:
            match passage.phase:
                case "pending":
                    passage.submit()
                case "withdrawn":
                    passage.clear_up()
                case "submitted":
                    pass
        except (OSError, SpoolError) as error:
            failed.append(error)
    if failed:
        raise failed[0]


# -- making


def _take(spool: Spool, content: Path, pending: Path, keep_free: int) -> tuple[str, str]:
    """Give the file a name here, or copy it; return its SHA-256 and what its name in the inbox ends with."""
    stored = store.get(spool, content.parent.name) if content.parent.parent == spool.files else None
    if stored is not None:
        files.duplicate(content, pending)
        return stored.sha256, stored.suffix or SUFFIXES[0]
    fd = source.open_regular(content)
    try:
        store.need_room(spool, keep_free + os.fstat(fd).st_size)
        hasher = hashlib.sha256()
        with files.Writer(pending, fresh=True) as copy:
            files.share(copy.fd)
            while block := os.read(fd, source.BLOCK):
                hasher.update(block)
                copy.write(block)
            copy.sync()
        return hasher.hexdigest(), suffix_of(content.name) or SUFFIXES[0]
    finally:
        os.close(fd)


def _called(stem: str, suffix: str, now: float, asked: Asked, idempotency: str | None, sha256: str) -> Submitted:
    id = folders.new_id("batch_", now)
    name = _name(stem, id)
    return Submitted(
        **asdict(asked),
        id=id,
        name=name,
        file=f"{name}{suffix}",
        created_at=int(now),
        sha256=sha256,
        idempotency=idempotency,
    )


def _name(stem: str, id: str) -> str:
    """Return STEM.batch_ID, cut so that it is a batch's name as it is; a model that the stem says stays at its end."""
    before, at, model = batch_name(stem).rpartition(AT)
    before, model = (before, f"{AT}{model}") if at and before else (batch_name(stem), "")
    room = NAME_LIMIT - len(f".{id}{model}".encode())
    if room < 1:  # a model of that length is none
        before, model, room = batch_name(stem), "", NAME_LIMIT - len(f".{id}")
    return f"{before.encode()[:room].decode(errors='ignore')}.{id}{model}"


def _named(spool: Spool, idempotency: str | None) -> Submitted | None:
    if idempotency is None:
        return None
    return next((batch for batch in all_of(spool) if batch.idempotency == idempotency), None)


def _hash_of(idempotency: str | None) -> str | None:
    return None if idempotency is None else hashlib.sha256(idempotency.encode(errors="surrogatepass")).hexdigest()


@contextmanager
def _one_at_a_time(spool: Spool) -> Iterator[None]:
    """Let nobody else accept a batch meanwhile, in whichever process or thread."""
    fd = os.open(WebFolder(spool.web).batches, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _folder(spool: Spool, id: str) -> Submission:
    return Submission(WebFolder(spool.web).batches / id)


def _passage(spool: Spool, batch: Submitted) -> Passage:
    return Passage(spool, _folder(spool, batch.id), batch.name, batch.file, batch.sha256, batch.priority)


def _said_in(folder: Path) -> Submitted | None:
    said: Any = folders.record(Submission(folder).record)
    with suppress(TypeError):
        if said is not None and said.get("id") == folder.name:
            return Submitted(**said)
    return None


@lru_cache(maxsize=8)
def _listing(folder: Path) -> folders.Listing[Submitted]:
    return folders.Listing(folder, BATCH_ID, _said_in)
