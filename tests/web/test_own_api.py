"""What OpenAI's API has no word for: answers so far, control, models, what pages poll; and what goes on beside."""

from __future__ import annotations

import base64
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from served import Served
from test_batches_api import error_of

from inbox_daemon.config import build
from inbox_daemon.errors import ConfigError
from inbox_daemon.spool import hooks
from inbox_daemon.web import live, own_api, tending, webhook

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


def running(served: Served, files: dict[str, bytes] | None = None) -> tuple[str, str]:
    """A batch that a daemon has in work; its id and its name."""
    batch = served.create(served.upload()["id"])
    name = served.taken(batch)
    served.says(name, "in_progress", files)
    return str(batch["id"]), name


def test_answers_so_far_are_whole_lines_that_keep_their_numbers(served: Served) -> None:
    lines = [b'{"n":%d}\n' % number for number in range(7)]
    parts = {"parts/part-000001.jsonl": b"".join(lines[:3]), "parts/part-000002.jsonl": b"".join(lines[3:5])}
    id, name = running(served, parts)
    url = f"/api/batches/{id}/answers"
    for first in range(6):
        answer = served.client.get(url, params={"from": first})
        assert answer.content == b"".join(lines[first:5]), first
        assert (answer.headers["x-last-line"], answer.headers["x-incomplete"]) == ("5", "true")
    assert error_of(served.client.get(url, params={"from": 6})) == (400, "invalid_value", "from")
    assert error_of(served.client.get(url, params={"from": -1})) == (400, "invalid_value", "from")
    served.says(name, "completed", {"parts/part-000003.jsonl": b"".join(lines[5:])})
    answer = served.client.get(url, params={"from": 4})
    assert (answer.content, answer.headers["x-incomplete"]) == (b"".join(lines[4:]), "false")
    (served.spool.outbox / name / "parts/part-000001.jsonl").unlink()
    assert error_of(served.client.get(url, params={"from": 5}))[:2] == (410, "answers_removed")


def test_a_batch_is_held_and_put_before_others_by_files_in_the_inbox(served: Served) -> None:
    id, name = running(served)
    said = orjson.loads((served.spool.outbox / name / "status.json").read_bytes())["id"]
    for verb in ("pause", "resume"):
        assert served.client.post(f"/api/batches/{id}/{verb}").json()["id"] == id
        (served.spool.inbox / f"{said}.{verb}").unlink()
    assert served.client.post(f"/api/batches/{id}/priority", json={"priority": -3}).status_code == 200
    assert (served.spool.inbox / f"{said}.priority").read_text() == "-3\n"
    for wrong in ({}, {"priority": "1"}, {"priority": True}):
        assert error_of(served.client.post(f"/api/batches/{id}/priority", json=wrong))[1] == "invalid_value"
    assert error_of(served.client.post(f"/api/batches/{id}/delete"))[:2] == (409, "batch_not_ended")
    assert served.client.post(f"/api/batches/{id}/cancel").json()["status"] == "cancelling"
    served.says(name, "completed")
    for verb in ("pause", "resume", "cancel"):
        refused = served.client.post(f"/api/batches/{id}/{verb}")
        assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    assert error_of(served.client.post(f"/api/batches/{id}/delete"))[:2] == (409, "daemon_not_running")


def test_a_batch_that_waits_says_for_what(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_STALE_AFTER", 0.0)
    batch = served.create(served.upload()["id"])
    url = f"/v1/batches/{batch['id']}"
    assert "no daemon runs" in served.client.get(url).json()["inbox"]["waiting_for"]
    served.daemon(waiting={f"{batch['inbox']['name']}.jsonl": "no room on the disk"})
    assert served.client.get(url).json()["inbox"]["waiting_for"] == "no room on the disk"
    served.says(served.taken(batch), "in_progress", waiting_for_model="gemma")
    assert served.client.get(url).json()["inbox"]["waiting_for"] == "model gemma"


def test_models_are_those_of_all_daemons_that_live(served: Served) -> None:
    served.daemon(models=["qwen", "gpt-4o-mini"], started_at=5.5)
    listed = served.client.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == ["qwen", "gpt-4o-mini"]
    for one in listed["data"]:
        openai.types.Model.model_validate(one, strict=True)


def test_pages_poll_cheaply_for_what_goes_on(served: Served) -> None:
    served.daemon(engines=[{"engine": 1, "model": "m", "host": "h", "state": "ready"}])
    id, name = running(served)
    answer = served.client.get("/api/live")
    assert [one["id"] for one in answer.json()["batches"]] == [id]
    assert answer.json()["daemons"][0]["engines"][0]["state"] == "ready"
    same = {"if-none-match": answer.headers["etag"]}
    assert served.client.get("/api/live", headers=same).status_code == 304
    served.says(name, "completed")
    assert served.client.get("/api/live", headers=same).json()["batches"][0]["status"] == "completed"


def test_of_many_batches_the_newest_are_told_and_all_that_go_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_api, "_SHOWN", 2)
    monkeypatch.setattr(live, "_SURE_AFTER", 0)
    for number in range(6):
        id = f"batch_{number:022x}"
        served.says(f"b{number}", "in_progress" if number == 1 else "completed", id=id, created_at=number)
    for _ in range(2):
        told = served.client.get("/api/live").json()["batches"]
        assert [one["inbox"]["name"] for one in told] == ["b5", "b4", "b1"]


