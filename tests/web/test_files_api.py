"""OpenAI's Files over a spool: what is taken in, what is refused, and how bytes go out again; in this process."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import REQUESTS, Served
from test_batches_api import error_of

from inbox_daemon.config import build
from inbox_daemon.spool import store
from inbox_daemon.web import content, control, live, upload

PURPOSE = {"purpose": "batch"}


def sent(served: Served, content: bytes = REQUESTS, name: str = "r.jsonl", **more: Any) -> Any:
    return served.client.post("/v1/files", **{"files": {"file": (name, content)}, "data": PURPOSE, **more})


def test_bytes_come_out_as_they_went_in_whatever_the_form_looks_like(served: Served) -> None:
    large = bytes(range(256)) * 3000 + b"\r\n--not the boundary\r\n" + REQUESTS
    after = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = sent(served, large, "ä 'quoted'.jsonl", data=PURPOSE | after).json()
    assert (file["bytes"], file["filename"], file["status"]) == (len(large), "ä 'quoted'.jsonl", "processed")
    assert abs(file["expires_at"] - time.time() - 3600) < 5
    answer = served.client.get(f"/v1/files/{file['id']}/content")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(large).digest()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (
        "attachment" in answer.headers["content-disposition"] and answer.headers["x-content-type-options"] == "nosniff"
    )
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="after.jsonl"\r\n\r\n{}\n\r\n'
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )

    def drops() -> Iterator[bytes]:
        yield from (body[i : i + 1] for i in range(len(body)))

    head = {"content-type": "multipart/form-data; boundary=b"}
    assert served.client.post("/v1/files", content=drops(), headers=head).json()["bytes"] == 3
    assert served.client.get("/v1/files").json()["data"][-1]["id"] == file["id"]
    kept = served.client.get("/v1/files", params={"purpose": "batch_output"}).json()
    assert (kept["data"], kept["has_more"]) == ([], False)


def test_what_is_no_upload_is_refused_and_leaves_nothing(served: Served) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n'
    cases: list[tuple[dict[str, Any], int, str | None, str | None]] = [
        ({"json": {}}, 415, None, None),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 415, None, None),
        ({"content": b"nonsense", "headers": form}, 400, None, None),
        ({"content": b"", "headers": form}, 400, None, None),
        ({"content": part + b"batch", "headers": form}, 400, None, None),
        ({"content": part + b"batch\r\n--b--\r\n", "headers": form}, 400, "missing_required_parameter", "file"),
        ({"content": part + b"x" * 70_000 + b"\r\n--b--\r\n", "headers": form}, 400, None, "purpose"),
        ({"content": (part + b"\r\n") * 9 + b"--b--\r\n", "headers": form}, 400, None, None),
        ({"files": {"file": ("a", REQUESTS)}}, 400, "missing_required_parameter", "purpose"),
        ({"files": {"file": ("a", REQUESTS)}, "data": {"purpose": "fine-tune"}}, 400, "invalid_value", "purpose"),
        ({"files": {"file": ("a", b"")}, "data": PURPOSE}, 400, "empty_file", "file"),
        ({"files": {"other": ("a", REQUESTS)}, "data": PURPOSE}, 400, None, "file"),
        ({"files": [("file", ("a", REQUESTS)), ("file", ("b", REQUESTS))], "data": PURPOSE}, 400, None, "file"),
        (
            {"files": {"file": ("a", REQUESTS)}, "data": PURPOSE | {"expires_after[seconds]": "3600"}},
            400,
            "invalid_value",
            "expires_after",
        ),
        (
            {"files": {"file": ("a", REQUESTS)}, "data": PURPOSE, "headers": {"content-encoding": "gzip"}},
            415,
            None,
            None,
        ),
    ]
    for given, *expected in cases:
        assert error_of(served.client.post("/v1/files", **given)) == tuple(expected), given
    assert list(served.spool.files.iterdir()) == []


def test_what_is_too_large_is_refused_at_once_or_on_its_way(tmp_path: Path) -> None:
    served = Served(tmp_path, build({"web": {"max_upload_bytes": 1024, "max_stored_bytes": 1024}}, "test"))
    refused = sent(served, bytes(2 << 20))
    assert error_of(refused) == (413, "file_too_large", "file")
    chunked = sent(served, bytes(2000))
    assert error_of(chunked) == (413, "file_too_large", "file")
    assert sent(served, bytes(1000)).status_code == 200
    full = sent(served, bytes(1000))
    assert (error_of(full)[:2], full.headers["x-should-retry"]) == ((507, "storage_full"), "false")
    assert len(list(served.spool.files.iterdir())) == 1


def test_a_full_disk_is_said_and_is_nothing_to_try_again(tmp_path: Path) -> None:
    served = Served(tmp_path, build({"results": {"keep_free": 1 << 60}}, "test"))
    refused = sent(served)
    assert (error_of(refused)[:2], refused.headers["x-should-retry"]) == ((507, "disk_full"), "false")
    assert list(served.spool.files.iterdir()) == []


def test_only_so_many_uploads_at_once(tmp_path: Path) -> None:
    served = Served(tmp_path, build({"web": {"uploads": 1}}, "test"))
    head = {"content-type": "multipart/form-data; boundary=b"}
    asked = {"bytes": 3, "filename": "r", "purpose": "batch", "mime_type": "text/plain"}
    begun = served.client.post("/v1/uploads", json=asked).json()

    async def at_once() -> list[httpx.Response]:
        async with served.asking() as client:
            answers: list[httpx.Response] = []

            async def slowly() -> AsyncIterator[bytes]:
                yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\n\r\n--b\r\n'
                answers.append(await client.post("/v1/files", files={"file": ("r", REQUESTS)}, data=PURPOSE))
                answers.append(await client.post(f"/v1/uploads/{begun['id']}/parts", files={"data": ("r", b"{}\n")}))
                yield b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'

            return [await client.post("/v1/files", content=slowly(), headers=head), *answers]

    first, second, part = asyncio.run(at_once())
    assert first.status_code == 200
    assert error_of(second)[:2] == (429, "too_many_at_once") and second.headers["retry-after"]
    assert error_of(part)[:2] == (429, "too_many_at_once"), "a part is an upload"


def test_an_upload_that_is_tried_again_is_one_file_and_one_that_is_meant_twice_two(served: Served) -> None:
    again = {"x-stainless-retry-count": "2"}
    first = sent(served).json()
    assert sent(served, headers=again).json() == first
    assert sent(served).json()["id"] != first["id"]
    assert sent(served, REQUESTS + b"\n", headers=again).json()["id"] != first["id"]
    assert sent(served, name="other.jsonl", headers=again).json()["id"] != first["id"]
    answer = served.client_of("key").post(
        "/v1/files", files={"file": ("r.jsonl", REQUESTS)}, data=PURPOSE, headers=again
    )
    assert answer.json()["id"] != first["id"]


def test_a_download_goes_on_where_it_broke_off(served: Served) -> None:
    file = sent(served, bytes(range(200))).json()["id"]
    url = f"/v1/files/{file}/content"
    whole = served.client.get(url)
    etag = whole.headers["etag"]
    assert served.client.get(url, headers={"if-none-match": f'"x", {etag}'}).status_code == 304
    part = served.client.get(url, headers={"range": "bytes=190-", "if-range": etag})
    assert (part.status_code, part.content) == (206, bytes(range(190, 200)))
    assert part.headers["content-range"] == "bytes 190-199/200"
    changed = served.client.get(url, headers={"range": "bytes=190-", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    many = served.client.get(url, headers={"range": "bytes=" + ",".join(f"{n}-{n}" for n in range(101))})
    assert (many.status_code, many.content) == (200, whole.content)
    behind = served.client.get(url, headers={"range": "bytes=200-"})
    assert (error_of(behind)[:2], behind.headers["content-range"]) == ((416, "invalid_range"), "bytes */200")
    head = served.client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "200")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=3-99", (3, 10)),
        ("bytes=5-3", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=-", None),
    ],
)
def test_one_range_is_sent_and_what_is_none_is_the_whole(header: str | None, expected: tuple[int, int] | None) -> None:
    assert content.wanted(header, 10) == expected


def test_a_file_that_is_removed_while_it_is_sent_comes_whole(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "CHUNK", 4)
    file = sent(served, b"0123456789").json()["id"]
    read = content.os.pread
    removed: list[int] = []

    def pread(fd: int, size: int, at: int) -> bytes:
        if not removed:
            removed.append(served.client_of("", all=True).delete(f"/v1/files/{file}").status_code)
        return read(fd, size, at)

    monkeypatch.setattr(content.os, "pread", pread)
    assert served.client.get(f"/v1/files/{file}/content").content == b"0123456789"
    assert removed == [200]
    assert error_of(served.client.get(f"/v1/files/{file}/content")) == (404, None, "id")


def test_a_link_in_a_batchs_folder_is_no_file(served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    served.says("dropped", "completed", id="batch_" + "a" * 22)
    (served.spool.outbox / "dropped" / "results.jsonl").symlink_to(secret)
    assert error_of(served.client.get("/v1/files/file-" + "a" * 22 + "-results/content"))[0] == 404


def test_deleting_an_upload_takes_it_away_at_once_and_its_batch_goes_on(served: Served) -> None:
    file = served.upload()["id"]
    batch = served.create(file)
    assert served.client.delete(f"/v1/files/{file}").json() == {"id": file, "object": "file", "deleted": True}
    assert error_of(served.client.delete(f"/v1/files/{file}")) == (404, None, "id")
    assert (served.spool.inbox / f"{batch['inbox']['name']}.jsonl").read_bytes() == REQUESTS


def test_an_output_is_removed_by_the_daemon_or_it_is_said_why_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = served.create(served.upload()["id"])
    name = served.taken(batch)
    served.says(name, "in_progress", {"input.jsonl": REQUESTS})
    output = f"/v1/files/file-{batch['id'].removeprefix('batch_')}-"
    assert error_of(served.client.delete(f"{output}results"))[0] == 404
    refused = served.client.delete(f"{output}input")
    assert (error_of(refused)[:2], refused.headers["x-should-retry"]) == ((409, "batch_not_ended"), "false")
    served.says(name, "completed", {"results.jsonl": b"{}\n"})
    assert error_of(served.client.delete(f"{output}results"))[:2] == (409, "daemon_not_running")
    served.daemon()
    monkeypatch.setattr(live, "_STALE_AFTER", 0.0)
    monkeypatch.setattr(control, "_GOES_WITHIN", 0.1)
    assert error_of(served.client.delete(f"{output}results"))[:2] == (409, "not_removed")
    assert list(served.spool.inbox.iterdir()) == [], "what was not carried out is taken back"


def test_no_id_of_a_file_leads_out_of_the_spool(served: Served) -> None:
    (served.spool.root / "secret").write_text("secret")
    hostile = [
        "file-..",
        "..%2f..%2fsecret",
        "file-0000000000000000-input",
        "file-" + "0" * 22 + "-results",
        "file-0000000000000000-results%2f..%2f..",
        "file-0000000000000000%00",
        "file-000000000000000G",
        "FILE-0000000000000000",
        "file-0000000000000000%0a",
        ".up-1",
    ]
    for id in hostile:
        for url in (f"/v1/files/{id}", f"/v1/files/{id}/content"):
            assert served.client.get(url).status_code == 404, url
        assert served.client.delete(f"/v1/files/{id}").status_code == 404


def test_a_form_is_read_alike_however_it_is_cut(served: Served) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + REQUESTS * 50 + b"\r\n--b--\r\n"
    )
    for step in (1, 7, 1000, len(body)):
        into = lambda *_: store.begin(served.spool, "")  # noqa: E731
        with upload.Form("multipart/form-data; boundary=b", "file", 1 << 20, into) as form:
            for begin in range(0, len(body), step):
                form.write(body[begin : begin + step])
            assert form.end().sha256() == hashlib.sha256(REQUESTS * 50).hexdigest()
            assert (form.fields, form.filename) == ({"purpose": "batch"}, "a")
