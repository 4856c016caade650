"""OpenAI's Batches over a spool: every route and every refusal, in this process."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from openai.types import Batch, FileObject
from running import eventually
from served import REQUESTS, Served, asked

from inbox_daemon.spool import submitted
from inbox_daemon.web import asking, batches_api, live


def error_of(answer: Any) -> tuple[int, str | None, str | None]:
    said = answer.json()["error"]
    assert set(said) == {"message", "type", "param", "code"} and said["message"], said
    return answer.status_code, said["code"], said["param"]


def in_inbox(served: Served) -> list[str]:
    return sorted(path.name for path in served.spool.inbox.glob("*.jsonl"))


def test_a_file_becomes_a_batch_and_its_answers_become_files(served: Served) -> None:
    file = served.upload(name="weird/../na me.jsonl")
    assert FileObject.model_validate(file, strict=True).filename == "weird/../na me.jsonl"
    batch = served.create(file["id"], metadata={"a": "b"})
    assert Batch.model_validate(batch, strict=True).status == "validating"
    assert (batch["request_counts"], batch["metadata"]) == ({"total": 0, "completed": 0, "failed": 0}, {"a": "b"})
    assert (batch["completion_window"], batch["input_file_id"], batch["usage"]) == ("24h", file["id"], None)
    name = batch["inbox"]["name"]
    assert (served.spool.inbox / f"{name}.jsonl").read_bytes() == REQUESTS
    served.taken(batch)
    assert served.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "validating", "and has no folder yet"
    served.says(name, "in_progress", {"input.jsonl": REQUESTS, "results.jsonl": b"half"}, paused=True)
    running = served.client.get(f"/v1/batches/{batch['id']}").json()
    assert (running["status"], running["output_file_id"], running["inbox"]["paused"]) == ("in_progress", None, True)
    files = {"results.jsonl": b"{}\n", "errors.jsonl": b"", "retry@m.jsonl": REQUESTS}
    served.says(name, "completed", files, errors={"data": [{"code": "invalid_json", "line": 2}]})
    batch = served.client.get(f"/v1/batches/{batch['id']}").json()
    Batch.model_validate(batch, strict=True)
    assert (batch["status"], batch["error_file_id"], batch["errors"]) == ("completed", None, None)
    assert batch["inbox"]["faults"][0]["line"] == 2
    assert served.client.get(f"/v1/files/{batch['output_file_id']}/content").content == b"{}\n"
    derived = {batch["output_file_id"].replace("results", kind) for kind in ("results", "input", "retry")}
    told = served.client.get("/v1/files", params={"order": "asc"}).json()["data"]
    assert {one["id"] for one in told} == {file["id"], *derived}
    assert batch["inbox"]["retry_file_id"] in derived
    for one in told:
        FileObject.model_validate(one, strict=True)
        assert served.client.get(f"/v1/files/{one['id']}").json() == one
        assert len(served.client.get(f"/v1/files/{one['id']}/content").content) == one["bytes"]


def test_what_was_dropped_is_told_as_well_and_under_either_id_what_was_made_here(served: Served) -> None:
    served.says("dropped", "completed", {"results.jsonl": b"{}\n", "input.jsonl": REQUESTS}, id="batch_" + "a" * 22)
    made = served.create(served.upload()["id"])
    served.says(served.taken(made), "in_progress", id="batch_" + "b" * 22)
    told = served.client.get("/v1/batches").json()
    assert [one["inbox"]["name"] for one in told["data"]] == [made["inbox"]["name"], "dropped"]
    dropped = Batch.model_validate(told["data"][1], strict=True)
    assert (dropped.id, dropped.input_file_id) == ("batch_" + "a" * 22, "file-" + "a" * 22 + "-input")
    assert served.client.get("/v1/batches/batch_" + "b" * 22).json()["id"] == made["id"]
    again = served.create(dropped.input_file_id)
    assert (served.spool.inbox / f"{again['inbox']['name']}.jsonl").read_bytes() == REQUESTS
    assert error_of(served.client.post("/v1/batches", json=asked(str(dropped.output_file_id))))[0] == 400


def test_what_was_dropped_is_found_by_its_id_as_soon_as_the_outbox_has_it(served: Served) -> None:
    for n in range(3):
        id = f"batch_{n:022x}"
        assert served.client.get(f"/v1/batches/{id}").status_code == 404
        served.says(f"dropped-{n}", "in_progress", id=id)
        assert served.client.get(f"/v1/batches/{id}").json()["id"] == id


def test_lists_come_a_page_at_a_time_and_say_where_they_end(served: Served) -> None:
    file = served.upload()["id"]
    made: list[str] = []
    for _ in range(5):
        made.insert(0, served.create(file)["id"])
        assert [one["id"] for one in served.client.get("/v1/batches").json()["data"]] == made, "there at once"
    first = served.client.get("/v1/batches", params={"limit": 2}).json()
    assert (first["object"], first["has_more"], first["first_id"], first["last_id"]) == ("list", True, *made[:2])
    second = served.client.get("/v1/batches", params={"limit": 2, "after": made[1]}).json()
    last = served.client.get("/v1/batches", params={"limit": 2, "after": made[3]}).json()
    assert [[one["id"] for one in page["data"]] for page in (first, second, last)] == [made[:2], made[2:4], made[4:]]
    assert last["has_more"] is False
    nothing = served.client.get("/v1/batches", params={"after": made[4]}).json()
    assert (nothing["data"], nothing["first_id"], nothing["has_more"]) == ([], None, False)
    for wrong in ({"after": "batch_0"}, {"limit": 0}, {"limit": 101}, {"limit": "x"}):
        answer = served.client.get("/v1/batches", params=wrong)
        assert error_of(answer) == (400, "invalid_value", next(iter(wrong)))


WRONG: list[tuple[dict[str, Any], int, str | None, str | None]] = [
    ({"input_file_id": None}, 400, "missing_required_parameter", "input_file_id"),
    ({"endpoint": None}, 400, "missing_required_parameter", "endpoint"),
    ({"completion_window": None}, 400, "missing_required_parameter", "completion_window"),
    ({"input_file_id": "file-0000000000000000"}, 404, None, "id"),
    ({"input_file_id": "../../etc/passwd"}, 404, None, "id"),
    ({"input_file_id": 7}, 400, "invalid_value", "input_file_id"),
    ({"endpoint": "/v1/images"}, 400, "invalid_value", "endpoint"),
    ({"completion_window": "soon"}, 400, "invalid_value", "completion_window"),
    ({"metadata": {str(n): "" for n in range(17)}}, 400, "invalid_value", "metadata"),
    ({"metadata": {"k" * 65: ""}}, 400, "invalid_value", "metadata"),
    ({"metadata": {"k": "v" * 513}}, 400, "invalid_value", "metadata"),
    ({"metadata": {"k": 1}}, 400, "invalid_value", "metadata"),
    ({"metadata": []}, 400, "invalid_value", "metadata"),
    ({"priority": "high"}, 400, "invalid_value", "priority"),
    ({"priority": 10**9}, 400, "invalid_value", "priority"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "invalid_value", "output_expires_after"),
    ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, 400, "invalid_value", "output_expires_after"),
]


def test_what_no_batch_can_be_made_of_is_refused_and_makes_nothing(served: Served) -> None:
    file = served.upload()["id"]
    for change, *expected in WRONG:
        whole = {key: value for key, value in (asked(file) | change).items() if value is not None}
        assert error_of(served.client.post("/v1/batches", json=whole)) == tuple(expected), change
    for body in (b"", b"[]", b"{", b'{"a": "\\ud800"}'):
        assert error_of(served.client.post("/v1/batches", content=body))[:2] == (400, "invalid_json")
    assert error_of(served.client.post("/v1/batches", content=b" " * (1 << 20) + b"{}"))[0] == 413
    assert (served.client.get("/v1/batches").json()["data"], in_inbox(served)) == ([], [])


def test_a_retry_is_the_same_batch_and_a_second_creation_another(served: Served) -> None:
    file = served.upload()["id"]
    again = {"x-stainless-retry-count": "1"}
    first = served.create(file)
    second = served.create(file)
    assert first["id"] != second["id"], "two that were meant are two"
    retried = served.client.post("/v1/batches", json=asked(file), headers=again).json()
    assert retried["id"] == second["id"], "the newest in these words"
    other = served.client.post("/v1/batches", json=asked(file, metadata={"n": "1"}), headers=again).json()
    assert other["id"] not in (first["id"], second["id"]), "its first try never came"
    served.client.delete(f"/v1/files/{file}")
    assert served.client.post("/v1/batches", json=asked(file), headers=again).json()["id"] == second["id"]
    assert len(in_inbox(served)) == 3


def test_what_a_client_names_is_made_once_even_by_many_at_once(served: Served) -> None:
    file = served.upload()["id"]
    named = {"Idempotency-Key": "mine"}

    async def create_often() -> list[httpx.Response]:
        async with served.asking() as client:
            asking = [client.post("/v1/batches", json=asked(file), headers=named) for _ in range(4)]
            return await asyncio.gather(*asking)

    answers = asyncio.run(create_often())
    assert len({answer.json()["id"] for answer in answers}) == 1 and len(in_inbox(served)) == 1
    answer = served.client.post("/v1/batches", json=asked(file, metadata={}), headers=named)
    assert error_of(answer)[:2] == (422, "idempotency_key_reused")
    assert served.client_of("a").post("/v1/batches", json=asked(file), headers=named).status_code == 404
    for wrong in ("", "k" * 256):
        answer = served.client.post("/v1/batches", json=asked(file), headers={"Idempotency-Key": wrong})
        assert error_of(answer) == (400, "invalid_value", "Idempotency-Key")


def test_a_retry_that_comes_while_the_first_try_is_at_work_finds_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(served.upload()["id"])
    looked, look, create = threading.Event(), batches_api._made_before, submitted.create

    def looking(*given: Any) -> Any:
        found = look(*given)
        looked.set()
        return found

    def creating(*given: Any, **more: Any) -> Any:
        looked.wait(0.3)  # the retry looks meanwhile, if it may
        return create(*given, **more)

    monkeypatch.setattr(batches_api, "_made_before", looking)
    monkeypatch.setattr(submitted, "create", creating)

    async def both() -> list[httpx.Response]:
        async with served.asking() as client:
            first = client.post("/v1/batches", json=whole)
            return await asyncio.gather(
                first, client.post("/v1/batches", json=whole, headers={"x-stainless-retry-count": "1"})
            )

    answers = asyncio.run(both())
    assert len({answer.json()["id"] for answer in answers}) == 1 == len(in_inbox(served))


def test_a_batch_is_cancelled_wherever_it_is(served: Served) -> None:
    file = served.upload()["id"]
    in_time = served.create(file)
    told = served.client.post(f"/v1/batches/{in_time['id']}/cancel").json()
    assert (told["status"], in_inbox(served)) == ("cancelled", [])
    assert told["cancelled_at"] is not None
    again = served.client.post(f"/v1/batches/{in_time['id']}/cancel")
    assert again.status_code == 409 and again.headers["x-should-retry"] == "false"
    said = again.json()["error"]
    assert said == {
        "message": "Cannot cancel a batch with status 'cancelled'.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }

    claimed = served.create(file)
    name = served.taken(claimed)
    served.says(name, "in_progress", id="batch_" + "c" * 22)
    for _ in range(2):
        told = served.client.post(f"/v1/batches/{claimed['id']}/cancel").json()
        assert (told["status"], Batch.model_validate(told, strict=True).cancelling_at is None) == ("cancelling", False)
    assert served.client.get(f"/v1/batches/{claimed['id']}").json()["status"] == "cancelling", "not in_progress again"
    assert [path.name for path in served.spool.inbox.glob("*.cancel")] == ["batch_" + "c" * 22 + ".cancel"]
    served.says(name, "cancelled")
    assert served.client.get(f"/v1/batches/{claimed['id']}").json()["status"] == "cancelled"


def test_what_was_told_once_is_never_unknown_though_its_folder_is_removed(served: Served) -> None:
    batch = served.create(served.upload()["id"])
    name = served.taken(batch)
    served.says(name, "completed", {"results.jsonl": b"{}\n"})
    before = served.client.get(f"/v1/batches/{batch['id']}").json()
    for path in served.spool.batch(name).dir.iterdir():
        path.unlink()
    served.spool.batch(name).dir.rmdir()
    told = served.client.get(f"/v1/batches/{batch['id']}").json()
    assert (told["status"], told["output_file_id"]) == ("completed", None)
    assert {**before, "output_file_id": None} == told
    assert error_of(served.client.get(f"/v1/files/{before['output_file_id']}")) == (404, None, "id")


def test_a_batch_whose_folder_went_before_its_end_was_seen_has_failed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = served.create(served.upload()["id"])
    served.taken(batch)
    monkeypatch.setattr(live, "_LOST_AFTER", 0.0)
    monkeypatch.setattr(live, "_STALE_AFTER", 0.0)
    assert served.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "validating", "no daemon, no verdict"
    served.daemon()
    eventually(lambda: served.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "failed", 5)
    told = Batch.model_validate(served.client.get(f"/v1/batches/{batch['id']}").json(), strict=True)
    assert told.errors and told.errors.data and told.errors.data[0].code == "outbox_removed"


def test_a_client_waits_for_the_next_change_and_hears_it_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = served.create(served.upload()["id"])
    url = f"/v1/batches/{batch['id']}"
    first = served.client.get(url)
    etag = first.headers["etag"]
    assert etag.startswith('W/"')
    same = served.client.get(url, headers={"if-none-match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    with monkeypatch.context() as impatient:
        impatient.setattr(asking, "WAIT_AT_MOST", 0.1)
        waited = served.client.get(url, headers={"if-none-match": etag, "prefer": "wait=60"})
        assert (waited.status_code, waited.headers["preference-applied"]) == (304, "wait=0.1")
    heard: list[Any] = []
    listening = threading.Thread(
        target=lambda: heard.append(
            served.client_of("", all=True).get(url, headers={"if-none-match": etag, "prefer": "respond-async, wait=30"})
        )
    )
    listening.start()
    served.says(served.taken(batch), "in_progress")
    listening.join(10)
    assert heard[0].json()["status"] == "in_progress"
    assert served.client.get(url, headers={"if-none-match": etag, "prefer": "wait=30"}).status_code == 200, "at once"


def test_a_key_sees_what_it_has_made_and_anothers_batch_is_not_there(served: Served) -> None:
    mine, theirs = served.client_of("mine"), served.client_of("theirs")
    file = mine.post("/v1/files", files={"file": ("a.jsonl", REQUESTS)}, data={"purpose": "batch"}).json()["id"]
    batch = mine.post("/v1/batches", json=asked(file)).json()
    served.says(served.taken(batch), "completed", {"results.jsonl": b"{}\n"})
    served.says("dropped", "completed", {"results.jsonl": b"{}\n"})
    output = mine.get(f"/v1/batches/{batch['id']}").json()["output_file_id"]
    asks = [
        ("GET", f"/v1/files/{file}"),
        ("GET", f"/v1/files/{file}/content"),
        ("GET", f"/v1/files/{output}"),
        ("GET", f"/v1/files/{output}/content"),
        ("GET", f"/v1/batches/{batch['id']}"),
        ("GET", f"/api/batches/{batch['id']}/answers"),
        ("POST", f"/v1/batches/{batch['id']}/cancel"),
        ("POST", f"/api/batches/{batch['id']}/pause"),
        ("POST", f"/api/batches/{batch['id']}/delete"),
        ("DELETE", f"/v1/files/{output}"),
        ("DELETE", f"/v1/files/{file}"),
    ]
    for method, url in asks:
        assert theirs.request(method, url).status_code == 404, (method, url)
    assert theirs.get("/v1/batches").json()["data"] == theirs.get("/v1/files").json()["data"] == []
    assert [one["id"] for one in mine.get("/v1/batches").json()["data"]] == [batch["id"]]
    assert {one["id"] for one in mine.get("/v1/files").json()["data"]} == {file, output}
    assert len(served.client.get("/v1/batches").json()["data"]) == 2
    assert mine.get("/api/live").json()["daemons"] == []
    assert error_of(theirs.post("/v1/batches", json=asked(file)))[0] == 404


@pytest.mark.parametrize("id", ["batch_0000000000000000", "batch_..", "batch_" + "0" * 22, "x", "batch_%2e%2e%2f", "é"])
def test_what_is_no_batch_is_not_found(served: Served, id: str) -> None:
    assert error_of(served.client.get(f"/v1/batches/{id}")) == (404, "batch_not_found", "batch_id")
    assert error_of(served.client.post(f"/v1/batches/{id}/cancel"))[0] == 404


def test_a_priority_goes_into_the_inbox_with_the_file(served: Served) -> None:
    batch = served.create(served.upload()["id"], priority=7)
    assert (served.spool.inbox / f"{batch['inbox']['name']}.priority").read_text() == "7\n"
    assert submitted.all_of(served.spool)[0].priority == 7
