"""tools/fix_batch_model_names.py, run as users run it; its line rewriting also under generated requests."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT

TOOL = ROOT / "tools" / "fix_batch_model_names.py"
SERVED = "Qwen/Qwen3-8B"


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, words)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)


def fix(*words: str | Path) -> str:
    """Run the tool, which must succeed, and return what it printed."""
    result = run(*words)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refuse(*words: str | Path) -> str:
    """Run the tool, which must refuse without writing, and return its message."""
    folder = Path(words[-1]).parent
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    result = run(*words)
    assert (result.returncode, result.stdout) == (1, "")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return result.stderr


def request(model: object, number: int = 1) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Grüße"}]}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def batch(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def models_of(path: Path) -> list[str]:
    return [json.loads(line)["body"]["model"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_ollama_names_become_hugging_face_names_and_those_stay(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", *map(request, ["llama3.2:3b", "qwen3", SERVED, "llama3.2:3b"]))
    printed = fix(source, tmp_path / "out.jsonl")
    assert models_of(tmp_path / "out.jsonl") == [
        "meta-llama/Llama-3.2-3B-Instruct",
        SERVED,
        SERVED,
        "meta-llama/Llama-3.2-3B-Instruct",
    ]
    assert printed.splitlines() == [
        "llama3.2:3b -> meta-llama/Llama-3.2-3B-Instruct: 2 requests",
        "qwen3 -> Qwen/Qwen3-8B: 1 request",
        "Qwen/Qwen3-8B: 1 request, unchanged",
        f"written: {tmp_path / 'out.jsonl'}",
    ]


def test_a_model_given_is_set_in_every_request_whatever_it_named(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", *map(request, ["no such model", "qwen3", SERVED]))
    fix(source, tmp_path / "out.jsonl", SERVED)
    assert models_of(tmp_path / "out.jsonl") == [SERVED] * 3


def test_an_ambiguous_tag_is_rewritten_with_a_note(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3:4b"))
    assert "\n    note: qwen3:4b was Qwen/Qwen3-4B until August 2025" in fix(source, tmp_path / "out.jsonl")
    assert "note" not in fix(source, tmp_path / "other.jsonl", SERVED)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_unknown_names_are_listed_with_count_and_first_line_and_nothing_is_written(
    tmp_path: Path, options: list[str]
) -> None:
    source = batch(tmp_path / "in.jsonl", *map(request, ["qwen3", "llama3.2:7b", "gpt-5", "llama3.2:7b"]))
    message = refuse(*options, source, tmp_path / "out.jsonl")
    assert "2 of its model names have no Hugging Face name" in message
    assert '"llama3.2:7b" is not a model name known here; close to it: llama3.2:3b' in message
    assert "2 requests, first at line 2" in message
    assert '"gpt-5"' in message
    assert "1 request, first at line 3" in message
    assert "qwen3" not in message
    assert refuse(*options, "--in-place", source) == message


def test_dry_run_shows_the_counts_and_writes_nothing(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"), request("qwen3"))
    before = source.read_bytes()
    for words in ([source], [source, tmp_path / "out.jsonl"], ["--in-place", source]):
        assert fix("--dry-run", *words) == "qwen3 -> Qwen/Qwen3-8B: 2 requests\ndry run: nothing was written\n"
    assert fix(source, tmp_path / "new.jsonl", SERVED, "--dry-run").startswith("qwen3 -> Qwen/Qwen3-8B: 2 requests\n")
    assert (list(tmp_path.iterdir()), source.read_bytes()) == ([source], before)


def test_lines_that_are_not_requests_pass_through_and_are_counted(tmp_path: Path) -> None:
    odd = ["", "{broken", "[1, 2]", '{"custom_id": "a"}', '{"body": [1]}', request(7), '{"body": {"n": 1}}', " "]
    source = batch(tmp_path / "in.jsonl", *odd, request("qwen3"))
    printed = fix(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[:-1] == odd
    assert "left as they are: 5 lines that are not requests, first at line 2" in printed
    assert "left as they are: 1 requests that name no model, first at line 7" in printed


def test_a_byte_order_mark_hides_no_request_and_stays(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", "\ufeff" + request("qwen3"), request("qwen3"))
    assert "qwen3 -> Qwen/Qwen3-8B: 2 requests" in fix(source, tmp_path / "out.jsonl")
    expected = batch(tmp_path / "expected.jsonl", "\ufeff" + request("Qwen/Qwen3-8B"), request("Qwen/Qwen3-8B"))
    assert (tmp_path / "out.jsonl").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x1f\x8b\x08\x00junk\n", b'{"custom_id": "a"}\n'])
def test_a_file_without_a_request_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(content)
    assert "holds no batch request" in refuse(source, tmp_path / "out.jsonl")


def test_only_the_models_name_changes_in_a_line(tmp_path: Path) -> None:
    line = (
        '{ "custom_id":"a" , "metadata":{"model":"qwen3"},"n":123456789012345678901234567890, "x": 1.10, "x": 1e2,\t'
        '"body": {"prompt":"the \\"model\\": \\"qwen3\\" \\u00fc é","model" : "qwen3", "tools":[{"model":"qwen3"}]} }%s'
    )
    source = tmp_path / "in.jsonl"
    source.write_bytes((line % "\r\n" + line % "").encode())  # the last line has no newline
    fix(source, tmp_path / "out.jsonl", "new/näme\"'\\")
    changed = line.replace('"model" : "qwen3"', '"model" : "new/näme\\"\'\\\\"')
    assert (tmp_path / "out.jsonl").read_bytes().decode() == changed % "\r\n" + changed % ""


def test_a_model_spelled_with_escapes_is_rewritten_too(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", '{"body": {"b": 1, "mod\\u0065l": "qwen\\u0033", "a": 2}}')
    fix(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == '{"body":{"b":1,"model":"Qwen/Qwen3-8B","a":2}}\n'


def test_in_place_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    source.chmod(0o604)
    inode = source.stat().st_ino
    fix("--in-place", source)
    assert models_of(source) == [SERVED]
    assert source.stat().st_mode & 0o7777 == 0o604
    assert source.stat().st_ino != inode
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_in_place_by_root_leaves_the_file_to_its_owner(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    os.chown(source, 12345, 23456)
    fix("--in-place", source, SERVED)
    assert (source.stat().st_uid, source.stat().st_gid) == (12345, 23456)


def test_in_place_through_a_link_replaces_the_file_it_leads_to(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    link = tmp_path / "link.jsonl"
    link.symlink_to("in.jsonl")
    fix("--in-place", link)
    assert link.is_symlink()
    assert models_of(source) == [SERVED]


@pytest.mark.parametrize("named", ["in.jsonl", "link.jsonl"])
def test_in_place_with_nothing_to_change_leaves_the_file_alone(tmp_path: Path, named: str) -> None:
    source = batch(tmp_path / "in.jsonl", request(SERVED))
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    before = source.stat().st_ino, source.stat().st_mtime_ns
    assert fix("--in-place", tmp_path / named).endswith(f"nothing to change: {source} stays as it is\n")
    assert (source.stat().st_ino, source.stat().st_mtime_ns) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "link.jsonl"]


def test_a_new_file_gets_the_mode_that_any_new_file_would(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    fix(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").stat().st_mode == source.stat().st_mode


def test_an_existing_out_is_replaced_only_by_force(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    out = batch(tmp_path / "out.jsonl", "precious")
    assert "exists already" in refuse(source, out)
    fix("--force", source, out)
    assert models_of(out) == [SERVED]


@pytest.mark.parametrize("same", ["in.jsonl", "./in.jsonl", "link.jsonl", "hard.jsonl"])
@pytest.mark.parametrize("options", [[], ["--force"]])
def test_out_must_not_be_in(tmp_path: Path, same: str, options: list[str]) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    assert "say --in-place to replace it" in refuse(*options, source, f"{tmp_path}/{same}")


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", request("qwen3"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is not a file" in refuse("--force", source, pipe)
    assert "is not a file" in refuse("--in-place", pipe)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["missing.jsonl", "out.jsonl"], "missing.jsonl: No such file or directory"),
        (["--in-place", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["in.jsonl", "nowhere/out.jsonl"], "nowhere/out.jsonl: its folder does not exist"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_cause(tmp_path: Path, words: list[str], cause: str) -> None:
    batch(tmp_path / "in.jsonl", request("qwen3"))
    result = run(*(word if word.startswith("--") else tmp_path / word for word in words))
    assert (result.returncode, result.stdout) == (1, "")
    assert cause in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    "words", [["in"], ["in", "out", "m", "more"], ["--in-place", "in", "m", "x"], ["in", "o", " "]]
)
def test_wrong_use_exits_2_with_the_usage(words: list[str]) -> None:
    result = run(*words)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: fix_batch_model_names.py")


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", *[request("qwen3")] * 1000)
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "bash", *command(source, tmp_path / "out.jsonl")]
    result = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert f"{tmp_path / 'out.jsonl'}: File too large" in result.stderr
    assert list(tmp_path.iterdir()) == [source]


def writing(*words: str | Path, folder: Path) -> subprocess.Popen[str]:
    """Start the tool and return it stopped, with a part of the new file written."""
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    begun = False
    while not begun:
        assert time.monotonic() < deadline
        assert process.poll() is None
        with suppress(FileNotFoundError):
            begun = any(path.name.startswith(".") and path.stat().st_size for path in folder.iterdir())
    process.send_signal(signal.SIGSTOP)
    return process


@pytest.mark.parametrize("where", ["in place", "to out"])
def test_killed_while_writing_it_leaves_in_whole_and_no_out(tmp_path: Path, where: str) -> None:
    source = batch(tmp_path / "in.jsonl", *[request("qwen3")] * 400_000)
    before = source.read_bytes()
    words = ["--in-place", source] if where == "in place" else [source, tmp_path / "out.jsonl"]
    with writing(*words, folder=tmp_path) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert source.read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_in_place_never_loses_what_another_process_appends_meanwhile(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", *[request("qwen3")] * 400_000)
    before = source.read_bytes()
    with writing("--in-place", source, folder=tmp_path) as process:
        with source.open("ab") as appended:
            appended.write(b"late\n")
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{source}: changed while it was read" in errors
    assert source.read_bytes() == before + b"late\n"
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source = batch(tmp_path / "in.jsonl", *[request("qwen3") + " " * 1000] * 90_000)
    limit = 80 << 20
    assert source.stat().st_size > limit
    limited = ["bash", "-c", f'ulimit -v {limit >> 10}; exec "$@"', "bash", *command("--in-place", source)]
    result = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "qwen3 -> Qwen/Qwen3-8B: 90,000 requests" in result.stdout


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fix_batch_model_names", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load_tool()

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["model", "body", 'a "model": "qwen3"', "qwen3", '\\"model\\":\\"qwen3\\"']
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)


@given(OBJECTS, OBJECTS, OBJECTS, TEXTS, TEXTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_whatever_a_request_holds_only_its_model_changes(
    before: dict[str, object],
    body: dict[str, object],
    after: dict[str, object],
    old: str,
    new: str,
    escaped: bool,
    indent: int | str | None,
) -> None:
    value = {**before, "body": {**body, "model": old}, **{key: after[key] for key in after if key != "body"}}
    line = json.dumps(value, ensure_ascii=escaped, indent=indent).replace("\n", " ").encode() + b"\n"
    summary = tool.Summary()
    [result] = tool.rewritten([line], lambda _: new, summary)
    assert summary.models == {(old, new): 1}
    expected = orjson.loads(line)
    expected["body"]["model"] = new
    assert orjson.loads(result) == expected
    assert list(orjson.loads(result)) == list(expected)
    assert list(orjson.loads(result)["body"]) == list(expected["body"])
    if old == new:
        assert result == line
    else:
        name = json.dumps(old, ensure_ascii=escaped).encode()
        assert len(result) - len(line) == len(orjson.dumps(new)) - len(name)
