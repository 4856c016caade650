"""OpenAI's Uploads over a spool: a file that comes in parts, in this process."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from openai.types import FileObject, Upload
from openai.types.uploads import UploadPart
from served import REQUESTS, Served
from test_batches_api import error_of

WHOLE = REQUESTS * 40


def begin(served: Served, size: int = len(WHOLE), **more: Any) -> dict[str, Any]:
    said = {"bytes": size, "filename": "whole.jsonl", "purpose": "batch", "mime_type": "application/jsonl"} | more
    answer = served.client.post("/v1/uploads", json=said)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def add(served: Served, id: str, data: bytes) -> Any:
    return served.client.post(f"/v1/uploads/{id}/parts", files={"data": ("upload", data)})


def complete(served: Served, id: str, parts: list[str], **more: Any) -> Any:
    return served.client.post(f"/v1/uploads/{id}/complete", json={"part_ids": parts, **more})


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_become_one_file_in_the_order_that_the_client_says(order: tuple[int, ...], served: Served) -> None:
    begun = begin(served)
    assert Upload.model_validate(begun, strict=True).status == "pending"
    third = len(WHOLE) // 3
    pieces = [WHOLE[:third], WHOLE[third : 2 * third], WHOLE[2 * third :]]
    parts: dict[int, str] = {}
    for number in order:
        told = add(served, begun["id"], pieces[number]).json()
        parts[number] = UploadPart.model_validate(told, strict=True).id
        assert told["upload_id"] == begun["id"]
    md5 = hashlib.md5(WHOLE, usedforsecurity=False).hexdigest()
    done = complete(served, begun["id"], [parts[n] for n in range(3)], md5=md5).json()
    assert Upload.model_validate(done, strict=True).status == "completed"
    file = FileObject.model_validate(done["file"], strict=True)
    assert (file.bytes, file.filename, file.status) == (len(WHOLE), "whole.jsonl", "processed")
    assert served.client.get(f"/v1/files/{file.id}/content").content == WHOLE
    again = complete(served, begun["id"], [parts[n] for n in range(3)])
    assert again.json()["file"] == done["file"], "an answer that was lost is asked for again"
    assert error_of(add(served, begun["id"], b"more"))[0] == 404
    batch = served.create(file.id)
    assert (served.spool.inbox / f"{batch['inbox']['name']}.jsonl").read_bytes() == WHOLE


def test_what_does_not_fit_together_is_no_file_and_can_still_be_put_right(served: Served) -> None:
    id = begin(served)["id"]
    assert error_of(add(served, id, WHOLE + b"x")) == (400, "upload_too_large", "data")
    part = add(served, id, WHOLE).json()["id"]
    assert error_of(complete(served, id, [part, part])) == (400, "no_such_part", "part_ids")
    assert error_of(complete(served, id, ["part_" + "0" * 16])) == (400, "no_such_part", "part_ids")
    assert error_of(complete(served, id, [])) == (400, "wrong_size", "part_ids")
    assert error_of(complete(served, id, [part], md5="0" * 32)) == (400, "wrong_md5", "md5")
    assert served.client.get("/v1/files").json()["data"] == []
    assert complete(served, id, [part]).json()["status"] == "completed"
    assert len(served.client.get("/v1/files").json()["data"]) == 1


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"bytes": 0}, (400, "invalid_value", "bytes")),
        ({"bytes": "many"}, (400, "invalid_value", "bytes")),
        ({"bytes": None}, (400, "missing_required_parameter", "bytes")),
        ({"bytes": 1 << 60}, (413, "file_too_large", "bytes")),
        ({"purpose": "vision"}, (400, "invalid_value", "purpose")),
        ({"filename": 7}, (400, "invalid_value", "filename")),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, (400, "invalid_value", "expires_after")),
    ],
)
def test_what_no_upload_can_be_begun_of_is_refused(
    said: dict[str, Any], refusal: tuple[int, str, str], served: Served
) -> None:
    good = {"bytes": 10, "filename": "whole.jsonl", "purpose": "batch", "mime_type": "text/plain"}
    assert error_of(served.client.post("/v1/uploads", json=good | said)) == refusal
    assert [path.name for path in served.spool.files.iterdir() if not path.name.startswith(".")] == []


def test_a_cancelled_upload_is_gone_and_an_unknown_one_was_never_there(served: Served) -> None:
    id = begin(served)["id"]
    add(served, id, WHOLE[:100])
    assert served.client.post(f"/v1/uploads/{id}/cancel").json()["status"] == "cancelled"
    for unknown in (id, "upload_" + "0" * 16, "..", "file-" + "0" * 16):
        assert error_of(served.client.post(f"/v1/uploads/{unknown}/cancel"))[0] == 404
        assert error_of(complete(served, unknown, []))[0] == 404
        assert error_of(add(served, unknown, b"x"))[0] == 404
    assert list(served.spool.files.iterdir()) == []


def test_another_keys_upload_is_not_there(served: Served) -> None:
    ann, bob = served.client_of("ann"), served.client_of("bob")
    asked = {"bytes": 3, "filename": "a.jsonl", "purpose": "batch", "mime_type": "text/plain"}
    id = ann.post("/v1/uploads", json=asked).json()["id"]
    part = ann.post(f"/v1/uploads/{id}/parts", files={"data": ("a", b"{}\n")}).json()["id"]
    assert error_of(bob.post(f"/v1/uploads/{id}/parts", files={"data": ("a", b"{}\n")}))[0] == 404
    assert error_of(bob.post(f"/v1/uploads/{id}/cancel"))[0] == 404
    for _ in range(2):  # also once it is a file
        assert error_of(bob.post(f"/v1/uploads/{id}/complete", json={"part_ids": [part]}))[0] == 404
        assert ann.post(f"/v1/uploads/{id}/complete", json={"part_ids": [part]}).status_code == 200
