"""`inbox-daemon check` as its users see it: what is said of a file, and how often."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from running import batch_of, jsonl, request

from inbox_daemon import cli


def checked(capsys: pytest.CaptureFixture[str], path: Path, *flags: str) -> tuple[int, list[str]]:
    status = cli.main(["check", str(path), *flags])
    return status, capsys.readouterr().out.splitlines()


def test_equal_faults_are_said_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.jsonl"
    bad = [request("twice") for _ in range(1000)]
    wrong = [request(f"url-{at}") | {"url": url} for at, url in enumerate(["/v1/images", "/v1/images", "/v2"])]
    path.write_bytes(
        jsonl([request("good"), wrong[0], *bad, *wrong[1:], *[request(f"s{at}", stream=True) for at in range(4)]])
    )
    status, said = checked(capsys, path)
    assert status == 1
    begins = [line.removeprefix(str(path))[:40] for line in said]
    assert begins[:2] == [':2: invalid_url: url "/v1/images" is not', ':1003: invalid_url: url "/v1/images" is ']
    assert (
        said[2]
        == f'{path}:4: duplicate_custom_id: custom_id "twice" was already used in line 3; every request needs its own'
    )
    assert said[3] == f"{path}: … and 998 lines more with this fault, first 5, 6, 7"
    assert begins[4].startswith(':1004: invalid_url: url "/v2"')
    assert begins[5].startswith(":1005: stream_not_supported: ")
    assert said[6] == f"{path}: … and 3 lines more with this fault, first 1006, 1007, 1008"
    _, [line] = checked(capsys, path, "--json")
    told = orjson.loads(line)
    assert (told["faulty"], len(told["faults"])) == (1006, 1006)
    counted = [(kind["code"], kind["count"], kind["lines"][:2]) for kind in told["kinds"]]
    assert counted == [
        ("invalid_url", 2, [2, 1003]),
        ("duplicate_custom_id", 999, [4, 5]),
        ("invalid_url", 1, [1004]),
        ("stream_not_supported", 4, [1005, 1006]),
    ]


def test_a_file_with_another_wrong_word_in_every_line_is_not_listed_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.jsonl"
    words = [f"{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(500)]
    path.write_bytes(batch_of(1) + jsonl([request(f"id-{word}") | {"url": word} for word in words]))
    status, said = checked(capsys, path)
    assert status == 1 and len(said) < 110, len(said)
    assert f"{path}: … and 399 lines more with this fault, first 103, 104, 105" in said


UNNAMED = "engine.model is not set: name the model to serve, with --model or [engine] model = … in the settings"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((), f": {UNNAMED}"),
        (("--model", "nobody/nothing"), ": nobody/nothing is not on this host: fetch it with"),
        (("--model", "/nowhere"), ": there is nothing of that name"),
    ],
)
def test_where_vllm_cannot_be_asked_it_says_so_and_why_and_the_form_decides(
    flags: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(batch_of(2))
    status, said = checked(capsys, path, *flags)
    assert (status, said[0]) == (0, f"{path}: 2 of 2 requests can run")
    assert said[1].startswith(f"{path}: what vLLM would refuse is not known: ") and why in said[1]
    status, [line] = checked(capsys, path, *flags, "--json")
    told = orjson.loads(line)
    assert (status, told["vllm"], said[1]) == (0, [], f"{path}: {told['unknown']}")
    path.write_bytes(batch_of(2) + b"{\n")
    assert checked(capsys, path, *flags)[0] == 1
    assert checked(capsys, path, *flags, "--form")[1][1:] == [f"{path}: 2 of 3 requests can run"]


def test_what_ollama_calls_a_model_is_its_name_here_and_check_says_what_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, flags = tmp_path / "b.jsonl", ("--form", "--model", "Qwen/Qwen3-8B")
    names = ["qwen3:8b-q4_K_M", "Qwen/Qwen3-8B", "qwen3:8b-q4_K_M", "qwen3:8b"]
    path.write_bytes(jsonl([request(f"id-{at}", model=name) for at, name in enumerate(names)]))
    status, said = checked(capsys, path, *flags)
    of_ollama = "Ollama's name of a model: Qwen/Qwen3-8B answers, with its weights as configured"
    assert status == 0 and said == [
        f"{path}: warning: 2 requests ask for 'qwen3:8b-q4_K_M', {of_ollama}",
        f"{path}: warning: 1 request asks for 'qwen3:8b', {of_ollama}",
        f"{path}: 4 of 4 requests can run",
    ]


def test_a_model_of_no_table_is_said_where_it_may_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flags = tmp_path / "b.jsonl", ("--form", "--model", "Qwen/Qwen3-8B")
    path.write_bytes(jsonl([request("a", model="org/x")]))
    assert checked(capsys, path, *flags)[0] == 1
    monkeypatch.setenv("INBOX_DAEMON_MODELS__ALLOW_ANY", "true")
    status, said = checked(capsys, path, *flags)
    asks = "1 request asks for 'org/x', which has no table: it is loaded as [engine] says (models.allow_any)"
    assert (status, said[0]) == (0, f"{path}: warning: {asks}")
