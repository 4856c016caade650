"""A real client, web process and daemon: what OpenAI's own library sees of a batch from upload to deletion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from hashlib import md5
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from openai.types import FileObject, Upload
from running import Daemon, batch_of, eventually
from webs import Between, Web, create, ended, strict

from inbox_daemon.layout import Spool

Start = Callable[..., Daemon]


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    started: list[Web] = []

    def start(spool: Path, port: int = 0) -> Web:
        web = Web(spool, tmp_path / "web.log", port=port)
        started.append(web)
        return web

    yield start
    for web in started:
        web.kill()


@pytest.fixture
def opened() -> Iterator[Callable[[str], OpenAI]]:
    """Clients, closed at the end."""
    with ExitStack() as clients:
        yield lambda url: clients.enter_context(OpenAI(base_url=url, api_key="sk-none"))


@pytest.mark.slow
def test_openais_client_uploads_creates_waits_reads_lists_cancels_and_deletes(
    start_daemon: Start, start_web: Callable[..., Web], opened: Callable[[str], OpenAI], tmp_path: Path
) -> None:
    daemon = start_daemon()
    web = start_web(daemon.spool)
    client = opened(f"{web.url}/v1")
    path = tmp_path / "requests.jsonl"
    path.write_bytes(batch_of(20) + b"no request\n")
    with path.open("rb") as content:
        file = client.files.create(
            file=content, purpose="batch", expires_after={"anchor": "created_at", "seconds": 86400}
        )
    FileObject.model_validate(file.to_dict(), strict=True)
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert file.expires_at is not None and abs(file.expires_at - time.time() - 86400) < 60
    batch = create(client, file.id, metadata={"who": "me"})
    client.files.delete(file.id)  # what was submitted stays
    done = ended(client, batch.id)
    assert (done.status, done.metadata) == ("completed", {"who": "me"})
    assert done.request_counts is not None and done.request_counts.to_dict() == {
        "total": 21,
        "completed": 20,
        "failed": 1,
    }
    assert done.output_file_id and done.error_file_id
    assert len(client.files.content(done.output_file_id).text.splitlines()) == 20
    assert "invalid_json" in client.files.content(done.error_file_id).text
    for named in (done.output_file_id, done.error_file_id):
        FileObject.model_validate(client.files.retrieve(named).to_dict(), strict=True)

    in_parts = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=512, md5=md5(path.read_bytes()).hexdigest()
    )
    Upload.model_validate(in_parts.to_dict(), strict=True)
    assert in_parts.file is not None and client.files.content(in_parts.file.id).content == path.read_bytes()
    more = [create(client, in_parts.file.id) for _ in range(3)]
    daemon.drop("dropped.jsonl", batch_of(2))
    daemon.finished("dropped")
    assert len({ended(client, one.id).id for one in more}) == 3
    eventually(lambda: len(list(client.batches.list(limit=2))) == 5, 5, "four that were made and one that was dropped")
    listed = list(client.batches.list(limit=2))
    assert {batch.id, *(one.id for one in more)} < {strict(one).id for one in listed}
    purposes = [FileObject.model_validate(one.to_dict(), strict=True).purpose for one in client.files.list(limit=2)]
    assert (purposes.count("batch_output"), "batch" in purposes) == (9, True)  # four of them have errors, too

    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        client.batches.cancel(batch.id)
    assert "retry" not in web.text()
    slow = client.files.create(file=batch_of(50), purpose="batch")
    assert strict(client.batches.cancel(create(client, slow.id).id)).status in ("cancelled", "cancelling")
    client.files.delete(done.output_file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(done.output_file_id)
    assert client.batches.retrieve(batch.id).output_file_id is None
    assert web.stop() == 0


@pytest.fixture
def between() -> Iterator[Callable[[Web], Between]]:
    with ExitStack() as opened:
        yield lambda web: opened.enter_context(closing(Between(web)))


@pytest.mark.slow
def test_what_a_client_sends_again_is_done_once_whatever_became_of_the_first_answer(
    start_web: Callable[..., Web],
    between: Callable[[Web], Between],
    opened: Callable[[str], OpenAI],
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool")
    for folder in (spool.inbox, spool.outbox, spool.daemons):
        folder.mkdir(parents=True)
    web = start_web(spool.root)
    frail = between(web)
    client = opened(frail.url)
    uploaded: list[str] = []
    made: list[str] = []
    for loses, fails in ((1, 0), (0, 1), (0, 0), (0, 0)):
        frail.loses, frail.fails = loses, fails
        uploaded.append(client.files.create(file=batch_of(3), purpose="batch").id)
        frail.loses, frail.fails = loses, fails
        made.append(create(client, uploaded[-1]).id)
        assert (frail.loses, frail.fails) == (0, 0), "it was sent twice"
    assert len(set(uploaded)) == len(set(made)) == 4
    assert {one.id for one in client.files.list()} == set(uploaded)
    assert {one.id for one in client.batches.list()} == set(made)
    assert len(list(spool.inbox.glob("*.jsonl"))) == 4

    named = {"Idempotency-Key": "one and the same"}
    first = create(client, uploaded[0], extra_headers=named)
    web.kill()
    again = start_web(spool.root, web.port)
    client = opened(f"{again.url}/v1")
    assert create(client, uploaded[0], extra_headers=named).id == first.id
    assert create(client, uploaded[0]).id != first.id
