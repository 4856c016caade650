"""etc/examples: each page can be followed from top to bottom, and its settings are settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import sshd
from engines import LOADED
from running import ROOT, Daemon, jsonl, proven
from running import request as ask

from inbox_daemon import config
from inbox_daemon.config.models import configured

Start = Callable[..., Daemon]
THREE = ROOT / "etc" / "examples" / "three-models"
SENT = {"sample": ("sample@qwen", "sample@gemma", "sample@llama"), "all": ("all@gemma",)}
REAL = ("Qwen/Qwen3-4B-Instruct-2507", "google/gemma-3-4b-it", "meta-llama/Llama-3.2-3B-Instruct")

# What stands between the page and this machine: the program of this checkout, this spool, and a host that is this one.
AS_HERE = """
set -eu -o pipefail
inbox-daemon() {{
    local verb=$1
    shift
    "{python}" -m inbox_daemon "$verb" "$@" --config "{config}" --spool "{spool}"
}}
scp() {{ command scp -q -F "{ssh}" "$@"; }}
export RSYNC_RSH="ssh -F {ssh}"
"""


def commands(page: Path) -> Iterator[str]:
    """The blocks of a page that its reader runs as they stand, in order."""
    yield from re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_settings_for_three_models_are_settings() -> None:
    read = config.load(THREE / "config.toml", {}, {})
    assert [model.name for model in configured(read)] == list(REAL)
    assert [model.aliases for model in configured(read)] == [(), ("gemma",), ("llama",)]


@pytest.mark.upload
@pytest.mark.parametrize("kind", ["null", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.long])])
@pytest.mark.timeout(1200)
def test_the_page_for_three_models_can_be_followed_from_top_to_bottom(
    start_daemon: Start, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    tiny = request.getfixturevalue("tiny_model")
    settings = (THREE / "config.toml").read_text().replace(f'"{REAL[0]}"', f'"{tiny}"')
    for name in REAL[1:]:
        settings = settings.replace(f'[model."{name}"]', f'[model."{name}"]\npath = "{tiny}"')
    settings = settings.replace("limit_mm_per_prompt = {image = 0}", "")  # the tiny model sees no pictures
    settings = settings.replace("max_model_len = 8192", "max_model_len = 4096\nenforce_eager = true")
    settings = settings.replace("[engine]\n", f'[engine]\nkind = "{kind}"\n')
    written = tmp_path / "config.toml"
    written.write_text(settings + "\n[inbox]\nsettle = 0.2\n")
    daemon = start_daemon(arguments=["--config", str(written)], kind=kind)
    for name, count in (("sample", 40), ("all", 200)):
        asked = [ask(f"c{n}", f"candidate {n}: yes or no?") for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(asked))
    labels = "".join(f"c{n},{'yes' if n % 2 else 'no'}\n" for n in range(40))
    (tmp_path / "labels.csv").write_text(f"custom_id,label\n{labels}")
    (tmp_path / "ssh").mkdir()
    with sshd.serving(tmp_path / "ssh") as server:
        here = AS_HERE.format(python=sys.executable, config=written, spool=daemon.spool, ssh=server.config)
        for block in commands(THREE / "README.md"):
            if kind == "null" and "judge" in block:
                continue  # it gives every model's answer alike, and there is nothing to judge
            done = subprocess.run(
                ["bash", "-c", here + block.replace("SPOOL", str(daemon.spool))],
                cwd=tmp_path, capture_output=True, text=True, check=False, timeout=LOADED,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            for name in SENT.get(next(iter(re.findall(r"scp (\w+)", block)), ""), ()):
                daemon.finished(name, LOADED)  # the reader comes back when they are done
    assert (tmp_path / "compare.html").stat().st_size > 10_000
    proven(daemon, "all@gemma", tmp_path / "all.jsonl")
    receipt = orjson.loads((tmp_path / "all" / "receipt.json").read_bytes())
    assert receipt["answers"] == 200
    assert {engine["model"] for engine in receipt["engines"]} == {REAL[1]}