def test_what_has_ended_is_not_read_again_until_its_folder_changes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, name = running(served, {"results.jsonl": b"{}\n"})
    served.says(name, "completed")
    monkeypatch.setattr(live, "_SURE_AFTER", 0)
    known = live.of(served.site)
    assert known.one(id) is not None
    read = live.published.status
    reads: list[str] = []
    monkeypatch.setattr(live.published, "status", lambda spool, name: (reads.append(name), read(spool, name))[1])
    for _ in range(3):
        assert served.client.get(f"/v1/batches/{id}").json()["output_file_id"]
    assert reads == []
    (served.spool.outbox / name / "results.jsonl").unlink()
    assert served.client.get(f"/v1/batches/{id}").json()["output_file_id"] is None
    assert reads == [name]


def test_outputs_go_when_their_time_is_over(served: Served) -> None:
    after = {"anchor": "created_at", "seconds": 3600}
    batch = served.create(served.upload()["id"], output_expires_after=after)
    name = served.taken(batch)
    served.says(name, "completed", {"results.jsonl": b"{}\n", "errors.jsonl": b"{}\n"})
    told = served.client.get(f"/v1/batches/{batch['id']}").json()
    file = served.client.get(f"/v1/files/{told['output_file_id']}").json()
    assert file["expires_at"] == told["completed_at"] + 3600
    tending.expire(served.site, time.time() + 3500)
    assert list(served.spool.inbox.iterdir()) == []
    tending.expire(served.site, time.time() + 3700)
    [dropped] = served.spool.inbox.iterdir()
    assert (dropped.name, sorted(dropped.read_text().split())) == (f"{name}.delete", ["errors.jsonl", "results.jsonl"])


class Receiver:
    """Somebody who is to hear of webhooks: says no as often as it is told to, then yes."""

    def __init__(self) -> None:
        self.refuse = 0
        self.heard: list[tuple[bytes, dict[str, str]]] = []
        told = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                told.heard.append((body, {key.lower(): value for key, value in self.headers.items()}))
                told.refuse -= 1
                self.send_response(302 if told.refuse >= 0 else 204)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_an_end_is_announced_signed_and_again_until_somebody_says_yes(tmp_path: Path, receiver: Receiver) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    settings = build({"web": {"webhook_url": receiver.url, "webhook_secret_file": str(secret)}}, "test")
    served = Served(tmp_path, settings)
    key = webhook.secret(secret)
    id, name = running(served)
    early = served.create(served.upload()["id"])
    served.client.post(f"/v1/batches/{early['id']}/cancel")
    served.says(name, "completed")
    receiver.refuse = 1
    tending.note_ends(served.site, time.time())
    again = live.Live(served.spool, announces=True)  # as after a restart
    assert [again.one(batch) is not None for batch in (id, early["id"])] == [True, True]
    assert {hook.batch: hook.type for hook in hooks.waiting(served.spool)} == {
        id: "batch.completed",
        early["id"]: "batch.cancelled",
    }
    tending.deliver(served.site, key, time.time())
    [left] = hooks.waiting(served.spool)
    assert (left.tries, 4 < left.due_at - time.time() <= 5) == (1, True)
    tending.deliver(served.site, key, time.time())
    assert len(receiver.heard) == 2, "not before its time"
    tending.deliver(served.site, key, left.due_at)
    assert (hooks.waiting(served.spool), len(receiver.heard)) == ([], 3)
    client = openai.OpenAI(api_key="-", webhook_secret=SECRET)
    told = [client.webhooks.unwrap(body, headers) for body, headers in receiver.heard]
    assert {(event.type, event.data.id) for event in told} == {
        ("batch.completed", id),
        ("batch.cancelled", early["id"]),
    }
    body, headers = receiver.heard[-1]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"batch.c", b"batch.d"), headers)
    tending.note_ends(served.site, time.time())
    assert hooks.waiting(served.spool) == [], "once for each batch"


def test_a_webhook_that_nobody_takes_is_given_up_after_three_days(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(tmp_path, build({"web": {"webhook_url": "http://127.0.0.1:1/"}}, "test"))
    now = time.time()
    for tries, wait in ((0, 5), (1, 10), (9, 2560), (30, 3600)):
        hooks.put(served.spool, hooks.Hook("evt_1", "batch.failed", "batch_1", now - 71 * 3600, 0, tries))
        tending.deliver(served.site, None, now)
        [hook] = hooks.waiting(served.spool)
        assert (hook.tries, round(hook.due_at - time.time())) == (tries + 1, wait)
    tending.deliver(served.site, None, now + 2 * 3600)
    assert hooks.waiting(served.spool) == []
    assert "webhook of batch_1 given up after 72 h" in caplog.text
    assert caplog.text.count("not taken") == 1, "said at the first try"


@pytest.mark.parametrize("text", ["", "whsec_!", "whsec_" + base64.b64encode(b"short").decode()])
def test_a_key_that_is_none_keeps_the_process_from_starting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(ConfigError, match="webhook_secret_file"):
        webhook.secret(path)
    with pytest.raises(ConfigError, match="No such file"):
        webhook.secret(tmp_path / "none")
