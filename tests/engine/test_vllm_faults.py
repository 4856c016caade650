"""The real vLLM where something is wrong with a request or with the model: whose fault it is said to be, and what of
a request is said where. One daemon: a model that computes NaN for an "@", with two adapters and two names.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import LOADED, engine_view, process, receipt_of
from running import Daemon, custom_ids, error_of, eventually, jsonl, lines, request

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("faulty")
    maker = Path(__file__).with_name("faulty_model.py")
    subprocess.run([sys.executable, str(maker), str(tiny_model), str(folder)], check=True)
    one = Daemon(
        folder / "spool",
        folder / "daemon.log",
        kind="vllm",
        arguments=["--model", str(folder / "model")],
        settings=f"""
            served_model_name = ["first", "second"]
            lora_modules = ["one={folder / "one"}", {{name = "two", path = "{folder / "two"}"}}]
            max_num_batched_tokens = 256
            [models.aliases]
            "short" = "two"
            "*" = "first"
        """,
        environment={
            "INBOX_DAEMON_ENGINE__PRELOAD": "true",
            "INBOX_DAEMON_ENGINE__STALL_AFTER": "10",
            "INBOX_DAEMON_ENGINE__MAX_DEATHS": "2",
            "INBOX_DAEMON_METRICS__TEXTFILE": str(folder / "metrics.prom"),
        },
    )
    eventually(lambda: engine_view(one).get("state") == "ready", LOADED, f"engine loaded; see {one.log}")
    yield one
    one.kill()


def content(line: dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def test_each_adapter_and_every_served_name_answers_under_its_own_name(daemon: Daemon) -> None:
    asked = ["first", "second", None, "one", "two", "short", "whatever"]
    ask = lambda at, name: request(f"r{at}", "tell me", temperature=0, **({"model": name} if name else {}))  # noqa: E731
    daemon.drop("names.jsonl", jsonl([ask(at, name) for at, name in enumerate(asked)]))
    status = daemon.finished("names", LOADED)
    assert status["request_counts"]["failed"] == 0, lines(daemon.outbox("names") / "errors.jsonl")
    answers = lines(daemon.outbox("names") / "results.jsonl")
    base, one, two = (content(answers[at]) for at in (0, 3, 4))
    assert len({base, one, two}) == 3
    assert [content(line) for line in answers] == [base, base, base, one, two, two, base]
    said = [line["response"]["body"]["model"] for line in answers]
    assert said == ["first", "first", "first", "one", "two", "two", "first"]
    [engine] = receipt_of(daemon.outbox("names"))["engines"]
    assert engine["settings"]["adapters"] == ["one", "two"]


def wanting(custom_id: str, **wanted: object) -> dict[str, Any]:
    return request(custom_id, "say something", temperature=0, structured_outputs=wanted)


PLAIN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
NO_GRAMMAR: list[tuple[dict[str, Any], str]] = [
    (wanting("multiple", json={"type": "integer", "multipleOf": 7}), "structured_outputs_config"),
    (wanting("length", json={"type": "string", "minLength": -1, "maxLength": 3}), "Invalid repetition range"),
    (wanting("type", json={"type": "thing"}), "Unsupported type"),
    (wanting("items", json={"type": "array", "items": [{"type": "integer"}]}), "items must be"),
    (wanting("rules", grammar='root ::= "a"\nroot ::= "b"'), "Invalid grammar"),
    (wanting("endless", grammar='root ::= root "a"'), "allows no text at all"),
    (wanting("regex", regex="(unclosed"), "parenthesis is not closed"),
    (wanting("tag", structural_tag='{"type": "nothing"}'), "structural_tag"),
]


def test_what_cannot_be_compiled_is_a_400_with_the_reason_whatever_others_asked_before(daemon: Daemon) -> None:
    bad = [line for line, _ in NO_GRAMMAR]
    daemon.drop("odd.jsonl", jsonl([bad[0]]))  # with vLLM's own choice its engine would keep what takes this one
    daemon.finished("odd", LOADED)
    daemon.drop(
        "wanted.jsonl",
        jsonl(
            [
                *bad,
                wanting(
                    "plain",
                    json=PLAIN,
                ),
                wanting("yes", choice=["yes", "no"]),
            ]
        ),
    )
    status = daemon.finished("wanted", 120)
    folder = daemon.outbox("wanted")
    assert custom_ids(folder / "results.jsonl") == ["plain", "yes"]
    assert content(lines(folder / "results.jsonl")[1]) in ("yes", "no")
    for error, (line, words) in zip(lines(folder / "errors.jsonl"), NO_GRAMMAR, strict=True):
        assert error["custom_id"] == line["custom_id"]
        assert error["response"]["status_code"] == 400 and error_of(error).code == "invalid_request", error
        assert words in error_of(error).message
    assert not (folder / "retry.jsonl").exists()
    assert status["engine_deaths"] == 0


def test_an_answer_made_of_no_numbers_is_the_engines_error_and_said_once(daemon: Daemon) -> None:
    bad = [request("greedy", "a@b"), request("sampled", "@@", temperature=0.8), request("two", "@", n=2, temperature=1)]
    bad.append(wanting("schema", json=PLAIN) | {"custom_id": "schema"})
    bad[-1]["body"]["messages"][0]["content"] = "@@"
    daemon.drop("nan.jsonl", jsonl([request("good"), *bad]))
    daemon.finished("nan", LOADED)
    folder = daemon.outbox("nan")
    assert custom_ids(folder / "results.jsonl") == ["good"]
    for error in lines(folder / "errors.jsonl"):
        assert (error_of(error).code, error["response"]) == ("engine_error", None)
        assert "NaN" in error_of(error).message and "dtype" in error_of(error).message
    assert (
        custom_ids(folder / "retry.jsonl") == custom_ids(folder / "errors.jsonl") == [line["custom_id"] for line in bad]
    )
    assert sum("the model computed NaN" in line for line in daemon.text().splitlines() if " vllm: " in line) == 1


MARK = "zqzqzq"  # longer than chance makes: names of vLLM's own temporary files have eight letters, ids have hex


def secret(kind: str) -> str:
    return f"{MARK}{kind}qz"


DEADLY = {"temperature": 0.5, "seed": 1}  # in a prompt that is prefilled in chunks, vLLM 0.32 for CPUs dies of it
TOOL = {"type": "function", "function": {"name": "f", "description": secret("tool"), "parameters": {"type": "object"}}}
EVERYTHING = {
    "tools": [TOOL],
    "tool_choice": "none",
    "stop": [secret("stop")],
    "bad_words": [secret("badword")],
    "documents": [{"title": secret("title"), "text": secret("document")}],
    "logit_bias": {"1977": 3.5},
    "user": secret("user"),
    "metadata": {secret("key"): secret("value")},
}
WANTED = [
    {"json": {"type": "object", "properties": {secret("property"): {"enum": [secret("enum")]}}}},
    {"choice": [secret("choice"), secret("other")]},
    {"regex": f"{secret('regex')}[0-9]+"},
    {"grammar": f'root ::= "{secret("grammar")}" root | "x"'},
]
BROKEN = [
    {"grammar": f'root ::= "{secret("broken")}'},
    {"json": {"type": "string", "minLength": -7, "maxLength": 3, "description": secret("described")}},
    {"json": {"type": secret("kind")}},
    {"json": {"$ref": f"http://{secret('reference')}.invalid/s.json"}},
    {"regex": f"({secret('pattern')}"},
]


def test_no_text_of_a_request_is_said_anywhere_when_an_engine_hangs_and_dies_or_a_grammar_fails(
    daemon: Daemon,
) -> None:
    texts = f"{secret('message')} " * 100
    long = {"max_tokens": 1500, "ignore_eos": True}
    ask = lambda at, wanted, **body: request(f"r{at}", texts, structured_outputs=wanted, **EVERYTHING, **body)  # noqa: E731
    daemon.drop("broken.jsonl", jsonl([ask(at, wanted) for at, wanted in enumerate(BROKEN)]))
    daemon.finished("broken", 120)
    core = process(daemon, "EngineCore")
    assert core is not None
    waiting = [request(f"w{at}", texts, **EVERYTHING, **long) for at in range(64)]  # a minute and more of work
    sick = [ask(at, wanted, **long, **DEADLY) for at, wanted in enumerate(WANTED)]
    (daemon.inbox / "sick.pause").touch()
    daemon.drop("sick.jsonl", jsonl(sick))
    daemon.drop("slow.jsonl", jsonl(waiting))
    eventually(lambda: daemon.status("slow").get("in_flight"), 60, "in flight")
    core.send_signal(signal.SIGSTOP)
    eventually(lambda: list(daemon.outbox("slow").glob("autopsy-*.txt")), 60, "an autopsy")
    eventually(lambda: daemon.text().count("engine ready: ") == 2, LOADED, "another engine")
    (daemon.inbox / "sick.resume").touch()
    eventually(lambda: daemon.text().count(" died: ") == 2, LOADED, "it dies")
    eventually(lambda: daemon.status("slow").get("parked"), 60, "parked")
    eventually(lambda: "BatchParked" in daemon.text(), 60, "an alert")
    daemon.kill()

    said = {"journal": daemon.text(), "metrics": (daemon.spool.parent / "metrics.prom").read_text()}
    said["alerts"] = (daemon.spool / "alerts.jsonl").read_text()
    for path in [*daemon.spool.glob("outbox/*/status.json"), *daemon.spool.glob("outbox/*/autopsy-*.txt")]:
        said[str(path)] = path.read_text(errors="replace")
    for path in daemon.spool.glob("daemons/*.json"):
        said[str(path)] = path.read_text()
    assert "Dumping" in said["journal"], "vLLM has not shown what it died with"
    found = {(where, text[at - 60 : at + 30]) for where, text in said.items() if (at := text.find(MARK)) >= 0}
    assert not found
    assert not re.search(r"1977\W{1,2} ?3\.5", said["journal"]), "a logit_bias key"
