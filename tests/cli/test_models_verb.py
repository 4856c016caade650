"""`inbox-daemon models`: what is said of each configured model, whether all is well with it, and how it gets here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hubs
import orjson
import pytest
import said

from inbox_daemon import cli, config
from inbox_daemon.cli.models import checking, chosen, pulling
from inbox_daemon.cli.models.checking import Known, Part
from inbox_daemon.cli.preflight import Finding, Verdict
from inbox_daemon.config.models import Model
from inbox_daemon.hub.answers import Had, Seen
from inbox_daemon.hub.asking import Asked, parts_of

KNOWN = Known("0.32.0", own=["Qwen3ForCausalLM", "BertModel"], by_transformers=["OddForCausalLM"])
SETTINGS = """
[engine]
model = "Qwen/Qwen3-4B"
[models.aliases]
"gpt-4o-mini" = "org/small"
[model."org/small"]
path = "{folder}"
aliases = ["small"]
adapters = {{ screening = "/srv/screening", triage = "org/triage" }}
args = {{ revision = "v2" }}
"""


def put(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return folder


def model(**args: Any) -> Model:
    engine = config.build({"engine": {"model": "org/m", "args": args}}, "test").engine
    return Model("org/m", engine, front=True)


def seen(architecture: str = "Qwen3ForCausalLM", **changed: Any) -> Seen:
    return replace(Seen(Had.CACHED, config={"architectures": [architecture]}, template=True, licence="mit"), **changed)


def worst(found: list[Finding]) -> Finding:
    return next((one for one in found if one.verdict is Verdict.WRONG), found[0])


def test_a_name_is_a_configured_model_by_whatever_it_is_called_or_else_what_vllm_would_take(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(SETTINGS.format(folder="/srv/small"))
    read = config.load(path, {}, {})
    assert [one.name for one in chosen(read, [])] == ["Qwen/Qwen3-4B", "org/small"]
    for name in ("org/small", "small", "gpt-4o-mini", "/srv/small"):
        (found,) = chosen(read, [name])
        assert (found.name, found.engine.model) == ("org/small", "/srv/small"), name
    assert chosen(read, ["Qwen3-4B"])[0].name == "Qwen/Qwen3-4B", "as in NAME@Qwen3-4B.jsonl"
    (other,) = chosen(read, ["org/other"])
    assert (other.name, other.engine.model, dict(other.engine.args)) == ("org/other", "org/other", {})
    small = chosen(read, ["small"])[0].engine
    assert parts_of(small.model, small.arguments) == [
        Asked("/srv/small", "v2"),
        Asked("/srv/screening"),
        Asked("org/triage"),
    ]


@pytest.mark.parametrize(
    ("found", "args", "verdict", "words"),
    [
        (seen(), {}, Verdict.RIGHT, "licence: mit"),
        (seen("NoSuchForCausalLM"), {}, Verdict.WRONG, "vLLM 0.32.0 has no code for it; take a newer vLLM"),
        (seen(template=False), {}, Verdict.WRONG, "a base model; did you mean m-Instruct or m-it?"),
        (seen(template=False), {"chat_template": "/t.jinja"}, Verdict.RIGHT, "licence"),
        (seen("BertModel", template=False), {}, Verdict.RIGHT, "licence"),
        (seen("OddForCausalLM"), {}, Verdict.RIGHT, "licence"),
    ],
)
def test_what_would_cost_every_request_its_answer_is_wrong_before_anything_is_loaded(
    found: Seen, args: dict[str, Any], verdict: Verdict, words: str
) -> None:
    said = worst(list(checking.about(model(**args), found, KNOWN)))
    assert said.verdict is verdict and words in said.sentence


@pytest.mark.parametrize(
    ("adapter", "args", "verdict", "words"),
    [
        ({"r": 12, "base_model_name_or_path": "org/m"}, {}, Verdict.RIGHT, "rank 12, made for org/m"),
        ({"r": 8, "base_model_name_or_path": "/home/me/m"}, {}, Verdict.RIGHT, "rank 8"),
        ({"r": 8, "base_model_name_or_path": "org/other"}, {}, Verdict.UNKNOWN, "made for org/other; is that org/m?"),
        ({"r": 8, "rank_pattern": {"q": 64}}, {"max_lora_rank": 16}, Verdict.WRONG, "rank 64, and max_lora_rank = 16"),
        ({}, {}, Verdict.WRONG, "says no rank (r)"),
        ({"r": "many"}, {}, Verdict.WRONG, "says no rank (r)"),
    ],
)
def test_an_adapter_is_held_against_its_model_by_rank_and_base(
    adapter: dict[str, Any], args: dict[str, Any], verdict: Verdict, words: str
) -> None:
    part = Part("a", Seen(Had.FOLDER, adapter=adapter), Finding(Verdict.RIGHT, ""))
    found = checking.fits(part, model(**args))
    assert found.verdict is verdict and words in found.sentence


def test_all_that_is_to_be_fetched_must_find_room_together(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    half = Part(
        "a", Seen(Had.OFFERED, store=str(tmp_path / "hub/m"), to_fetch=free * 6 // 10), Finding(Verdict.RIGHT, "")
    )
    assert [one.verdict for one in checking.room([half])] == [Verdict.RIGHT]
    assert [one.verdict for one in checking.room([half, half])] == [Verdict.NOT_NOW]


def test_the_list_has_of_each_model_its_files_its_size_and_what_its_engines_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    folder = put(tmp_path / "small", config__json=shape, model__safetensors=b"x" * 2048)
    (tmp_path / "c.toml").write_text(
        f"[engine]\nmodel = '{folder}'\n[model.other]\npath = '{tmp_path}/gone'\naliases = ['it']\n"
        "[models.aliases]\nthat = 'other'\n"
    )
    daemon = said.daemon(
        engines=[said.engine(1, model=str(folder)), said.engine(2, model=str(folder), state="loading")]
    )
    put(tmp_path / "spool/daemons", one__json=daemon)
    where = ["--config", str(tmp_path / "c.toml"), "--spool", str(tmp_path / "spool")]
    assert cli.main(["models", *where]) == 0
    shown = capsys.readouterr().out
    assert "1 ready, 1 loading" in shown and "2.0 kB" in shown and f"other{' ' * 2}" in shown and "it" in shown
    assert cli.main(["models", "--json", *where]) == 0
    first, second = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert (first["name"], first["front"], first["had"], first["folder"]) == (str(folder), True, "folder", str(folder))
    assert (first["weights_bytes"], first["kv_bytes_per_token"]) == (2048, 2 * 2 * 2 * 16 * 2)
    assert first["engines"] == ["ready", "loading"]
    assert (second["name"], second["aliases"]) == ("other", ["it", "that"])
    assert (second["had"], second["folder"]) == ("not here", None)


@pytest.mark.slow
def test_pull_says_what_it_would_fetch_then_fetches_it_with_a_line_each_tenth_and_the_next_time_nothing(
    tmp_path: Path,
) -> None:
    whole = {"config.json": b"{}", "model.safetensors": os.urandom(40 << 20)}
    gated = frozenset({"org/gated"})
    with hubs.serving({"org/m": whole, "org/gated": whole}, gated) as hub:
        environment = os.environ | hub.environment(tmp_path / "home")

        def pull(*flags: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "inbox_daemon", "models", "pull", *flags]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        dry = pull("org/m", "org/gated", "--dry-run")
        assert dry.returncode == 1, "one of them cannot be had"
        assert "org/m: 2 files, 41.9 MB to fetch into" in dry.stdout and "there is room for it" in dry.stdout
        assert "org/gated needs a licence and a token" in dry.stderr
        assert not (tmp_path / "home/hub").exists()
        fetched = pull("org/m")
        assert fetched.returncode == 0, fetched.stderr
        *_, last, end = fetched.stdout.splitlines()
        assert last == "org/m: 100 %, 41.9 MB" and end.startswith("org/m is in this host's cache, ")
        hub.asked.clear()
        again = pull("org/m")
    assert (again.returncode, again.stdout[:30]) == (0, "org/m: all of it is here, " + end.partition(", ")[2][:4])
    assert not [one for one in hub.asked if one.startswith("GET /org/")]


def test_a_pull_without_room_says_how_much_is_lacking_and_fetches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = Seen(Had.OFFERED, store=str(tmp_path / "hub/m"), files={"model.safetensors": 1 << 60}, to_fetch=1 << 60)
    monkeypatch.setattr(pulling.asking, "look", lambda _: [offered])
    assert pulling.pull([Asked("org/m")], dry_run=False) == 1
    assert "no room" in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()


@pytest.mark.vllm
@pytest.mark.long
def test_check_asks_the_vllm_that_is_installed_whether_it_knows_the_architectures(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = orjson.loads((tiny_model / "config.json").read_bytes()) | {"architectures": ["NoSuchForCausalLM"]}
    unknown = put(tmp_path / "unknown", config__json=described, model__safetensors=b"x")
    adapter = put(tmp_path / "adapter", adapter_config__json={"r": 4, "base_model_name_or_path": str(tiny_model)})
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "c.toml").write_text(
        f"[engine]\nmodel = '{tiny_model}'\n[engine.args]\nlora_modules = ['it={adapter}', 'gone=/no/where']\n"
    )
    assert cli.main(["models", "check", str(tiny_model), str(unknown), "--config", str(tmp_path / "c.toml")]) == 78
    shown = capsys.readouterr().out
    assert "config.json: Qwen3ForCausalLM, which vLLM 0." in shown
    assert f"adapter {adapter}: rank 4, made for {tiny_model}" in shown
    wrong = [line for line in shown.splitlines() if line.startswith("  wrong")]
    assert ["there is nothing of that name" in wrong[0], "has no code for it" in wrong[1]] == [True, True]
    assert len(wrong) == 3, "its template, too"
