"""OpenAI's Batches over a spool: every route and every refusal, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.types import Batch, FileObject
from served import REQUESTS, Served, asked


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_a_file_becomes_a_batch_and_its_answers_files(served: Served) -> None:
    file = served.upload(name="weird/../na me.jsonl")
    assert FileObject.model_validate(file, strict=True).filename == "weird/../na me.jsonl"
    batch = served.create(file["id"], metadata={"a": "b"})
    assert Batch.model_validate(batch, strict=True).status == "validating"
    assert (batch["request_counts"], batch["metadata"]) == ({"total": 0, "completed": 0, "failed": 0}, {"a": "b"})
    name = batch["inbox"]["name"]
    assert (served.spool.inbox / f"{name}.jsonl").read_bytes() == REQUESTS
    served.taken(batch)
    served.says(name, "in_progress", {"input.jsonl": REQUESTS})
    assert served.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "in_progress"
    served.says(name, "completed", {"results.jsonl": b"{}\n", "errors.jsonl": b""})
    batch = served.client.get(f"/v1/batches/{batch['id']}").json()
    Batch.model_validate(batch, strict=True)
    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    assert served.client.get(f"/v1/files/{batch['output_file_id']}/content").content == b"{}\n"
    told = served.client.get("/v1/files", params={"order": "asc"}).json()
    assert {one["id"] for one in told["data"]} == {
        file["id"],
        batch["output_file_id"],
        batch["output_file_id"].replace("results", "input"),
    }
    for one in told["data"]:
        FileObject.model_validate(one, strict=True)
        assert served.client.get(f"/v1/files/{one['id']}").json() == one


def test_an_unknown_file_is_a_404_and_makes_nothing(served: Served) -> None:
    answer = served.client.post("/v1/batches", json=asked("file-0000000000000000"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "id")
    assert served.client.get("/v1/batches").json()["data"] == []
