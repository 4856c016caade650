"""A file's name that says which model answers, and what of it comes true where several models or daemons are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Daemon, batch_of, custom_ids, eventually, jsonl, lines, proven, request

from inbox_daemon import cli
from inbox_daemon.config import build
from inbox_daemon.layout import batch_name
from inbox_daemon.request.named import doubt, said_by, saying, slug_of, slugs
from inbox_daemon.request.reading import Reading, rules_of

Start = Callable[..., Daemon]
MEANT = {
    "Qwen/Qwen3-4B": "qwen",
    "qwen": "qwen",
    "google/gemma-3-4b-it": "gemma",
    "screening": "screening",
    "one/same": "one",
    "two/same": "two",
    "gpt 4o:mini": "qwen",
}
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("x@qwen.jsonl", "qwen"),
        ("x@qwen.2.jsonl", "qwen"),
        ("x@gemma-3-4b-it.jsonl.gz", "gemma"),
        ("x@google--gemma-3-4b-it.jsonl", "gemma"),
        ("x@screening.jsonl", "screening"),
        ("me@home@qwen.jsonl", "qwen"),
        ("x@gpt-4o-mini.jsonl", "qwen"),
        ("x@one--same.jsonl", "one"),
        ("x@same.jsonl", None),
        ("x@gemmma.jsonl", None),
        ("x@.jsonl", None),
        ("qwen.jsonl", None),
        ("qwen@x.jsonl", None),
    ],
)
def test_what_follows_the_last_at_says_the_model_by_its_slug(file: str, expected: str | None) -> None:
    known = slugs(MEANT)
    said = said_by(file, known)
    assert (known[said] if said else None) == expected


def test_a_misspelt_model_is_named_with_what_comes_close_and_any_other_at_is_not() -> None:
    assert "'gemma-3-4b-itt'" in (told := doubt("x@gemma-3-4b-itt.jsonl", slugs(MEANT)) or "")
    assert "close to it: gemma-3-4b-it. " in told
    assert doubt("x@qwen.jsonl", slugs(MEANT)) is None
    assert doubt("report@2026-11-28.jsonl", slugs(MEANT)) is None
    assert doubt("x@gemmma.jsonl", []) is None


@given(models=st.dictionaries(NAMES, NAMES, max_size=6), stem=NAMES, suffix=st.sampled_from([".jsonl", ".jsonl.zst"]))
def test_a_name_made_to_say_a_model_says_that_model(models: dict[str, str], stem: str, suffix: str) -> None:
    known = slugs(models)
    for name, model in models.items():
        slug = slug_of(name, models)
        if slug is None:  # another model has every slug that it could have
            continue
        file = saying(f"{stem}{suffix}", slug)
        assert known[said_by(file, known) or ""] == model
        assert said_by(f"{file.removesuffix(suffix)}.2{suffix}", known) == slug
        assert batch_name(file).endswith(f"@{slug}") or len(slug) > 100


def test_all_of_a_file_whose_name_says_a_model_is_for_that_model() -> None:
    tables = {"org/a": {}, "org/b": {"aliases": ["b"], "adapters": {"extra": "/srv/extra"}}}
    rules = rules_of(build({"engine": {"kind": "vllm", "model": "org/a"}, "model": tables}, "test"))
    asked = jsonl([request("0", model="org/a"), request("1"), request("2", model="nobody's")])
    for file, models, faults in (
        ("x.jsonl", ["org/a", ""], 1),
        ("x@b.jsonl", ["org/b"], 0),
        ("x@a.2.jsonl", ["org/a"], 0),
        ("x@extra.jsonl", ["extra"], 0),
    ):
        reading = Reading(rules, lambda offset, end: b"", file)
        found = [*reading.feed(asked), *reading.finish()]
        assert ([*reading.models], sum(one is not None for one in found)) == (models, faults), file
        assert reading.named == ("" if "@" not in file else file.partition("@")[2].split(".")[0])


@pytest.mark.slow
def test_a_file_goes_to_the_daemon_whose_model_its_name_says_and_so_does_its_retry(start_daemon: Start) -> None:
    named = lambda model, **more: {"INBOX_DAEMON_ENGINE__MODEL": model, **more}  # noqa: E731
    one = start_daemon(environment=named("org/a"))
    two = start_daemon(environment=named("org/b", INBOX_DAEMON_ENGINE__NULL__RATE="20"))
    eventually(lambda: len(list((one.spool / "daemons").glob("*.json"))) == 2, 10)
    asked = batch_of(60, model="whatever/it-says")
    one.drop("x@a.jsonl", asked)
    one.drop("x@b.jsonl", asked)
    assert one.finished("x@a")["request_counts"]["completed"] == 60
    eventually(lambda: two.done("x@b"))
    (two.inbox / "x@b.cancel").touch()
    two.finished("x@b")
    receipts = [orjson.loads((one.outbox(name) / "receipt.json").read_bytes()) for name in ("x@a", "x@b")]
    assert receipts[0]["input"]["sha256"] == receipts[1]["input"]["sha256"]
    assert [receipt["input"]["model_from"] for receipt in receipts] == ["name", "name"]
    assert [{engine["model"] for engine in receipt["engines"]} for receipt in receipts] == [{"org/a"}, {"org/b"}]
    retry = two.outbox("x@b") / "retry@b.jsonl"
    assert custom_ids(retry) and not (two.outbox("x@b") / "retry.jsonl").exists()
    proven(two, "x@b")
    two.drop(retry.name, retry.read_bytes())
    assert two.finished("retry@b")["request_counts"]["failed"] == 0
    assert "retry@b: claimed" in two.text()


@pytest.mark.slow
def test_a_misspelt_name_is_run_as_its_lines_say_with_a_warning_where_people_look(
    start_daemon: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = start_daemon(environment={"INBOX_DAEMON_ENGINE__MODEL": "org/gemma"})
    file = tmp_path / "x@gemmma.jsonl"
    file.write_bytes(batch_of(3))
    assert cli.main(["check", str(file), "--model", "org/gemma"]) == 0
    assert "warning: 'gemmma', after the @" in capsys.readouterr().out
    daemon.drop(file.name, file.read_bytes())
    daemon.finished("x@gemmma")
    assert "close to it: gemma" in daemon.status("x@gemmma")["warnings"][0]
    assert "x@gemmma: 'gemmma', after the @" in daemon.text()


@pytest.mark.slow
def test_submit_drops_a_copy_for_each_model_and_none_where_one_is_not_known(
    start_daemon: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = '[model."org/a"]\n[model."org/b"]\naliases = ["bee"]\n'
    daemon = start_daemon(settings=models)
    file = tmp_path / "file.jsonl"
    file.write_bytes(batch_of(2, model="another"))
    where = ["submit", str(file), "--spool", str(daemon.spool), "--config", str(daemon.log.with_suffix(".toml"))]
    assert cli.main([*where, "--model", "a", "--model", "gemma"]) == 1
    assert "no model here is called so; there are: bee, org/a, org/b" in capsys.readouterr().err
    assert not list((daemon.spool / "outbox").iterdir())
    assert cli.main([*where, "--model", "org/a", "--model", "a", "--model", "bee"]) == 0
    assert capsys.readouterr().out.split() == ["file@a", "file@bee"]
    assert daemon.finished("file@a")["request_counts"]["completed"] == 2
    assert lines(daemon.outbox("file@a") / "results.jsonl")
