"""A request is answered by the model that it was accepted for, whoever runs the batch and whatever the settings say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import Daemon, batch_of, custom_ids, error_of, eventually, jsonl, lines, proven, request

from inbox_daemon.layout import Spool
from inbox_daemon.spool import published

Start = Callable[..., Daemon]
pytestmark = pytest.mark.slow
LOADS_FOR = "INBOX_DAEMON_ENGINE__NULL__LOAD"


def serving(model: str, rate: float = 0.0) -> dict[str, str]:
    engine = {"INBOX_DAEMON_ENGINE__MODEL": model, "INBOX_DAEMON_ENGINE__NULL__RATE": str(rate)}
    return engine | {"INBOX_DAEMON_DAEMON__STOP_GRACE": "0"}


def receipt(daemon: Daemon, name: str) -> dict[str, Any]:
    return dict(orjson.loads((daemon.outbox(name) / "receipt.json").read_bytes()))


def models(daemon: Daemon, name: str) -> set[str]:
    """The models of all engines that have worked on it."""
    return {engine["model"] for engine in receipt(daemon, name)["engines"]}


def left_half_done(start_daemon: Start) -> int:
    """Have a daemon with org/a answer some of the 300 requests of `mine` and stop; return how many."""
    first = start_daemon(environment=serving("org/a", rate=25))
    first.drop("mine.jsonl", batch_of(300))
    eventually(lambda: first.done("mine") >= 20)
    assert first.stop() == 0
    return first.done("mine")


def test_a_batch_waits_for_its_model_after_a_start_with_another_one_and_says_so(start_daemon: Start) -> None:
    done = left_half_done(start_daemon)
    other = start_daemon(environment=serving("org/b"))
    eventually(lambda: other.status("mine").get("waiting_for_model") == "org/a", 20)
    other.drop("theirs.jsonl", batch_of(20))
    assert other.finished("theirs")["status"] == "completed"
    status = other.status("mine")
    assert (status["status"], status["in_flight"], other.done("mine")) == ("in_progress", 0, done)
    assert "mine: waits for an engine of org/a, which alone may answer what is left" in other.text()
    assert "this daemon has org/b (engine.model)" in other.text()
    assert other.stop() == 0 and models(other, "theirs") == {"org/b"}

    again = start_daemon(environment=serving("org/a"))
    status = again.finished("mine")
    assert (status["request_counts"]["completed"], status["waiting_for_model"]) == (300, None)
    assert custom_ids(again.outbox("mine") / "results.jsonl") == [f"r{i}" for i in range(300)]
    assert models(again, "mine") == {"org/a"}
    proven(again, "mine")


def test_a_batch_that_names_no_model_and_that_none_has_worked_on_is_the_next_ones(start_daemon: Start) -> None:
    """As where the first model could not be loaded, and the setting is put right."""
    first = start_daemon(environment=serving("org/a", rate=0.001))
    (first.inbox / "mine.pause").touch()
    first.drop("mine.jsonl", batch_of(30))
    first.drop("named.jsonl", of_model("org/a", 30))
    eventually(lambda: first.status("mine").get("paused") and first.status("named").get("in_flight"))
    first.stop()
    other = start_daemon(environment=serving("org/b"))
    (other.inbox / "mine.resume").touch()
    assert other.finished("mine")["request_counts"]["completed"] == 30
    assert models(other, "mine") == {"org/b"}
    assert other.status("named")["waiting_for_model"] == "org/a"


def test_a_daemon_that_drains_ends_and_says_that_a_batch_waits_for_another_model(start_daemon: Start) -> None:
    left_half_done(start_daemon)
    other = start_daemon(environment=serving("org/b"), arguments=["--drain"], ready=False)
    assert other.ended(30) == 1
    assert other.status("mine")["waiting_for_model"] == "org/a"


def test_a_batch_that_waits_for_its_model_can_be_cancelled_and_keeps_its_answers(start_daemon: Start) -> None:
    left_half_done(start_daemon)
    other = start_daemon(environment=serving("org/b"))
    eventually(lambda: other.status("mine").get("waiting_for_model"), 20)
    (other.inbox / "mine.cancel").touch()
    status = other.finished("mine")
    assert status["status"] == "cancelled" and status["request_counts"]["completed"] >= 20
    proven(other, "mine")


def of_model(model: str, count: int) -> bytes:
    return jsonl([request(f"r{i}", f"say {i}", model=model) for i in range(count)])


def test_two_daemons_with_different_models_on_one_spool_each_take_their_own(start_daemon: Start) -> None:
    one = start_daemon(environment=serving("org/a") | {"INBOX_DAEMON_INBOX__WAIT_FOR_MODEL": "60"})
    one.drop("early.jsonl", of_model("org/b", 20))
    eventually(lambda: "'early.jsonl' waits: no daemon here serves 'org/b'" in one.text(), 10, "it is said")
    two = start_daemon(environment=serving("org/b"))
    time_of_both = lambda: len(list((one.spool / "daemons").glob("*.json"))) == 2  # noqa: E731
    eventually(time_of_both, 10)
    for n in range(6):
        one.drop(f"a{n}.jsonl", of_model("org/a", 20))
        one.drop(f"b{n}.jsonl", of_model("org/b", 20))
    for n in range(6):
        for name in ("a", "b"):
            status = one.finished(f"{name}{n}")
            assert status["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
            assert models(one, f"{name}{n}") == {f"org/{name}"}
    assert "a0: claimed" in one.text() and "b0: claimed" in two.text()
    assert one.finished("early")["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert "early: claimed" in two.text() and "early: claimed" not in one.text()


def test_a_file_whose_model_nobody_serves_comes_back_after_a_while_ready_to_be_sent_again(
    start_daemon: Start, tmp_path: Path
) -> None:
    inbox = tmp_path / "spool" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "b.jsonl").write_bytes(of_model("org/b", 20))
    patience = {"INBOX_DAEMON_INBOX__WAIT_FOR_MODEL": "3"}
    daemon = start_daemon(environment=serving("org/a") | patience, arguments=["--drain"])
    why = lambda: published.waiting(Spool(daemon.spool)).get("b.jsonl", "")  # noqa: E731
    eventually(lambda: "no daemon here serves 'org/b'" in why(), 10, "the views say for what it waits")
    eventually(
        lambda: "no daemon here serves 'org/b'" in daemon.status("b").get("not_taken", ""), 10, "the outbox does"
    )
    assert daemon.ended(30) == 3
    assert daemon.finished("b")["request_counts"] == {"total": 20, "completed": 0, "failed": 20}
    assert (daemon.outbox("b") / "retry.jsonl").read_bytes() == of_model("org/b", 20)
    assert {error_of(line).code for line in lines(daemon.outbox("b") / "errors.jsonl")} == {"model_mismatch"}


def test_a_batch_left_by_a_killed_daemon_goes_back_to_one_that_has_its_model(start_daemon: Start) -> None:
    one = start_daemon(environment=serving("org/a", rate=20))
    two = start_daemon(environment=serving("org/b"))
    one.drop("mine.jsonl", of_model("org/a", 400))
    eventually(lambda: one.done("mine") >= 20)
    one.kill()
    eventually(lambda: "mine: waits for an engine of org/a" in two.text(), 60, "adopted by the one that is left")
    began = time.monotonic()
    again = start_daemon(environment=serving("org/a"))
    status = again.finished("mine", 60)
    assert time.monotonic() - began < 45
    assert status["request_counts"] == {"total": 400, "completed": 400, "failed": 0}
    assert models(again, "mine") == {"org/a"}
    assert "mine: left to daemon " in two.text()
    proven(again, "mine")


def test_what_an_adapter_was_asked_for_is_answered_by_that_adapter_and_waits_where_there_is_none(
    start_daemon: Start,
) -> None:
    adapters = '[engine.args]\nlora_modules = ["screening=/srv/screening"]\n[models.aliases]\nshort = "screening"\n'
    asked = [request(f"r{at}", "x", model=("org/a", "screening", "short")[at % 3]) for at in range(300)]
    first = start_daemon(environment=serving("org/a", rate=25), settings=adapters)
    first.drop("mine.jsonl", jsonl(asked))
    eventually(lambda: first.done("mine") >= 20)
    assert first.stop() == 0

    without = start_daemon(environment=serving("org/a"))
    eventually(lambda: without.status("mine").get("waiting_for_model") == "screening", 20)
    assert without.done("mine") < 300
    assert without.stop() == 0

    again = start_daemon(environment=serving("org/a"), settings=adapters)
    assert again.finished("mine")["request_counts"]["completed"] == 300
    answers = lines(again.outbox("mine") / "results.jsonl")
    said = [line["response"]["body"]["model"] for line in answers]
    assert said == ["org/a", "screening", "screening"] * 100
    assert all(line["response"]["body"]["created"] > 1_700_000_000 for line in answers)
    proven(again, "mine")


@pytest.mark.parametrize("moment", ["engine 1 starting", "org/a gives way to org/b", "engine 2 starting"])
def test_killed_while_models_change_it_goes_on_and_each_line_has_its_own_models_answer(
    start_daemon: Start, tmp_path: Path, moment: str
) -> None:
    """While one loads, while one gives way, and while something waits for the other."""
    asked = [request(f"r{at}", f"say {at}", model=f"org/{'ab'[at % 2]}") for at in range(80)]
    (tmp_path / "mine.jsonl").write_bytes(jsonl(asked))
    two = {"settings": '[model."org/b"]\n', "environment": serving("org/a", rate=100) | {LOADS_FOR: "1.0"}}
    first = start_daemon(**two)
    first.drop("mine.jsonl", (tmp_path / "mine.jsonl").read_bytes())
    eventually(lambda: moment in first.text(), 30, moment)
    first.kill()
    again = start_daemon(**two)
    again.finished("mine")
    answers = lines(again.outbox("mine") / "results.jsonl")
    assert [line["response"]["body"]["model"] for line in answers] == ["org/a", "org/b"] * 40
    proven(again, "mine", tmp_path / "mine.jsonl")
